"""What dead workers hold at a broker, given back to its queues without a worker: for a fleet that leaves Stem."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.transports.base import GivenBack


class Swept(NamedTuple):
    """What a sweep found: messages that went back to their queues, and those that are still leased to a worker."""

    returned: int
    leased: int


def swept(name: str, sweep: Callable[[], Swept], lease: float, wait: float, clock: Clock) -> GivenBack:
    """What sweeps of all that is overdue give back at the transport of that name, again and again while leases run and ``wait``
    seconds are not over."""
    until, returned = clock.monotonic() + wait, 0
    while True:
        found = sweep()
        returned += found.returned
        if not found.leased or clock.monotonic() >= until:
            return GivenBack(name, returned, found.leased, lease)
        clock.sleep(min(timeouts.GIVE_BACK_LOOK, max(0.0, until - clock.monotonic())))
