"""Whether a message is still this worker's: the one rule, for each thread that is about to act on a delivery.

Where the broker leases messages, a message is this worker's while its lease stands, over whatever connection. Elsewhere it
belongs to the connection that brought it, and is the broker's again when that is lost.
"""

from __future__ import annotations

import logging
from typing import Protocol

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerError
from stem_kombu.transports.base import Leases
from stem_kombu.worker.deliveries import Delivery

logger = logging.getLogger(__name__)


class Connected(Protocol):
    """A connection that brings messages."""

    @property
    def is_cut(self) -> bool:
        """Whether the broker or the network has ended it, though that was not read yet. From any thread."""


class Ownership:
    """Knows the connection that consumes, which the consumer reports here, and the leases (``None``: there are none)."""

    def __init__(self, leasing: Leases | None, clock: Clock) -> None:
        self.leasing = leasing
        self.clock = clock
        self._connection: Connected | None = None
        #: The number of the latest connection.
        self.generation = 0
        #: When what is being taken in was fetched, or earlier (monotonic).
        self.fetched_at = 0.0
        self._renewed_at = 0.0

    @property
    def leased(self) -> bool:
        """Whether messages stay with a worker for a while, not with a connection."""
        return self.leasing is not None

    @property
    def is_fetched_lately(self) -> bool:
        """Whether the connection was read so lately that its loss would have been noticed."""
        return self.clock.monotonic() - self.fetched_at <= timeouts.FETCHED_LATELY

    def connected(self, connection: Connected) -> int:
        """There is a new connection; returns its number."""
        self.generation += 1
        self._connection = connection
        return self.generation

    def disconnected(self) -> None:
        """The connection is lost or closed."""
        self._connection = None

    def renewed(self, at: float) -> None:
        """The leases that were not lost at that monotonic time are renewed."""
        self._renewed_at = at

    def is_ours(self, delivery: Delivery, *, time_passed: bool = True) -> bool:
        """As far as can be seen without asking the broker. From any thread. ``time_passed``: since the connection was last
        read; if not, it need not be looked at."""
        return not delivery.lease_lost and self._is_held_over(delivery.generation, time_passed)

    def is_surely_ours(self, delivery: Delivery) -> bool:
        """The same where an error would be recorded for good: a lease that could not be renewed for its lifetime, since this
        worker was suspended or cut off from its broker, may be lost without any thread here knowing so yet."""
        if self.leasing is None:
            return self._is_held_over(delivery.generation, time_passed=True)
        is_over = self.clock.monotonic() - self._renewed_at >= self.leasing.lifetime
        return not delivery.lease_lost and not is_over

    def is_ours_on_arrival(self, handle: object, generation: int, *, time_passed: bool) -> bool:
        """The same of a message whose lease is not renewed yet: the broker is asked once a good part of it has passed since
        the message was fetched. An unreachable broker gives it to no other worker either."""
        leasing = self.leasing
        if leasing is None:
            return self._is_held_over(generation, time_passed)
        waited = self.clock.monotonic() - self.fetched_at
        if waited < leasing.lifetime / 6.0:
            return True
        try:
            return leasing.renew([handle])[0]
        except BrokerError as error:
            logger.warning("the lease of a message that waited %.1f s could not be renewed: %s", waited, error)
            return True

    def _is_held_over(self, generation: int, time_passed: bool) -> bool:
        if self.leasing is not None or not time_passed:
            return True
        connection = self._connection
        return connection is not None and generation == self.generation and not connection.is_cut
