"""Deliveries that wait without a slot: for their eta, or set aside for a moment.

Indexed by token, as a revocation or a lost connection may take out any number of a hundred thousand: releasing one costs a
look-up, and its entry in the order of times is passed over later.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from stem_kombu.clock import Clock
from stem_kombu.concurrency.service import Service
from stem_kombu.task import Mode
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.settlement import MessageDisposition, Settlement

logger = logging.getLogger(__name__)

#: Entries of released deliveries that may stay in the order of times, beside as many as are held.
_LEFTOVERS = 256


@dataclass(frozen=True, slots=True)
class _Hold:
    number: int
    then: Callable[[Delivery], None]
    delivery: Delivery


class DelayedDeliveries:
    """Deliveries that wait here without a slot, in a thread of its own.

    ``due(delivery)`` is called when the time of an eta has come. A hold longer than ``longest`` seconds is handed to
    ``repark(delivery)`` instead, which puts the message back at the broker: RabbitMQ cuts a consumer off that keeps a
    message for half an hour. What was set aside for a moment is handed to ``give_back(delivery)``. ``changed()`` is
    called whenever :attr:`count` has changed. ``low_first``: the smaller priority is the more urgent, as in Kombu's Redis.
    """

    def __init__(
        self,
        *,
        due: Callable[[Delivery], None],
        repark: Callable[[Delivery], None],
        give_back: Callable[[Delivery], None],
        changed: Callable[[], None],
        longest: float | None,
        clock: Clock,
        low_first: bool = False,
    ) -> None:
        self._due = due
        self._repark = repark
        self._give_back = give_back
        self._changed = changed
        self._longest = longest
        self._sign = 1 if low_first else -1
        self._clock = clock
        self._order = itertools.count()
        #: Due time (monotonic), a number that orders equal times, token. An entry may outlive its hold.
        self._heap: list[tuple[float, int, int]] = []
        self._held: dict[int, _Hold] = {}
        #: Those of them that were set aside, by the kind of slot that they need, oldest first.
        self._aside: dict[Mode, dict[int, None]] = {mode: {} for mode in Mode}
        self._cond = threading.Condition()
        self._stopped = False
        #: Whether the thread has still to begin: a worker that holds nothing needs none.
        self._asleep, self._stops = False, 0
        self._background = Service(self._run, "stem-holds", begin=self._begin, wake=self._end_soon)

    @property
    def count(self) -> int:
        """How many are held."""
        return len(self._held)

    @property
    def aside(self) -> int:
        """How many of them were set aside."""
        return sum(map(len, self._aside.values()))

    @property
    def entries(self) -> int:
        """How many entries the order of times has, those of released deliveries included."""
        return len(self._heap)

    def __len__(self) -> int:
        return len(self._held)

    def start(self) -> None:
        """Be ready: the thread begins with the first delivery that is held."""
        self._stops = self._background.stops
        self._asleep = True
        if self._held:
            self._wake()

    def hold(self, delivery: Delivery) -> None:
        """Keep the delivery until its eta."""
        assert delivery.message.eta is not None
        wait = (delivery.message.eta - self._clock.utcnow()) / timedelta(seconds=1)
        if self._longest is not None and wait > self._longest:
            self._keep(delivery, self._clock.monotonic() + self._longest, self._repark)
        else:
            self._keep(delivery, self._clock.monotonic() + wait, self._due)

    def look_again(self, delivery: Delivery, seconds: float) -> None:
        """Keep the delivery for a moment, then have it looked at as when its eta has come."""
        self._keep(delivery, seconds, self._due)

    def set_aside(self, delivery: Delivery, until: float) -> None:
        """Keep the delivery until then (monotonic), and give it back; of several, the last that came first, as each goes to
        the head of its queue."""
        self._keep(delivery, until, self._give_back)

    def take_aside(self, mode: Mode) -> Delivery | None:
        """Take the first out that was set aside and needs a slot of that kind, of those that are most urgent."""
        if not self._aside[mode]:
            return None
        with self._cond:
            first = min(self._aside[mode], key=self._rank, default=None)
        return None if first is None else self.release(first)

    def release(self, token: int) -> Delivery | None:
        """Take one delivery out again, ``None`` when it isn't held any more."""
        with self._cond:
            found = self._taken(token)
            if found is None:
                return None
            if len(self._heap) > 2 * len(self._held) + _LEFTOVERS:
                self._heap = [entry for entry in self._heap if self._stands(entry)]
                heapq.heapify(self._heap)
        self._changed()
        return found.delivery

    def release_all(self) -> list[Delivery]:
        """Take every delivery out."""
        with self._cond:
            held = [hold.delivery for hold in self._held.values()]
            self._held.clear()
            self._heap.clear()
            for tokens in self._aside.values():
                tokens.clear()
        return held

    def stop(self) -> None:
        self._asleep = False
        self._background.stop()

    def _wake(self) -> None:
        self._asleep = False
        self._background.start(self._stops)

    def _begin(self) -> None:
        self._stopped = False

    def _end_soon(self) -> None:
        with self._cond:
            self._stopped = True
            self._cond.notify()

    def _keep(self, delivery: Delivery, until: float, then: Callable[[Delivery], None]) -> None:
        with self._cond:
            number = next(self._order) * (-1 if then is self._give_back else 1)
            self._held[delivery.token] = _Hold(number, then, delivery)
            heapq.heappush(self._heap, (until, number, delivery.token))
            if then is self._give_back:
                self._aside[delivery.task.mode][delivery.token] = None
            self._cond.notify()
        if self._asleep:
            self._wake()
        self._changed()

    def _rank(self, token: int) -> int:
        original = self._held[token].delivery.message.original
        priority = None if original is None else original.properties.get("priority")
        return self._sign * priority if isinstance(priority, int) else 0

    def _taken(self, token: int) -> _Hold | None:
        found = self._held.pop(token, None)
        if found is not None and found.then is self._give_back:
            del self._aside[found.delivery.task.mode][token]
        return found

    def _stands(self, entry: tuple[float, int, int]) -> bool:
        """Whether the entry is that of a hold: the delivery may have been released, and even held again, since."""
        hold = self._held.get(entry[2])
        return hold is not None and hold.number == entry[1]

    def _run(self) -> None:
        while True:
            with self._cond:
                while self._heap and not self._stands(self._heap[0]):
                    heapq.heappop(self._heap)
                if self._stopped:
                    return
                if not self._heap:
                    self._cond.wait()
                    continue
                wait = self._heap[0][0] - self._clock.monotonic()
                if wait > 0:
                    self._cond.wait(min(wait, 60.0))
                    continue
                found = self._taken(heapq.heappop(self._heap)[2])
            self._changed()
            if found is not None:
                self._let_go(found)

    def _let_go(self, hold: _Hold) -> None:
        try:
            hold.then(hold.delivery)
        except Exception:
            # The boundary of a thread on which every other eta depends.
            logger.exception("task %s, which was held, can't be let go", hold.delivery.task_id)


def republished(delivery: Delivery) -> Settlement:
    """The settlement that puts a held message back at the broker, as it was, and acknowledges this copy of it."""
    return Settlement(None, MessageDisposition.ACKNOWLEDGE, retry=replace(delivery.message))
