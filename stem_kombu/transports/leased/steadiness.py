"""How long a broker has answered without a gap: no worker may be called dead because the broker was away.

While it is away, no worker can renew its leases, and all of them are over when it comes back. So what is overdue is taken back
by a consumer that has been answered for a whole lease: until then each worker that lives has renewed what it holds.
"""

from __future__ import annotations

from stem_kombu.clock import Clock


class Steadiness:
    """Told of each answer. ``lease`` is in seconds; a third of it without an answer is a gap."""

    def __init__(self, lease: float, clock: Clock) -> None:
        self._lease, self._clock = lease, clock
        self._since = self._answered_at = clock.monotonic()

    def answered(self) -> None:
        """The broker has just answered."""
        now = self._clock.monotonic()
        if self._is_gap(now):
            self._since = now
        self._answered_at = now

    def is_long(self) -> bool:
        """Whether the broker has answered for a whole lease until now."""
        return self._answered_at - self._since >= self._lease and not self._is_gap(self._clock.monotonic())

    def _is_gap(self, now: float) -> bool:
        return now - self._answered_at > self._lease / 3.0
