"""``stem queue peek``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from stem_kombu.clock import isoformat
from stem_kombu.control.client.queues import MOST_PEEKED, SCHEMA, QueueClient, WaitingMessage
from stem_kombu_cli import completion, exit_codes
from stem_kombu_cli.options import TEXT, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, span, table, use_color


@click.command(epilog="Example:  stem queue peek mail --limit 5")
@click.argument("queue", type=TEXT, metavar="QUEUE", shell_complete=completion.queues)
@click.option(
    "--limit", type=click.IntRange(1, MOST_PEEKED), default=20, show_default=True, help="At most this many messages."
)
@place_options
@output_options
@click.pass_context
def peek(ctx: click.Context, /, queue: str, limit: int, **values: object) -> None:
    """Show the messages that come next in QUEUE: ids, names and ages, without taking anything.

    Redis and the embedded broker can show them; on other brokers the command says so and ends with 2. Exit code 4: nothing
    waits there.
    """
    as_json = wants_json(values)
    with QueueClient(places_of(values).settings()) as client:
        found = client.peek(queue, limit)
    if as_json:
        print_json({"schema": SCHEMA, "queue": queue, "messages": [message.to_dict() for message in found]})
    elif found:
        color = use_color(ctx.obj.color)
        emit(text(found, color), color=color)
    if not found:
        note(f"nothing waits in queue {queue!r}")
    ctx.exit(exit_codes.OK if found else exit_codes.NOTHING_MATCHED)


def text(found: Sequence[WaitingMessage], color: bool) -> str:
    rows = [
        (
            message.task_id,
            message.name,
            message.attempt,
            span(message.age),
            None if message.eta is None else isoformat(message.eta),
            message.problem,
        )
        for message in found
    ]
    return table(("TASK", "NAME", "ATTEMPT", "AGE", "ETA", "PROBLEM"), rows, color=color, shrink=5)
