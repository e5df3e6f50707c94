"""``stem keys endorse``: sign what the store holds already, when a fleet gets its first keys or takes one away."""

from __future__ import annotations

from typing import Any

import click

from stem_kombu.control.trust import Trust
from stem_kombu.errors import ConfigurationError
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.signing.keyring import Scope
from stem_kombu.signing.proofs import signed_drafts
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu_cli import exit_codes
from stem_kombu_cli.options import output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, table, use_color

#: Records signed and stored at a time.
_BATCH = 1000


@click.command(epilog="Example:  stem keys endorse; stem keys endorse --yes")
@click.option("--yes", is_flag=True, help="Sign them; without it they are only shown.")
@place_options
@output_options
@click.pass_context
def endorse(ctx: click.Context, /, yes: bool, **values: Any) -> None:
    """Show the live revocations that workers with these keys don't believe, and with --yes sign them.

    For the day on which a fleet gets its first keys, and before a key is taken away that signed revocations which must last.
    Read the list first: whoever could write to the store may have put something into it.
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    trust = Trust.of(settings.signing)
    if trust.keyring is None:
        raise ConfigurationError("signing is not configured", hint="stem keys generate prints what to set")
    trust.require(Scope.OPERATE, "revoke")
    source = settings.revoke_store
    store = open_revoke_store(source.value, name=source.name, tls=settings.tls)
    try:
        now = store.now()
        found = [record for record in store.load(settings.namespace) if trust.proven([record], now)[1]]
        drafts = [
            _draft(record, (record.expires_at - now).total_seconds() if record.expires_at else None) for record in found
        ]
        for start in range(0, len(drafts) if yes else 0, _BATCH):
            signed = signed_drafts(drafts[start : start + _BATCH], trust.keyring, namespace=settings.namespace, now=now)
            store.save(settings.namespace, signed)
    finally:
        store.close()
    if as_json:
        records = [record.to_record() for record in found]
        print_json({"schema": "stem.keys/1", "namespace": settings.namespace, "unbelieved": records, "signed": yes})
    elif found:
        color = use_color(ctx.obj.color)
        rows = [(r.task_id, "terminate" if r.terminate else "", r.requested_by, r.reason) for r in found]
        emit(table(("TASK", "", "BY", "REASON"), rows, color=color), color=color)
    if found and not yes:
        note(f"{len(found)} revocations are not in force for workers with these keys; --yes signs them with your key")
        ctx.exit(exit_codes.REFUSED)
    note(
        f"{len(found)} revocations were signed" if found else "every live revocation is signed by a key that may revoke"
    )


def _draft(record: Revocation, expires_in: float | None) -> RevocationDraft:
    return RevocationDraft(record.task_id, record.terminate, record.reason, record.requested_by, expires_in)
