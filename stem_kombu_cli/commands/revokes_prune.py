"""``stem revokes prune``."""

from __future__ import annotations

from functools import partial

import click

from stem_kombu import timeouts
from stem_kombu.control.client.revocations import SCHEMA, RevocationClient
from stem_kombu_cli import exit_codes
from stem_kombu_cli.changing import NOT_AUDITED, change_of, changing_options, confirm, reason_of
from stem_kombu_cli.options import DURATION, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import counted, emit, note, print_json, span


@click.command(epilog="Example:  stem revokes prune --older-than 30d --yes")
@click.option(
    "--older-than",
    type=DURATION,
    default=timeouts.REVOCATION_END_KEPT,
    show_default="7d",
    help="Only records that ended this long ago.",
)
@partial(changing_options, wait=None)
@place_options
@output_options
@click.pass_context
def prune(ctx: click.Context, /, older_than: float, **values: object) -> None:
    """Delete revocations and other control records that ended long ago. Workers do the same by themselves after 7 days.

    A worker that could not read the store for longer than that still obeys what it has read: so don't go below 7 days while a
    worker may be disconnected. In a fleet with keys it needs the scope destroy. Records in force stay.
    """
    as_json = wants_json(values)
    change = change_of(values, as_json=as_json)
    settings = places_of(values).settings()
    reason = reason_of(change, settings)
    with RevocationClient(settings) as client:
        confirm(change, f"this deletes what ended more than {span(older_than)} ago, for good")
        pruned = None
        if not change.dry_run:
            pruned = client.prune(older_than=older_than, requested_by=change.requester, reason=reason)
        audited = client.is_audited
    if as_json:
        document = {"schema": SCHEMA, "pruned": pruned, "older_than_s": older_than, "dry_run": change.dry_run}
        print_json({**document, "audited": audited})
    else:
        what = f"that ended more than {span(older_than)} ago"
        emit(f"would prune: records {what}" if pruned is None else f"pruned: {counted(pruned, 'record')} {what}")
    if not audited:
        note(NOT_AUDITED)
    ctx.exit(exit_codes.OK if audited else exit_codes.PARTIAL)
