"""``stem queue resume``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from stem_kombu_cli import completion, pausing


@click.command(epilog="Example:  stem queue resume mail")
@click.argument("queues", metavar="[QUEUE]...", nargs=-1, shell_complete=completion.queues)
@click.option("--all-queues", is_flag=True, help="Every queue: ends all pauses.")
@pausing.resume_options
@click.pass_context
def resume(ctx: click.Context, /, queues: Sequence[str], all_queues: bool, **values: object) -> None:
    """End the pauses of QUEUE; asks when more than 100 tasks wait there.

    Without --worker the pauses of single workers end too. Where another pause covers QUEUE (of a glob, of all queues, or
    with --worker of the fleet), an exemption from it is stored. With --at tasks start at that rate until the queue is empty.

    Exit code 4: nothing is paused there.
    """
    pausing.resume(ctx, pausing.named(ctx, queues, all_queues), values)
