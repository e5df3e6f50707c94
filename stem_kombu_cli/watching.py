"""``--watch``: a command that repeats itself until Ctrl-C and redraws in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import click

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerError, StoreError
from stem_kombu_cli import render
from stem_kombu_cli.options import DURATION

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

#: The interval that counts unless one is given.
USUAL = "2s"
#: To the first place of the screen, and clear what is below.
_REDRAW = "\x1b[H\x1b[J"


def watch_option(function: F) -> F:
    """``--watch [INTERVAL]``."""
    return click.option(
        "--watch",
        metavar="[INTERVAL]",
        type=DURATION,
        is_flag=False,
        flag_value=USUAL,
        help=f"Repeat until Ctrl-C: every {USUAL} unless an interval is given.",
    )(function)


def repeated(interval: float | None, look: Callable[[], T], *, as_json: bool) -> Iterator[T]:
    """What ``look`` returns: once, or every ``interval`` seconds. On a terminal each text replaces the one before; JSON is
    a line each. Servers that go away after the first look are told of, and asked again."""
    found: T | None = look()
    render.streams = as_json and interval is not None
    while True:
        if found is not None:
            if interval is not None and not as_json and sys.stdout.isatty():
                click.echo(_REDRAW, nl=False)
            yield found
        if interval is None:
            return
        SYSTEM.sleep(interval)
        found = _looked(look)


def _looked(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except (BrokerError, StoreError) as error:
        render.note(f"note: {error}; trying again")
        return None
