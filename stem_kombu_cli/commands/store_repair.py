"""``stem store repair``: make indexes anew, and move aside what can't be read."""

from __future__ import annotations

import click

from stem_kombu_cli import exit_codes
from stem_kombu_cli.commands.store_check import examined, opened, text
from stem_kombu_cli.options import output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, use_color


@click.command(epilog="Example:  stem store check || stem store repair")
@place_options
@output_options
@click.pass_context
def repair(ctx: click.Context, /, **values: object) -> None:
    """Rebuild the store's indexes, and move records that can't be read to a place of their own; none is thrown away.

    Revoke the tasks of such records again: what was asked for can't be read. Exit code 0 when all is well afterwards, 1 when
    something is still wrong, 74 when the store can't be reached or read at all.
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    with opened(settings) as store:
        done = store.repair(settings.namespace)
        found = examined(store, settings.namespace)
    if as_json:
        print_json({**found, "command": "repair", "done": done})
    else:
        emit(text(found, use_color(ctx.obj.color)))
    for sentence in done:
        note(f"done: {sentence}")
    for problem in found["problems"]:
        note(f"problem: {problem}")
    if not done and found["ok"]:
        note("nothing was wrong")
    ctx.exit(exit_codes.OK if found["ok"] else exit_codes.NO)
