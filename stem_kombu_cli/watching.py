"""``--watch``: a command that repeats itself until Ctrl-C and redraws in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from stem_kombu.clock import SYSTEM
from stem_kombu_cli import render
from stem_kombu_cli.options import DURATION

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: To the first place of the screen, and clear what is below.
_REDRAW = "\x1b[H\x1b[J"


def watch_option(function: F) -> F:
    """``--watch INTERVAL``."""
    return click.option(
        "--watch", metavar="INTERVAL", type=DURATION, help="Again and again, until Ctrl-C; for example --watch 2s."
    )(function)


def repeated(interval: float | None, look: Callable[[], T], *, as_json: bool) -> Iterator[T]:
    """What ``look`` returns: once, or every ``interval`` seconds. On a terminal each text replaces the one before; JSON is
    a line each."""
    if interval is None:
        yield look()
        return
    render.streams = as_json
    while True:
        found = look()
        if not as_json and sys.stdout.isatty():
            click.echo(_REDRAW, nl=False)
        yield found
        SYSTEM.sleep(interval)
