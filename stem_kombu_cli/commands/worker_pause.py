"""``stem worker pause``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from stem_kombu_cli import completion, pausing


@click.command(epilog="Example:  stem worker pause -w 'mail-*' --for 10m")
@click.option(
    "-q",
    "--queue",
    "queues",
    metavar="QUEUE",
    multiple=True,
    help="Only this queue; repeat it, or use a glob.",
    shell_complete=completion.queues,
)
@pausing.pause_options
@click.pass_context
def pause(ctx: click.Context, /, queues: Sequence[str], **values: object) -> None:
    """Have workers start no task any more: of any of their queues, or of those named with --queue.

    It is `stem queue pause`, with all queues as the default. Without --worker it pauses every worker, and asks first.
    """
    pausing.pause(ctx, queues or None, values)
