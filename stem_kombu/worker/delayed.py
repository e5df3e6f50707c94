"""Deliveries that wait without a slot: held for their eta, or deferred for a moment.

Indexed by token, as a revocation or a lost connection may take out any number of a hundred thousand: releasing one costs a
look-up, and its entry in the order of times is passed over later.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service
from stem_kombu.task import Mode
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.delivery_events import DeliveryEvents, Event

logger = logging.getLogger(__name__)

#: Entries of released deliveries that may stay in the order of times, beside as many as are held.
_LEFTOVERS = 256


@dataclass(frozen=True, slots=True)
class HoldRules:
    """What a transport says of messages that wait: for how many seconds a worker may keep one (``None``: any), and whether
    the smaller priority is the more urgent, as in Kombu's Redis."""

    longest: float | None = None
    low_first: bool = False


@dataclass(slots=True, eq=False)
class _Hold:
    number: int
    event: Event
    delivery: Delivery
    #: Of a deferred one: how urgent it is, the smallest first. ``None``: it is held for its time.
    rank: int | None = None


class DelayedDeliveries:
    """Deliveries that wait here without a slot, in a thread of its own.

    ``events`` is told ``DUE`` when the time has come, or ``HELD_LONGEST`` once a longer hold has lasted for as long as
    ``rules`` allow: RabbitMQ cuts a consumer off that keeps a message for half an hour. ``changed()`` is called whenever
    :attr:`count` has changed.
    """

    def __init__(
        self, events: DeliveryEvents[Delivery], rules: HoldRules, changed: Callable[[], None], clock: Clock
    ) -> None:
        self._events = events
        self._changed = changed
        self._longest = rules.longest
        self._sign = 1 if rules.low_first else -1
        self._clock = clock
        self._order = itertools.count()
        #: Due time (monotonic), a number that orders equal times, token. An entry may outlive its hold.
        self._heap: list[tuple[float, int, int]] = []
        self._held: dict[int, _Hold] = {}
        #: Those of them that were deferred, by the kind of slot that they need and by rank, oldest first.
        self._deferred: dict[Mode, dict[int, dict[int, None]]] = {mode: {} for mode in Mode}
        #: How many those are: counted, as each turn of the consumer asks.
        self.deferred = 0
        self._cond = threads.Condition()
        self._stopped = False
        self._background = Service(self._run, "stem-holds", begin=self._begin, wake=self._end_soon)

    @property
    def longest_turn(self) -> float:
        """Seconds for which a delivery may wait for its turn: it may have waited for its eta before."""
        return timeouts.DELAYED_LONGEST_WAIT if self._longest is None else self._longest / 2

    @property
    def count(self) -> int:
        """How many are held."""
        return len(self._held)

    @property
    def entries(self) -> int:
        """How many entries the order of times has, those of released deliveries included."""
        return len(self._heap)

    def __len__(self) -> int:
        return len(self._held)

    def start(self) -> None:
        """Be ready: the thread begins with the first delivery that is held."""
        self._background.start_when_needed()
        if self._held:
            self._background.needed()

    def hold(self, delivery: Delivery, now: datetime) -> None:
        """Keep the delivery until its eta, by the clock that shows ``now``."""
        assert delivery.message.eta is not None
        wait = (delivery.message.eta - now) / timedelta(seconds=1)
        if self._longest is not None and wait > self._longest:
            self._keep(delivery, self._clock.monotonic() + self._longest, Event.HELD_LONGEST)
        else:
            self._keep(delivery, self._clock.monotonic() + wait, Event.DUE)

    def hold_for(self, delivery: Delivery, seconds: float) -> None:
        """Keep the delivery for a moment, or for :attr:`longest_turn`, whatever its eta."""
        event = Event.HELD_LONGEST if self._longest is not None and seconds == self.longest_turn else Event.DUE
        self._keep(delivery, self._clock.monotonic() + seconds, event)

    def defer(self, delivery: Delivery, until: float) -> None:
        """Keep the delivery until then (monotonic), or until :meth:`take_deferred`. Of several that are due together the last
        that came is the first, as each goes back to the head of its queue."""
        self._keep(delivery, until, Event.DUE, is_deferred=True)

    def take_deferred(self, mode: Mode) -> Delivery | None:
        """Take the first out that was deferred and needs a slot of that kind, of those that are most urgent."""
        ranks = self._deferred[mode]
        if not ranks:
            return None
        with self._cond:
            first = next(iter(ranks[min(ranks)])) if ranks else None
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
            for ranks in self._deferred.values():
                ranks.clear()
            self.deferred = 0
        return held

    def stop(self) -> None:
        self._background.stop()

    def _begin(self) -> None:
        self._stopped = False

    def _end_soon(self) -> None:
        with self._cond:
            self._stopped = True
            self._cond.notify()

    def _keep(self, delivery: Delivery, until: float, event: Event, *, is_deferred: bool = False) -> None:
        with self._cond:
            number = next(self._order) * (-1 if is_deferred else 1)
            rank = self._rank(delivery) if is_deferred else None
            self._held[delivery.token] = _Hold(number, event, delivery, rank)
            heapq.heappush(self._heap, (until, number, delivery.token))
            if rank is not None:
                self._deferred[delivery.task.mode].setdefault(rank, {})[delivery.token] = None
                self.deferred += 1
            self._cond.notify()
        self._background.needed()
        self._changed()

    def _rank(self, delivery: Delivery) -> int:
        original = delivery.message.original
        priority = None if original is None else original.properties.get("priority")
        return self._sign * priority if isinstance(priority, int) else 0

    def _taken(self, token: int) -> _Hold | None:
        found = self._held.pop(token, None)
        if found is not None and found.rank is not None:
            ranks = self._deferred[found.delivery.task.mode]
            del ranks[found.rank][token]
            self.deferred -= 1
            if not ranks[found.rank]:
                del ranks[found.rank]
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
            self._events.happened(hold.delivery, hold.event)
        except Exception:
            # The boundary of a thread on which every other eta depends.
            logger.exception("task %s, which was held, can't be let go", hold.delivery.task_id)
