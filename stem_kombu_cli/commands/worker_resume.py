"""``stem worker resume``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from stem_kombu_cli import completion, pausing


@click.command(epilog="Example:  stem worker resume -w mail-1")
@click.option(
    "-q",
    "--queue",
    "queues",
    metavar="QUEUE",
    multiple=True,
    help="Only this queue; repeat it, or use a glob.",
    shell_complete=completion.queues,
)
@pausing.resume_options
@click.pass_context
def resume(ctx: click.Context, /, queues: Sequence[str], **values: object) -> None:
    """Let paused workers start tasks again: of all their queues, or of those named with --queue.

    It is `stem queue resume`, with all queues as the default. Exit code 4: nothing is paused there.
    """
    pausing.resume(ctx, queues or None, values)
