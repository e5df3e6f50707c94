"""The clock by which workers date next attempts and compare these dates.

They must agree about it: the next attempt that one of them dates is run by another. So a worker whose own clock is off
goes by the store's, as revocations do (ADR 0007). An eta that a sender set is compared with the host's clock.
"""

from __future__ import annotations

from datetime import datetime, timezone

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.task import TaskMessage


class FleetClock:
    """This host's clock, or the store's where the two differ by more than :data:`~stem_kombu.timeouts.LEAST_SKEW` seconds.
    Before the store's clock was read it is this host's. Without a ``cache`` it stays this host's: where the broker and all
    workers are on one host, and the broker looks at etas itself."""

    def __init__(self, clock: Clock, cache: RevocationCache | None) -> None:
        self._clock, self._cache = clock, cache

    def utcnow(self) -> datetime:
        offset_us = None if self._cache is None else self._cache.offset_us
        if offset_us is None:
            return self._clock.utcnow()
        host = self._clock.now()
        stores = offset_us / 1_000_000 + self._clock.monotonic()
        return datetime.fromtimestamp(host if abs(stores - host) <= timeouts.LEAST_SKEW else stores, timezone.utc)

    def time_for(self, message: TaskMessage) -> datetime:
        """The time with which the message's eta is to be compared: a worker dated that of a later attempt."""
        return self._clock.utcnow() if message.attempt == 1 else self.utcnow()
