"""``stem revokes list``."""

from __future__ import annotations

from datetime import timedelta

import click

from stem_kombu.bound import bounds_of
from stem_kombu.clock import isoformat
from stem_kombu.control.client.revocations import MOST_FOUND, FoundRevocations, RevocationClient
from stem_kombu_cli import exit_codes
from stem_kombu_cli.bounds import in_words
from stem_kombu_cli.options import DURATION, TEXT, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, table, use_color


@click.command("list", epilog="Example:  stem revokes list --requester 'ann@*' --since 1h")
@click.option("--task", type=TEXT, metavar="GLOB", help="Task ids.")
@click.option("--requester", type=TEXT, metavar="GLOB", help="By whom.")
@click.option("--since", type=DURATION, help="Only revocations issued within this long.")
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_FOUND),
    default=1000,
    show_default=True,
    help="At most this many, the newest first.",
)
@place_options
@output_options
@click.pass_context
def list_revokes(
    ctx: click.Context,
    /,
    task: str | None,
    requester: str | None,
    since: float | None,
    limit: int,
    **values: object,
) -> None:
    """List the revocations that are in force, the newest first, from the revoke store; no worker is asked.

    All conditions have to hold. Exit code 4: none matches.
    """
    as_json = wants_json(values)
    span = None if since is None else timedelta(seconds=since)
    with RevocationClient(places_of(values).settings()) as client:
        found = client.find(task=task, requester=requester, since=span, limit=limit)
    if as_json:
        print_json(found.to_dict())
    elif found.revocations:
        color = use_color(ctx.obj.color)
        emit(text(found, color), color=color)
    if not found.matched:
        note(f"no revocation in force matches in namespace {found.namespace!r}")
    elif found.matched > len(found.revocations):
        note(f"note: {found.matched} match; --limit shows more")
    ctx.exit(exit_codes.OK if found.matched else exit_codes.NOTHING_MATCHED)


def text(found: FoundRevocations, color: bool) -> str:
    rows = [
        (
            record.task_id + "".join(f" ({in_words(bound)})" for bound in bounds_of(record)),
            record.version,
            isoformat(record.issued_at),
            "yes" if record.terminate else "no",
            None if record.expires_at is None else isoformat(record.expires_at),
            record.requested_by,
            record.reason,
        )
        for record in found.revocations
    ]
    return table(("TASK", "VERSION", "ISSUED", "TERMINATE", "EXPIRES", "BY", "REASON"), rows, color=color, shrink=6)
