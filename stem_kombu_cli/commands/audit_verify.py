"""``stem audit verify``."""

from __future__ import annotations

import click

from stem_kombu.control.client.audit_log import AuditClient
from stem_kombu_cli import exit_codes
from stem_kombu_cli.options import output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import counted, emit, note, print_json


@click.command(epilog="Example:  stem audit verify --json")
@place_options
@output_options
@click.pass_context
def verify(ctx: click.Context, /, **values: object) -> None:
    """Check that each entry of the audit follows from the one before and, with keys, that each is signed.

    Without keys this finds damage. With keys it finds edits as well: any user of the store can compute a chain again, but not a
    signature. Entries that were cut off at the end leave no trace in the chain: keep the head, and compare. Exit code 1: the
    chain is broken.
    """
    as_json = wants_json(values)
    with AuditClient(places_of(values).settings()) as client:
        found = client.verify()
    if as_json:
        print_json(found.to_dict())
    else:
        for problem in found.problems:
            emit(f"broken: {problem}")
        whole = "broken" if found.problems else "whole"
        span = (
            "no entry"
            if not found.entries
            else f"{counted(found.entries, 'entry', 'entries')}, {found.first} to {found.last}"
        )
        emit(f"{whole}: {span}, {'signed' if found.signed else 'not checked with keys'}, head {found.head or '-'}")
    if found.pruned:
        note(f"note: entries up to {found.pruned} were pruned")
    ctx.exit(exit_codes.NO if found.problems else exit_codes.OK)
