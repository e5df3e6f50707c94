"""The rate limits that count at this worker, and the deliveries that wait for them (G25).

A delivery passes each limit that counts for it before it is submitted: that of its queue, then that of its task's name. What has
to wait is held, like an eta. When enough is held the queue is not fetched from for a while; of a limit that is too low to
be shared, the workers that were not elected fetch nothing.

``queues`` and ``tasks`` are replaced as a whole, so that asking whether there is a limit takes no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.concurrency import threads
from stem_kombu.directive import QUEUE, TASK, Directive
from stem_kombu.fields import FieldError
from stem_kombu.rate import RateLimit
from stem_kombu.worker.pace import OWN, Pace, Share, is_elected, is_for_one
from stem_kombu.worker.phase import Phase

if TYPE_CHECKING:
    from stem_kombu.worker.deliveries import Delivery

#: Deliveries of a queue's limit that are held at most.
_MOST_HELD = 1000


class Limit:
    """One limit of one queue, or of one task's name. ``share`` is ``None`` until the worker has read who shares it."""

    def __init__(self, subject: str, directive: Directive, limit: RateLimit, began: float) -> None:
        self.subject, self.directive, self.limit = subject, directive, limit
        self.pace = Pace(limit.rate, began)
        self.share: Share | None = OWN if limit.each else None
        #: What waits, the first first, by token.
        self.waiting: dict[int, Delivery] = {}
        self.is_full = False

    @property
    def queue(self) -> str | None:
        """The queue that it is about, ``None`` where it is about a task's name."""
        return self.subject.removeprefix(QUEUE) if self.subject.startswith(QUEUE) else None

    @property
    def is_shut(self) -> bool:
        """Whether another worker was elected to start these tasks."""
        return self.queue is not None and self.share is not None and not is_elected(self.limit.rate, self.share)

    @property
    def effective(self) -> Share | None:
        """The share with which slots are taken: all of them where this worker was elected."""
        elected = self.share is not None and self.queue is not None and is_for_one(self.limit.rate, self.share.count)
        return OWN if elected else self.share

    @property
    def most_held(self) -> int:
        """Deliveries of which the queue is fetched less."""
        if self.queue is None or self.effective is None:
            return _MOST_HELD
        return max(1, min(_MOST_HELD, ceil(timeouts.LIMIT_AHEAD / self.limit.rate.interval / self.effective.count)))


