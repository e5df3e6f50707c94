"""Waiting for what can be observed, with a deadline: the only place of the tests that sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    predicate: Callable[[], T],
    timeout: float = 10.0,
    message: str | Callable[[], str] | None = None,
    *,
    interval: float = 0.01,
    ignoring: type[Exception] | tuple[type[Exception], ...] = (),
) -> T:
    """The first true value of ``predicate``, asked every ``interval`` seconds.

    Fails after ``timeout`` seconds with ``message`` (text, or a function that tells the state at that moment) and the
    last value. An exception of the kinds in ``ignoring`` counts as not yet; any other ends the wait.
    """
    deadline = time.monotonic() + timeout
    while True:
        last: object
        try:
            value = predicate()
            if value:
                return value
            last = value
        except ignoring as error:
            last = error
        if time.monotonic() >= deadline:
            told = message() if callable(message) else message
            asked = getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"{told or asked}: not within {timeout:g} s; last seen: {last!r}")
        time.sleep(interval)


def consistently(
    predicate: Callable[[], object], during: float = 0.3, message: str | None = None, *, interval: float = 0.01
) -> None:
    """Fails as soon as ``predicate`` is false within ``during`` seconds: for what must not happen, as a last resort.

    It can't prove an absence. Where an event says that the moment has passed (a later answer), await that.
    """
    deadline = time.monotonic() + during
    while time.monotonic() < deadline:
        assert predicate(), message or f"{getattr(predicate, '__qualname__', predicate)} did not stay true"
        time.sleep(interval)
