"""When and how much to prune: each writer deletes a little at a time."""

from __future__ import annotations

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock

#: Look for expired rows after this many records; after a while also after fewer.
_RECORDS = 256


class PruneSchedule:
    """How many expired rows to delete after a write, such that deleting keeps up with writing.

    Twice as many rows as were written since the last time, so no write ever pays for a long pause of all others.
    Without a lock: two threads that meet here at worst prune twice.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._written = 0
        self._due_at = clock.monotonic()

    def due(self, written: int) -> int:
        """The most rows to delete now, 0 when it is not yet time; ``written`` rows were just written."""
        self._written += written
        now = self._clock.monotonic()
        if self._written < _RECORDS and now < self._due_at:
            return 0
        limit = max(_RECORDS, 2 * self._written)
        self._written, self._due_at = 0, now + timeouts.RECORD_PRUNING
        return limit