class ActiveLimits:
    """Of one worker. ``now()`` is the store's time."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threads.Lock()
        self.queues: Mapping[str, Limit] = {}
        self.tasks: Mapping[str, Limit] = {}
        #: Whether any limit counts here.
        self.live = False
        #: Queues that are not to be fetched from now; those of them whose tasks may not start here.
        self.closed: frozenset[str] = frozenset()
        self.shut: frozenset[str] = frozenset()
        #: Versions of directives that have ended here, as their queues were empty.
        self.over: set[int] = set()
        #: Called when something waits that did not.
        self.on_wait: Callable[[], None] = lambda: None

    # -- what counts ----------------------------------------------------------------------------------------------------

    def update(self, queues: Mapping[str, Directive], tasks: Mapping[str, Directive]) -> list[Delivery]:
        """Let these directives count from now on, by queue and by task's name; what waits for a limit that is over."""
        if not (queues or tasks or self.live):
            return []
        with self._lock:
            before = {one.subject: one for one in self.all()}
            self.queues = {name: one for name, d in queues.items() if (one := self._limit(QUEUE + name, d, before))}
            self.tasks = {name: one for name, d in tasks.items() if (one := self._limit(TASK + name, d, before))}
            self.live = bool(self.queues or self.tasks)
            over = [one for one in before.values() if one.subject not in {each.subject for each in self.all()}]
            freed = [delivery for one in over for delivery in one.waiting.values()]
            for delivery in freed:
                delivery.waits_at = None
            self._close()
            return freed

    def _limit(self, subject: str, directive: Directive, before: Mapping[str, Limit]) -> Limit | None:
        if directive.version in self.over:
            return None
        held = before.get(subject)
        if held is not None and held.directive.version == directive.version:
            return held
        try:
            limit = RateLimit.of_value(directive.value if isinstance(directive.value, Mapping) else {})
        except FieldError:
            return None
        new = Limit(subject, directive, limit, self._since(directive))
        if held is not None:
            new.waiting = held.waiting
        return new

    def all(self) -> list[Limit]:
        """The limits that count."""
        return [*self.queues.values(), *self.tasks.values()]

    def shared(self) -> list[Limit]:
        """The limits that workers share."""
        return [one for one in self.all() if not one.limit.each]

    def set_shares(self, shares: Mapping[str, Share]) -> list[Delivery]:
        """Who shares each limit, by its subject; what may not start here any more."""
        with self._lock:
            for one in self.all():
                one.share = shares.get(one.subject, one.share)
            back = [delivery for one in self.all() if one.is_shut for delivery in one.waiting.values()]
            self._close()
        return back

    # -- what waits -----------------------------------------------------------------------------------------------------

    def holds_back(self, delivery: Delivery) -> bool:
        """Whether a limit counts for the delivery that it has not passed."""
        return any(one.subject not in delivery.paced for one in self._of(delivery))

    def take(self, delivery: Delivery) -> bool:
        """Whether each limit lets the delivery start now; then it has passed them."""
        with self._lock:
            return self._pass(delivery) is None

    def wait(self, delivery: Delivery) -> bool:
        """Let the delivery, which is held, wait for its turn; ``False`` when no limit counts for it any more."""
        with self._lock:
            limit = next((one for one in self._of(delivery) if one.subject not in delivery.paced), None)
            if limit is None or delivery.phase is not Phase.HELD:
                return limit is not None
            delivery.waits_at = limit.subject
            limit.waiting[delivery.token] = delivery
            self._close()
        self.on_wait()
        return True

    def leave(self, delivery: Delivery) -> None:
        """The delivery waits no more, for a reason that is none of the limits'."""
        if delivery.waits_at is None:
            return
        with self._lock:
            for one in self.all():
                one.waiting.pop(delivery.token, None)
            delivery.waits_at = None
            self._close()

    def next(self) -> tuple[Delivery | None, float | None]:
        """The next delivery that may start, or seconds until one may, ``None`` while nothing waits that could."""
        with self._lock:
            soonest: float | None = None
            for limit in self.all():
                if not limit.waiting or limit.effective is None or limit.is_shut:
                    continue
                delivery = next(iter(limit.waiting.values()))
                wait = limit.pace.take(self._since(limit.directive), limit.effective)
                if wait == 0:
                    del limit.waiting[delivery.token]
                    delivery.waits_at = None
                    delivery.paced = (*delivery.paced, limit.subject)
                    self._close()
                    return delivery, 0.0
                soonest = wait if soonest is None else min(soonest, wait)
            return None, soonest

    # -- inside -------------------------------------------------------------------------------------------------------

    def _of(self, delivery: Delivery) -> Iterable[Limit]:
        message = delivery.message
        found = self.queues.get(message.queue), self.tasks.get(message.name)
        return [one for one in found if one is not None]

    def _pass(self, delivery: Delivery) -> Limit | None:
        """The limit that holds the delivery back, ``None`` once it has passed all."""
        for limit in self._of(delivery):
            if limit.subject in delivery.paced:
                continue
            share = limit.effective
            if limit.waiting or share is None or limit.is_shut:
                return limit
            if limit.pace.take(self._since(limit.directive), share) > 0:
                return limit
            delivery.paced = (*delivery.paced, limit.subject)
        return None

    def _close(self) -> None:
        """Close the queues of which enough is held, and open those of which little is left."""
        closed: set[str] = set()
        for limit in self.all():
            held = len(limit.waiting)
            limit.is_full = held > limit.most_held // 2 if limit.is_full else held >= limit.most_held
            if limit.is_full:
                closed |= {delivery.message.queue for delivery in limit.waiting.values()}
        shut = frozenset(name for name, limit in self.queues.items() if limit.is_shut)
        if shut != self.shut:
            self.shut = shut
        if (new := shut | closed) != self.closed:
            self.closed = new

    def _since(self, directive: Directive) -> float:
        return max(0.0, (self._now() - directive.issued_at) / timedelta(seconds=1))
