"""Keeping what this worker holds its own, for as long as the worker lives (G19).

A thread renews every lease at a third of its lifetime, however busy the rest is. A lease that turns out to be lost
stops the handler at its next checkpoint, and its outcome is neither recorded nor acknowledged: it is another's now.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from stem_kombu.clock import Clock
from stem_kombu.concurrency.service import Service
from stem_kombu.errors import BrokerError
from stem_kombu.transports.leases import Leasing
from stem_kombu.transports.outages import Outage
from stem_kombu.worker.deliveries import Delivery, InFlight

logger = logging.getLogger(__name__)


class LeaseThread:
    """Renews what is in flight; ``lost(delivery)`` is called once for each lease that is gone."""

    def __init__(
        self, leasing: Leasing | None, inflight: InFlight, *, lost: Callable[[Delivery], None], clock: Clock
    ) -> None:
        self._leasing = leasing
        self._inflight = inflight
        self._lost = lost
        self._clock = clock
        self._outage = Outage("leases could not be renewed", str(getattr(leasing, "url", "")), clock)
        self._wishes: dict[int, float] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._background = Service(
            self._run, "stem-leases", begin=self._stopped.clear, wake=self._end_soon, end=self._let_go
        )
        self._until: dict[int, float] = {}

    @property
    def lifetime(self) -> float | None:
        """Seconds for which a message stays ours without renewal, ``None`` where the transport has no leases."""
        return None if self._leasing is None else self._leasing.lifetime

    def start(self) -> None:
        if self._leasing is not None:
            self._background.start()

    def extend(self, delivery: Delivery, seconds: float) -> None:
        """Keep the message for ``seconds`` from now at least; does nothing where the transport has no leases."""
        if self._leasing is None:
            return
        with self._lock:
            self._wishes[delivery.token] = max(seconds, self._wishes.get(delivery.token, 0.0))
        self._wake.set()

    def still_holds(self, handle: Any, waited: float) -> bool:
        """Whether a message is still ours that nobody renewed for ``waited`` seconds, since it was fetched: asked of the
        broker once that is a good part of its lifetime. An unreachable broker gives it to nobody else either."""
        if self._leasing is None or waited < self._leasing.lifetime / 6.0:
            return True
        try:
            return self._leasing.renew([handle])[0]
        except BrokerError as error:
            logger.warning("the lease of a message that waited %.1f s could not be renewed: %s", waited, error)
            return True

    def stop(self) -> None:
        self._background.stop()
        self._let_go()

    def _end_soon(self) -> None:
        self._stopped.set()
        self._wake.set()

    def _let_go(self) -> None:
        if self._leasing is not None:
            self._leasing.close()

    def _run(self) -> None:
        assert self._leasing is not None
        period = self._leasing.lifetime / 3.0
        due = self._clock.monotonic() + period
        while not self._stopped.is_set():
            self._wake.wait(max(0.0, due - self._clock.monotonic()))
            self._wake.clear()
            if self._stopped.is_set():
                return
            try:
                self._grant_wishes(self._leasing)
                if self._clock.monotonic() >= due:
                    due = self._clock.monotonic() + period
                    self._renew_all(self._leasing)
                self._outage.worked()
            except BrokerError as error:
                # A third of a lifetime later is early enough; trying sooner would hammer a broker that is coming up.
                self._outage.failed(error)
                due = self._clock.monotonic() + min(period, 1.0)
            except Exception:
                # The boundary of the thread that keeps what runs here from running elsewhere as well.
                logger.exception("leases could not be renewed")
                due = self._clock.monotonic() + min(period, 1.0)

    def _grant_wishes(self, leasing: Leasing) -> None:
        with self._lock:
            wishes, self._wishes = self._wishes, {}
        for token, seconds in wishes.items():
            if (delivery := self._inflight.get(token)) is not None:
                self._until[token] = self._clock.monotonic() + seconds
                self._check([delivery], leasing.renew([delivery.handle], max(seconds, leasing.lifetime)))

    def _renew_all(self, leasing: Leasing) -> None:
        now = self._clock.monotonic()
        held = [delivery for delivery in self._inflight.all() if not delivery.lease_lost]
        tokens = {delivery.token for delivery in held}
        self._until = {token: until for token, until in self._until.items() if token in tokens}
        # A longer lease that the handler asked for is not cut short by the routine renewal.
        plain = [d for d in held if self._until.get(d.token, 0.0) < now + leasing.lifetime]
        if plain:
            self._check(plain, leasing.renew([delivery.handle for delivery in plain]))

    def _check(self, deliveries: Sequence[Delivery], kept: Sequence[bool]) -> None:
        for delivery, still_ours in zip(deliveries, kept, strict=True):
            # Acknowledged while the renewal was under way: gone, but not lost.
            if not still_ours and self._inflight.get(delivery.token) is not None and not delivery.lease_lost:
                self._lost(delivery)
