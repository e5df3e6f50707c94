"""``stem revokes show``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from stem_kombu.bound import bounds_of, is_bound
from stem_kombu.clock import isoformat
from stem_kombu.control.client.revocations import RevocationClient, RevocationView
from stem_kombu_cli import exit_codes
from stem_kombu_cli.bounds import in_words
from stem_kombu_cli.options import TEXT, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, shown


@click.command(epilog="Example:  stem revokes show 1761057 --json")
@click.argument("task_id", type=TEXT, metavar="ID")
@place_options
@output_options
@click.pass_context
def show(ctx: click.Context, /, task_id: str, **values: object) -> None:
    """Show what is known of the revocation of task ID: whether it is in force, who requested it and why, whether it was undone,
    and its entries in the audit.

    Exit code 4: it is not revoked, and nothing is known of an earlier revocation.
    """
    as_json = wants_json(values)
    with RevocationClient(places_of(values).settings()) as client:
        view = client.show(task_id)
    if as_json:
        print_json(view.to_dict())
    else:
        for line in _lines(view):
            emit(shown(line))
    known = view.revocation is not None or view.undone is not None or bool(view.entries)
    if not known:
        note(f"task {task_id!r} is not revoked in this namespace")
    ctx.exit(exit_codes.OK if known else exit_codes.NOTHING_MATCHED)


def _lines(view: RevocationView) -> Iterator[str]:
    record = view.revocation
    if record is not None:
        until = "for good" if record.expires_at is None else f"until {isoformat(record.expires_at)}"
        yield f"in force: version {record.version}, issued {isoformat(record.issued_at)}, {until}"
        yield f"terminate: {'yes' if record.terminate else 'no'}"
        yield from (f"bound: {in_words(bound)}" for bound in bounds_of(record))
        yield f"by: {record.requested_by or '-'}"
        yield f"reason: {record.reason or '-'}"
        if proofs := [proof for proof in record.proofs if not is_bound(proof)]:
            yield f"proofs: {len(proofs)}"
    elif view.undone is not None or view.entries:
        yield "in force: no"
    if view.undone is not None:
        undone = view.undone
        by, why = undone["requested_by"] or "-", undone["reason"] or "-"
        yield f"undone: version {undone['undoes']}, at {undone['undone_at']}, by {by}, reason {why}"
    if view.state is not None:
        yield f"task: {view.state}"
    for entry in view.entries:
        yield f"audit {entry.seq}: {isoformat(entry.at)} {entry.note.action} by {entry.note.requester or '-'}"
