"""The counters that ``stats`` shows and heartbeats carry."""

from __future__ import annotations

import threading

NAMES = ("received", "started", "succeeded", "failed", "retried", "cancelled", "redelivered")


class Totals:
    """Counts since the worker started; every method is safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(NAMES, 0)

    def add(self, name: str) -> None:
        """One more; raises ``KeyError`` for a counter that ``stats`` doesn't know."""
        with self._lock:
            self._counts[name] += 1

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)
