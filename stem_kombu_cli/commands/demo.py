"""``stem demo``: the whole story in one command, no server needed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from stem_kombu.settings import plain_environment
from stem_kombu_cli import exit_codes
from stem_kombu_cli.demo.story import Story, StoryBroken


@click.command(epilog="Example:  stem demo --output mandelbrot.png")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Where the picture goes (default: a temporary folder, which is printed).",
)
@click.pass_context
def demo(ctx: click.Context, /, output: Path | None) -> None:
    """Start two workers, give them work, watch, revoke, restart: with the real commands, on the embedded broker.

    Takes under half a minute. Leaves nothing behind but the picture.
    """
    picture = output or Path(tempfile.mkdtemp(prefix="stem-demo-")) / "mandelbrot.png"
    with tempfile.TemporaryDirectory(prefix="stem-demo-", ignore_cleanup_errors=True) as folder:
        try:
            Story(Path(folder), picture.absolute(), plain_environment(), _say).tell()
        except StoryBroken as broken:
            click.echo(f"error: {broken}", err=True)
            ctx.exit(exit_codes.NO)


def _say(text: str) -> None:
    click.echo(text)
    sys.stdout.flush()
