"""``stem queue list``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import click

from stem_kombu.control.client.queues import QueueClient, QueueReport
from stem_kombu_cli import completion, exit_codes
from stem_kombu_cli.directing import show_pauses
from stem_kombu_cli.options import TEXT, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, span, table, use_color
from stem_kombu_cli.watching import repeated, watch_option


@click.command("list", epilog="Example:  stem queue list --json")
@click.argument("queues", type=TEXT, metavar="[QUEUE]...", nargs=-1, shell_complete=completion.queues)
@watch_option
@place_options
@output_options
@click.pass_context
def list_queues(ctx: click.Context, /, queues: Sequence[str], watch: float | None, **values: object) -> None:
    """List the queues that live workers consume, and those that the broker holds beside them.

    A queue without CONSUMERS and with a DEPTH is one that no worker of the namespace reads: a name with a typo, or workers
    that are down. OLDEST is the age of the next message, where its sender wrote the time of sending. Paused queues, and who
    paused them, are listed on stderr. With QUEUE only those queues.
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    with QueueClient(settings) as client:
        for report in repeated(watch, partial(client.states, queues), as_json=as_json):
            show_pauses(settings)
            if as_json:
                print_json(report.to_dict())
                continue
            if report.queues:
                color = use_color(ctx.obj.color)
                emit(text(report, color), color=color)
            else:
                note(f"no queue in namespace {report.namespace!r}")
            for line in report.notes:
                note(f"note: {line}")
    ctx.exit(exit_codes.OK)


def text(report: QueueReport, color: bool) -> str:
    rows = [
        (queue.name, queue.depth, span(queue.oldest), len(queue.consumers), ",".join(queue.consumers))
        for queue in report.queues
    ]
    return table(("QUEUE", "DEPTH", "OLDEST", "CONSUMERS", "WORKERS"), rows, color=color, shrink=4)
