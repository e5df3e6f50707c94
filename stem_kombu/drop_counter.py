"""Counting what is dropped without filling anybody's log (G17)."""

from __future__ import annotations

import logging

from stem_kombu import timeouts
from stem_kombu.clock import Clock

logger = logging.getLogger(__name__)


class DropCounter:
    """Counts what was dropped, by reason, and logs it once a minute at most. Used by one thread, or approximate."""

    def __init__(self, what: str, clock: Clock, *, level: int = logging.WARNING) -> None:
        self._level = level
        self._what = what
        self._clock = clock
        self._next_log = float("-inf")
        self._unlogged = 0
        #: How many were dropped, by reason.
        self.dropped: dict[str, int] = {}

    def drop(self, reason: str, text: str) -> None:
        """Count one."""
        self.count(reason)
        self._unlogged += 1
        now = self._clock.monotonic()
        if now >= self._next_log:
            logger.log(self._level, "%s: %d dropped, the last because: %s", self._what, self._unlogged, text[:500])
            self._unlogged = 0
            self._next_log = now + timeouts.DROP_LOG

    def count(self, reason: str) -> None:
        """Count one that has a log line of its own."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
