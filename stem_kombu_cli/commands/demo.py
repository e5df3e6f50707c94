"""``stem demo``: the whole story in one command, no server needed."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import click

from stem_kombu.environment import plain_environment
from stem_kombu_cli import exit_codes
from stem_kombu_cli.demo.interruption import Interruption
from stem_kombu_cli.demo.story import Story, StoryBroken
from stem_kombu_cli.render import emit, note


@click.command(epilog="Example:  stem demo --output mandelbrot.png")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where the picture goes (default: a temporary folder, which is printed).",
)
@click.pass_context
def demo(ctx: click.Context, /, output: Path | None) -> None:
    """Start two workers, give them work, watch, revoke, restart: with the real commands, on the embedded broker.

    Takes under half a minute, and keeps nothing but the picture.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise click.UsageError(f"--output: there is no folder {str(output.absolute().parent)!r}", ctx)
    with (
        Interruption() as interruption,
        tempfile.TemporaryDirectory(prefix="stem-demo-", ignore_cleanup_errors=True) as folder,
        closing(Story(Path(folder), output, {**plain_environment(), "TMPDIR": folder}, emit, interruption)) as story,
    ):
        try:
            with interruption.allowed():
                story.tell()
        except StoryBroken as broken:
            note(f"error: {broken}")
            ctx.exit(exit_codes.NO)
