"""Carries directives out: what they ask of this worker's tasks begins when they come, and ends when they end (G22, G23).

They come from the store and from broadcasts, by one path: :meth:`DirectiveService.take`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from typing import NamedTuple

from stem_kombu.clock import Clock
from stem_kombu.concurrency.service import Service
from stem_kombu.directive import Directive
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.delivery_events import DeliveryEvents, Event, Phase

logger = logging.getLogger(__name__)

#: Seconds between two looks at the store's clock while a directive is to end, as that clock may be set meanwhile.
_LOOK = 0.5
#: Seconds between two looks at deliveries whose start is under way.
_LOOK_AT_STARTS = 0.005
_WAITS = (Phase.HELD, Phase.DEFERRED, Phase.RESERVED)


class Obeyed(NamedTuple):
    """What directives changed: how many deliveries go back to their queues, and the tokens of those whose start was under
    way when the pause came."""

    given_back: int = 0
    starting: frozenset[int] = frozenset()


class DirectiveService:
    """Of one worker. ``events`` is told of deliveries that are paused; ``changed()`` wakes the thread that fetches."""

    def __init__(
        self,
        directives: ActiveDirectives,
        inflight: InFlight,
        events: DeliveryEvents[Delivery],
        changed: Callable[[], object],
        clock: Clock,
    ) -> None:
        self.directives = directives
        self._inflight = inflight
        self._events = events
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting = threading.Condition()
        self._stopped = False
        #: Whether the thread has still to begin: a worker without a directive that ends needs none.
        self._asleep, self._stops = False, 0
        self._background = Service(self._run, "stem-directives", begin=self._begin, wake=self._end_soon)

    # -- from any thread ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Be ready: the thread begins with the first directive that has an end."""
        self._stops = self._background.stops
        self._asleep = True
        self._wake()

    def stop(self) -> None:
        """Directives end no more by themselves. May be called twice, and before a start."""
        self._asleep = False
        self._background.stop()

    def take(self, directives: Iterable[Directive]) -> Obeyed:
        """Know and obey these as well. No task that they forbid starts after this, but those in ``starting``."""
        with self._lock:
            self.directives.take(directives)
            obeyed = self._update()
        self._wake()
        return obeyed

    def wait_started(self, tokens: Collection[int], timeout: float) -> bool:
        """Whether none of these deliveries is about to start any more, within ``timeout`` seconds. Blocks."""
        deadline = self._clock.monotonic() + timeout
        while any((one := self._inflight.get(token)) and one.phase is Phase.RESERVED for token in tokens):
            if self._clock.monotonic() >= deadline:
                return False
            self._clock.sleep(_LOOK_AT_STARTS)
        return True

    # -- inside -------------------------------------------------------------------------------------------------------

    def _update(self) -> Obeyed:
        before = self.directives.paused
        newly = self.directives.update()
        if self.directives.paused.keys() != before.keys():
            self._log(before.keys() - self.directives.paused.keys(), newly)
            # Before anything is given back, or the broker would send it right here again.
            self._changed()
        return self._pause(newly) if newly else Obeyed()

    def _pause(self, queues: Collection[str]) -> Obeyed:
        """Give back what waits of these queues."""
        waiting = [one for one in self._inflight.all() if one.phase in _WAITS and one.message.queue in queues]
        # The last that came first: each goes to the head of its queue, and so they come again in their order.
        for delivery in reversed(waiting):
            self._events.happened(delivery, Event.PAUSED)
        starting = frozenset(one.token for one in waiting if one.phase is Phase.RESERVED)
        back = sum(one.phase is Phase.SETTLING or one.phase is Phase.DONE for one in waiting)
        return Obeyed(back, starting)

    def _log(self, resumed: Collection[str], paused: Collection[str]) -> None:
        worker = self.directives.worker
        for queue in sorted(paused):
            one = self.directives.paused[queue]
            logger.warning(
                "queue %s is paused by %s: %s", queue, one.requested_by or "-", one.reason or "no reason given",
                extra={"worker": worker, "queue": queue},
            )  # fmt: skip
        for queue in sorted(resumed):
            logger.warning("queue %s is not paused any more", queue, extra={"worker": worker, "queue": queue})

    def _wake(self) -> None:
        if self.directives.next_end() is None:
            return
        if self._asleep:
            self._asleep = False
            self._background.start(self._stops)
        with self._waiting:
            self._waiting.notify()

    def _begin(self) -> None:
        self._stopped = False

    def _end_soon(self) -> None:
        with self._waiting:
            self._stopped = True
            self._waiting.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._update()
            end = self.directives.next_end()
            with self._waiting:
                if self._stopped:
                    return
                if end is None:
                    self._waiting.wait()
                    continue
                left = (end - self.directives.now()) / timedelta(seconds=1)
                self._waiting.wait(min(max(left, 0.001), _LOOK))
