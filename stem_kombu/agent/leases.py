"""Keeping the messages of this worker its own, for as long as the worker lives (G19).

A thread renews every lease at a third of its lifetime, however busy the rest is. When a lease turns out to be lost, the handler
stops at its next checkpoint, and its outcome is neither recorded nor acknowledged: another worker has the message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service
from stem_kombu.errors import BrokerError, StoreError
from stem_kombu.transports.base import Leases as TransportLeases
from stem_kombu.transports.outages import Outage

logger = logging.getLogger(__name__)


class HeldMessage(Protocol):
    """A message that a worker holds. ``token`` names it as long as it is held, ``handle`` is Kombu's message."""

    @property
    def token(self) -> object: ...

    @property
    def handle(self) -> object: ...

    @property
    def lease_lost(self) -> bool: ...


Held = TypeVar("Held", bound=HeldMessage)
Held_co = TypeVar("Held_co", bound=HeldMessage, covariant=True)


class HeldMessages(Protocol[Held_co]):
    """The messages that a worker holds, read from any thread."""

    def all(self) -> Sequence[Held_co]:
        """All of them."""

    def get(self, token: Any) -> Held_co | None:
        """The one with that token, ``None`` when it is not held any more."""


class Leases(Generic[Held]):
    """Renews the leases of ``messages``; ``lost(message)`` is called once for each lease that is gone, and ``renewed(at)`` when
    it was found out of all of them which are, as of that monotonic time.

    ``leasing`` is the transport's, ``None`` where it has no leases: then nothing is done. The thread begins with :meth:`wake`.
    """

    def __init__(
        self,
        leasing: TransportLeases | None,
        messages: HeldMessages[Held],
        *,
        lost: Callable[[Held], None],
        renewed: Callable[[float], None] | None = None,
        clock: Clock,
    ) -> None:
        self._leasing = leasing
        self._messages = messages
        self._lost, self._all_renewed = lost, renewed
        self._clock = clock
        self._outage = Outage("leases could not be renewed", str(getattr(leasing, "url", "")), clock)
        self._wishes: dict[object, float] = {}
        self._lock = threads.Lock()
        self._wake = threads.Event()
        self._stopped = threads.Event()
        self._background = Service(
            self._run, "stem-leases", begin=self._stopped.clear, wake=self._end_soon, end=self._let_go
        )
        self._until: dict[object, float] = {}
        #: When :meth:`renew_when_due` renews, 0 before its first call; and the thread in which it does.
        self._due = 0.0
        self._renewing: threads.Thread | None = None
        #: Whether :meth:`wake` has to be called before a message is held: a worker that holds none needs no thread.
        self.asleep = False

    @property
    def lifetime(self) -> float | None:
        """Seconds for which a message stays this worker's without renewal, ``None`` where the transport has no leases."""
        return None if self._leasing is None else self._leasing.lifetime

    def start(self) -> None:
        """Be ready to renew."""
        self.asleep = self._leasing is not None
        if self.asleep:
            self._background.start_when_needed()

    def wake(self) -> None:
        """Renew from now on, unless stopped. May be called twice."""
        if self.asleep and self._all_renewed is not None:
            self._all_renewed(self._clock.monotonic())  # no message is held yet, so none was lost
        self.asleep = False
        self._background.needed()

    def renew_when_due(self) -> None:
        """Instead of :meth:`start` and :meth:`wake`, for leases that last long: renew in a thread that ends after that, if it is
        time. Called every now and then by one thread, which does not wait."""
        if self._leasing is None or (self._renewing is not None and self._renewing.is_alive()):
            return
        if (now := self._clock.monotonic()) < self._due:
            return
        was_due, self._due = self._due, now + self._leasing.lifetime * timeouts.LEASE_RENEWAL_SHARE
        if not was_due:
            self._stopped.clear()
        else:
            self._renewing = threads.Thread(target=self._renew_once, name="stem-leases", daemon=True)
            self._renewing.start()

    def extend(self, message: Held, seconds: float) -> None:
        """Keep the message for ``seconds`` from now at least; does nothing where the transport has no leases."""
        if self._leasing is None:
            return
        with self._lock:
            self._wishes[message.token] = max(seconds, self._wishes.get(message.token, 0.0))
        self._wake.set()

    def stop(self) -> None:
        """Renew nothing any more, and let the connection go. May be called twice, and before a start."""
        self.asleep, self._due = False, 0.0
        self._background.stop()
        if (thread := self._renewing) is not None:
            self._end_soon()
            thread.join(timeouts.LEASE_RETRY)
        self._let_go()

    def _end_soon(self) -> None:
        self._stopped.set()
        self._wake.set()

    def _let_go(self) -> None:
        if self._leasing is not None:
            self._leasing.close()

    def _run(self) -> None:
        assert self._leasing is not None
        period = self._leasing.lifetime * timeouts.LEASE_RENEWAL_SHARE
        due = self._clock.monotonic() + period
        while not self._stopped.is_set():
            self._wake.wait(max(0.0, due - self._clock.monotonic()))
            self._wake.clear()
            if self._stopped.is_set():
                return
            is_due = self._clock.monotonic() >= due
            if is_due:
                due = self._clock.monotonic() + period
            if not self._renewed(self._leasing, all_of_them=is_due):
                due = self._clock.monotonic() + min(period, timeouts.LEASE_RETRY)

    def _renew_once(self) -> None:
        assert self._leasing is not None
        while not self._renewed(self._leasing, all_of_them=True) and not self._stopped.wait(timeouts.LEASE_RETRY):
            pass

    def _renewed(self, leasing: TransportLeases, *, all_of_them: bool) -> bool:
        """Whether what is to be renewed now was."""
        try:
            self._grant_wishes(leasing)
            if all_of_them:
                self._renew_all(leasing)
            self._outage.worked()
        except (BrokerError, StoreError) as error:
            # A third of a lifetime later is early enough; trying sooner would hammer a broker that is coming up.
            self._outage.failed(error)
            return False
        except Exception:
            # The boundary of the thread that keeps what runs here from running elsewhere as well.
            logger.exception("leases could not be renewed")
            return False
        return True

    def _grant_wishes(self, leasing: TransportLeases) -> None:
        with self._lock:
            wishes, self._wishes = self._wishes, {}
        for token, seconds in wishes.items():
            if (message := self._messages.get(token)) is not None:
                self._until[token] = self._clock.monotonic() + seconds
                self._check([message], leasing.renew([message.handle], max(seconds, leasing.lifetime)))

    def _renew_all(self, leasing: TransportLeases) -> None:
        now = self._clock.monotonic()
        held = [message for message in self._messages.all() if not message.lease_lost]
        tokens = {message.token for message in held}
        self._until = {token: until for token, until in self._until.items() if token in tokens}
        # A longer lease that the handler asked for is not cut short by the routine renewal.
        plain = [message for message in held if self._until.get(message.token, 0.0) < now + leasing.lifetime]
        if plain:
            self._check(plain, leasing.renew([message.handle for message in plain]))
        if self._all_renewed is not None:
            self._all_renewed(now)

    def _check(self, messages: Sequence[Held], kept: Sequence[bool]) -> None:
        for message, still_ours in zip(messages, kept, strict=True):
            # Acknowledged while the renewal was under way: gone, but not lost.
            if not still_ours and self._messages.get(message.token) is not None and not message.lease_lost:
                self._lost(message)
