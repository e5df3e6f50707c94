"""When the next task of a rate limit may start at this worker. Pure: times are passed in.

The starts of a limit lie on a grid: slot ``j`` begins ``j`` intervals after the directive was given, by the store's clock. Of a
fleet's limit each slot belongs to one of the workers that share it, in turn. So the shares are equal, a worker that
starts again starts no burst, and the workers together stay below the limit without asking each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

from stem_kombu import timeouts
from stem_kombu.rate import Rate

#: Starts a minute below which a slot that was used late would count: then a whole interval lies between two starts.
_FEW = 10.0


@dataclass(frozen=True, slots=True)
class Share:
    """This worker is number ``index`` of ``count`` that share a limit."""

    index: int
    count: int


#: Of a limit that is each worker's own.
OWN = Share(0, 1)


def is_elected(rate: Rate, share: Share) -> bool:
    """Whether this worker starts tasks of a limit that is too low to be shared: one of the workers does it."""
    return share.index == 0 or not is_for_one(rate, share.count)


def is_for_one(rate: Rate, count: int) -> bool:
    """Whether a limit is below one start a minute for each of ``count`` workers, or below ten for all."""
    return count > 1 and 60.0 / rate.interval < max(_FEW, count)


class Pace:
    """Of one limit at one worker. ``began`` and ``now`` are seconds since the directive was given."""

    def __init__(self, rate: Rate, began: float) -> None:
        self.rate = rate
        #: The number of the last slot that is used or past.
        self._last = -1 if began < timeouts.PACE_NEW else floor(began / rate.interval)
        self._last_at = float("-inf")

    def take(self, now: float, share: Share) -> float:
        """0 where a slot of this worker is free: it is used now. Else seconds until the next one."""
        interval = self.rate.interval
        if self._last * interval > now + share.count * interval + timeouts.PACE_LATE:
            self._last = floor(now / interval)  # the store's clock was set back
        if share.count == 1 and interval > 60.0 / _FEW:
            return self._take_alone(now, interval)
        late = max(interval, timeouts.PACE_LATE)
        slot = max(self._last + 1, ceil((now - late) / interval), 0)
        slot += (share.index - slot) % share.count
        if (wait := slot * interval - now) > 0:
            return wait
        self._last, self._last_at = slot, now
        return 0.0

    def _take_alone(self, now: float, interval: float) -> float:
        """With a whole interval since the last start, and no more than one in each slot."""
        slot = floor(now / interval)
        wait = max(self._last_at + interval - now, 0.0 if slot > self._last else (self._last + 1) * interval - now)
        if wait > 0:
            return wait
        self._last, self._last_at = slot, now
        return 0.0
