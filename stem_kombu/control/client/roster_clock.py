"""The roster's clock as a client knows it between two looks, so that a command need not wait for a look to be stamped."""

from __future__ import annotations

from datetime import datetime, timedelta

from stem_kombu.clock import Clock

#: Seconds for which a reading is relied on: as long as workers rely on theirs, which they take at each heartbeat.
LONGEST_RELIANCE = 10.0
#: Seconds by which the wall clock may have gone otherwise than the monotonic one since the reading: a step of the clock,
#: or a machine that was suspended. After more of it the roster is asked.
_STEP = 0.5


class RosterClock:
    """``read(now)`` tells what the roster's clock shows; :meth:`now` is what it shows later, ``None`` when nobody can tell or
    the reading is older than ``longest`` seconds.

    Used under its owner's lock, or by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reading: tuple[datetime, float, float] | None = None

    def read(self, now: datetime) -> None:
        self._reading = (now, self._clock.monotonic(), self._clock.now())

    def now(self, *, longest: float = LONGEST_RELIANCE) -> datetime | None:
        reading = self._reading
        if reading is None:
            return None
        shown, monotonic, wall = reading
        passed = self._clock.monotonic() - monotonic
        if passed > longest or abs(self._clock.now() - wall - passed) > _STEP:
            return None
        return shown + timedelta(seconds=passed)
