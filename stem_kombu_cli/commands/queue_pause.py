"""``stem queue pause``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from stem_kombu_cli import completion, pausing


@click.command(epilog="Example:  stem queue pause mail --for 30m --reason INC-42")
@click.argument("queues", metavar="[QUEUE]...", nargs=-1, shell_complete=completion.queues)
@click.option("--all-queues", is_flag=True, help="Every queue.")
@pausing.pause_options
@click.pass_context
def pause(ctx: click.Context, /, queues: Sequence[str], all_queues: bool, **values: object) -> None:
    """Have workers start no task of QUEUE (names, or globs in quotes) any more; asks first.

    Running tasks finish. Workers return tasks that they hold and have not begun to the queue, without counting as an
    attempt. The pause is stored: workers that start later obey it too, until it ends or `stem queue resume`.

    Exit code 3 when a live worker is too old to obey.
    """
    pausing.pause(ctx, pausing.named(ctx, queues, all_queues), values)
