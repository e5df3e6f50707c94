"""A worker's place on the roster, as its heartbeats find it and the control server and ``inspect`` show it."""

from __future__ import annotations

from datetime import datetime

from stem_kombu.clock import Clock


class RosterPlace:
    """Written by :class:`~stem_kombu.agent.heartbeats.Heartbeats` alone, read from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = 0.0
        self._held_since: float | None = None
        #: The other live worker that was last found under this worker's id, in words; ``None`` while there is none.
        self.conflict: str | None = None

    def now(self) -> float:
        """Seconds since the epoch by the roster's clock, as far as the last heartbeat showed it."""
        return self._clock.now() + self._offset

    def set_time(self, before: float, roster_now: datetime) -> None:
        """The roster answered ``roster_now`` to a question of the local time ``before``."""
        self._offset = roster_now.timestamp() - (before + self._clock.now()) / 2

    def held_since(self) -> float | None:
        """When this worker took its id, in seconds by the roster's clock; ``None`` before. A command that was issued earlier
        was meant for another worker of this id."""
        return self._held_since

    def hold_since(self, moment: float) -> None:
        """The worker took its id at that moment of the roster's clock."""
        self._held_since = moment
