"""A line on stderr that is written over while something takes long, on a terminal only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock

_BAR = 30


class Progress:
    """Shows how far something is; writes nothing when stderr is no terminal, and leaves nothing behind."""

    def __init__(self, *, clock: Clock = SYSTEM, write: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._write = write if write is not None else _terminal()
        self._next = clock.monotonic() + timeouts.CLI_PROGRESS_AFTER
        self._width = 0

    def answers(self, answered: int, expected: int, left: float) -> None:
        """While workers are waited for; ``left`` is in seconds."""
        self._show(f"{answered} of {expected} answered, {max(left, 0.0):.0f}s left")

    def steps(self, done: int, of: int) -> None:
        """While many messages are sent."""
        filled = _BAR * done // of
        self._show(f"broadcasting [{'#' * filled}{'-' * (_BAR - filled)}] {100 * done // of}%")

    def heartbeats(self, received: int, left: float) -> None:
        """While heartbeats are listened for."""
        self._show(f"{received} received, {max(left, 0.0):.0f}s left")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._width and self._write is not None:
            self._write(f"\r{' ' * self._width}\r")

    def _show(self, text: str) -> None:
        now = self._clock.monotonic()
        if self._write is None or now < self._next:
            return
        self._next = now + timeouts.CLI_PROGRESS_LOOK
        self._write(f"\r{text.ljust(self._width)}")
        self._width = len(text)


def _terminal() -> Callable[[str], None] | None:
    if not sys.stderr.isatty() or os.get_terminal_size(sys.stderr.fileno()).columns < 60:
        return None

    def write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    return write
