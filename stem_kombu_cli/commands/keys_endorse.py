"""``stem keys endorse``: sign what the store holds already, when a fleet gets its first keys or takes one away."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime

import click

from stem_kombu.bound import Bound, bounds_of, bounds_shown
from stem_kombu.clock import isoformat
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import ConfigurationError
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.signing.keyring import Scope, Untrusted
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu_cli import exit_codes
from stem_kombu_cli.bounds import in_words
from stem_kombu_cli.options import TEXT, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import counted, emit, note, print_json, table, use_color

#: Records signed and stored at a time.
_BATCH = 1000


@click.command(epilog="Example:  stem keys endorse; stem keys endorse --yes --digest 5f0c…")
@click.option("--yes", is_flag=True, help="Sign the list with this --digest; without it the list is only shown.")
@click.option(
    "--digest", type=TEXT, metavar="HEX", help="The digest that was printed with the list that you have read."
)
@click.option(
    "-t", "--task", "tasks", type=TEXT, metavar="ID", multiple=True, help="Only the revocation of this task; repeat it."
)
@click.option("--until", metavar="VERSION", type=click.IntRange(0), help="Only revocations up to this version.")
@place_options
@output_options
@click.pass_context
def endorse(
    ctx: click.Context,
    /,
    yes: bool,
    digest: str | None,
    tasks: Sequence[str],
    until: int | None,
    **values: object,
) -> None:
    """Show the live revocations that workers with these keys refuse, and with --yes and their --digest sign them.

    Run it when a fleet gets its first keys, and before you remove a key that signed revocations which must last. Read the list
    first: any program that can write to the store may have added to it. The digest binds --yes to the list that was shown: when
    the list has changed since, nothing is signed.
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    trust = Verifier.of(settings.signing)
    if trust.keyring is None:
        raise ConfigurationError("signing is not configured", hint="stem keys generate prints what to set")
    trust.require(Scope.OPERATE, "revoke")
    source = settings.revoke_store
    store = open_revoke_store(source.value, name=source.name, tls=settings.tls)
    try:
        now = store.now()
        found = [
            record
            for record in store.load(settings.namespace)
            if (not tasks or record.task_id in tasks) and (until is None or record.version <= until)
            if trust.proven([record], now)[1]
        ]
        listed = digest_of(found)
        signed = yes and digest == listed
        if signed:
            _sign(Revoker(store, settings.namespace, trust), found, now)
    finally:
        store.close()
    if as_json:
        records = [record.to_record() | bounds_shown(record) for record in found]
        document = {"schema": "stem.keys/1", "namespace": settings.namespace, "unbelieved": records, "signed": signed}
        print_json({**document, "digest": listed, "until": max((record.version for record in found), default=0)})
    elif found:
        color = use_color(ctx.obj.color)
        headers = ("TASK", "TERMINATE", "BY", "REASON", "VERSION", "EXPIRES")
        emit(table(headers, [_row(record) for record in found], color=color), color=color)
    if not found:
        note("every live revocation is signed by a key that may revoke" if not tasks else "there is nothing to sign")
    elif signed:
        note(f"signed: {counted(len(found), 'revocation')}")
    else:
        chosen = "".join(f" --task {task}" for task in tasks) + ("" if until is None else f" --until {until}")
        note(f"not in force for workers with these keys: {counted(len(found), 'revocation')}")
        hint = f"to sign exactly these: stem keys endorse{chosen} --yes --digest {listed}"
        if not yes:
            note(f"hint: {hint}")
            ctx.exit(exit_codes.REFUSED)
        wrong = "--yes needs the --digest of the list" if digest is None else "the list is not the one with that digest"
        raise Untrusted("not-confirmed", f"{wrong}; nothing was signed", hint=f"read the list, then: {hint}")


def digest_of(records: Sequence[Revocation]) -> str:
    """The SHA-256 of all that would be signed, in hexadecimal: namespace, task, version, terminate, texts and end of each."""
    stated = sorted(json.dumps(record.to_record() | bounds_shown(record), sort_keys=True) for record in records)
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()


def _sign(revoker: Revoker, found: Sequence[Revocation], now: datetime) -> None:
    by_bound: dict[Bound | None, list[RevocationDraft]] = {}
    for record in found:
        for bound in bounds_of(record) or (None,):
            by_bound.setdefault(bound, []).append(_draft(record, now))
    for bound, drafts in by_bound.items():
        for start in range(0, len(drafts), _BATCH):
            revoker.save(drafts[start : start + _BATCH], bound=bound)


def _draft(record: Revocation, now: datetime) -> RevocationDraft:
    expires_in = (record.expires_at - now).total_seconds() if record.expires_at else None
    return RevocationDraft(record.task_id, record.terminate, record.reason, record.requested_by, expires_in)


def _row(record: Revocation) -> tuple[object, ...]:
    ends = "never" if record.expires_at is None else isoformat(record.expires_at)
    return (
        record.task_id + "".join(f" ({in_words(bound)})" for bound in bounds_of(record)),
        record.terminate,
        record.requested_by,
        record.reason,
        record.version,
        ends,
    )
