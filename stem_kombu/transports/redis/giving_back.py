"""What dead workers hold at Redis, given back to its queues without a worker: for a fleet that leaves Stem."""

from __future__ import annotations

from stem_kombu.clock import Clock
from stem_kombu.transports.base import GivenBack
from stem_kombu.transports.redis.recovery import Sweeper

#: Seconds between two looks at leases that are still running.
_BETWEEN = 0.5


def swept(sweeper: Sweeper, lease: float, wait: float, clock: Clock) -> GivenBack:
    """What a sweep of all that is overdue gives back, again and again while leases run and ``wait`` seconds are not over."""
    until, returned = clock.monotonic() + wait, 0
    while True:
        swept = sweeper.sweep_all()
        returned += swept.returned
        found = GivenBack("redis", returned, swept.leased, lease)
        if not swept.leased or clock.monotonic() >= until:
            return found
        clock.sleep(min(_BETWEEN, max(0.0, until - clock.monotonic())))
