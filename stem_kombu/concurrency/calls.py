"""Calls of which each is made, whatever the others raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def call_each(calls: Iterator[Callable[[], object]]) -> None:
    """Make the calls in order, also those after one that raises; then raise what the last of these raised."""
    try:
        for call in calls:
            call()
    except BaseException:
        call_each(calls)  # the iterator goes on behind the one that raised
        raise
