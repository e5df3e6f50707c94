"""The roster's clock as a client knows it between two looks, so that a command need not wait for a look to be stamped."""

from __future__ import annotations

from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.clock import Clock


class RosterClock:
    """``read(now)`` tells what the roster's clock shows; :meth:`now` is what it shows later, ``None`` when nobody can tell or
    the reading is older than ``longest`` seconds.

    Used under its owner's lock, or by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reading: tuple[datetime, float, float] | None = None

    def read(self, now: datetime) -> None:
        self._reading = (now, self._clock.monotonic(), self._clock.now())

    def now(self, *, longest: float = timeouts.ROSTER_CLOCK_RELIANCE) -> datetime | None:
        reading = self._reading
        if reading is None:
            return None
        shown, monotonic, wall = reading
        passed = self._clock.monotonic() - monotonic
        if passed > longest or abs(self._clock.now() - wall - passed) > timeouts.ROSTER_CLOCK_STEP:
            return None
        return shown + timedelta(seconds=passed)
