"""Ctrl-C, SIGTERM and a terminal that was closed, for a program that has processes and folders to clear away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """While entered, such a signal raises ``KeyboardInterrupt`` in :meth:`allowed` and nowhere else: what is begun outside
    is brought to its end, as clearing away is. In the main thread."""

    def __init__(self) -> None:
        self._asked = self._allowed = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has SIGHUP
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise in here, and at the entrance if it has come already."""
        self._allowed = True
        try:
            self._look()
            yield
        finally:
            self._allowed = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within :meth:`allowed`: what must be remembered as soon as it is there. Raises at the exit."""
        self._allowed = False
        try:
            yield
        finally:
            self._allowed = True
            self._look()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._allowed:
            raise KeyboardInterrupt

    def _look(self) -> None:
        if self._asked:
            raise KeyboardInterrupt
