"""Lets what waits for a rate limit go on, each delivery in its turn, and reads from the roster who shares the limits (G25)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime

from stem_kombu import timeouts
from stem_kombu.agent.resources import Resources
from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.rounds import Rounds
from stem_kombu.control.directive_writer import Author
from stem_kombu.control.server.worker_view import Setting
from stem_kombu.directive import Directive, DirectiveDraft
from stem_kombu.errors import StemError, StoreError
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.active_limits import Limit
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.delivery_events import Event
from stem_kombu.worker.pace import Share
from stem_kombu.worker.task_lifecycle import TaskLifecycle

logger = logging.getLogger(__name__)


class LimitService:
    """Of one worker, whose tasks are ``lifecycle``'s. Who shares a limit is read from the roster every few seconds, and at once
    when a limit is new. Without a limit nothing is read, and no thread runs.

    A limit that is to end when its queue is empty ends here when the broker has counted no message twice in a row, and is then
    cleared for all where this worker may do that."""

    def __init__(self, active: ActiveDirectives, lifecycle: TaskLifecycle, resources: Resources) -> None:
        self._active, self._limits = active, active.limits
        self._lifecycle, self._roster = lifecycle, resources.roster
        self._depths, self._writer = resources.depths, resources.directive_writer
        self._was_empty: set[int] = set()
        #: Deliveries that waited for a limit which is over.
        self._freed: deque[Delivery] = deque()
        self._updating = threads.Lock()
        self._clock = lifecycle.facts.clock
        self._look_at = float("-inf")
        self._is_down = self._is_due = False
        self._background = Rounds(self._round, "stem-limits")
        self._limits.on_wait = self._background.wake

    # -- from any thread ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Be ready: the thread begins with the first limit."""
        self._background.start_when_needed()
        self.update()

    def stop(self) -> None:
        """What waits stays held. May be called twice, and before a start."""
        self._background.stop()

    def update(self) -> None:
        """Let the limits count that directives ask for now."""
        with self._updating:
            known = {one.directive.version for one in self._limits.all()}
            freed = self._limits.update(*self._active.rate_limits())
        if freed:
            # In the thread, and never here: a start may read the store, whose reader waits for the lock of directives that the
            # caller holds.
            self._freed.extend(freed)
            self._background.needed()
            self._background.wake()
        if known == {one.directive.version for one in self._limits.all()}:
            return
        self._log(known)
        self._lifecycle.recorder.acks.wake()  # queues may be closed or open again
        self._look_at = float("-inf")
        if self._limits.live:
            self._background.needed()
        self._background.wake()

    @property
    def knows_shares(self) -> bool:
        """Whether this worker has read what its part of each limit is."""
        return all(one.is_shut or one.effective is not None for one in self._limits.all())

    def settings(self) -> dict[str | None, Setting]:
        """What counts, by subject: the rate, this worker's part of it, and how much waits here."""
        return {one.subject: Setting(_shown(one), None, directive=one.directive) for one in self._limits.all()}

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _round(self) -> float | None:
        while self._freed:
            self._go_on(self._freed.popleft())
        look_in = self._look()
        self._end_empty()
        delivery, turn_in = self._limits.next()
        if delivery is not None:
            self._go_on(delivery)
            return 0.0
        spans = [span for span in (look_in, turn_in) if span is not None]
        return min(spans) if spans else None

    def _go_on(self, delivery: Delivery) -> None:
        if self._lifecycle.holds.release(delivery.token) is None:
            return  # revoked, paused, or the connection was lost just now
        try:
            self._lifecycle.happened(delivery, Event.DUE)
        except Exception:
            # The boundary of a thread on which every other limited task depends.
            logger.exception("task %s, which waited for a rate limit, can't go on", delivery.task_id)

    def _look(self) -> float | None:
        """Read who shares the limits where that is due; seconds until it is, ``None`` where workers share none."""
        shared = self._limits.shared()
        if not shared:
            return None
        self._is_due = False
        now = self._clock.monotonic()
        if now < self._look_at:
            return self._look_at - now
        try:
            view = self._roster.view(self._active.namespace)
        except StoreError as error:
            if not self._is_down:
                logger.warning("who shares the rate limits can't be read: the shares stay as they are: %s", error)
            self._is_down = True
            self._look_at = now + timeouts.LIMIT_LOOK_SOON
            return timeouts.LIMIT_LOOK_SOON
        self._is_down, self._is_due = False, True
        self._look_at = now + timeouts.LIMIT_LOOK
        peers = [beat for beat in view.heartbeats if _obeys(beat) and beat.liveness(view.now) is Liveness.LIVE]
        back = self._limits.set_shares({one.subject: self._share(one, peers) for one in shared})
        self._lifecycle.recorder.acks.wake()
        # The last that came first: each goes to the head of its queue, and so they come again in their order.
        for delivery in reversed(back):
            self._lifecycle.happened(delivery, Event.PAUSED)
        if any(one.limit.until_empty for one in shared):
            self._look_at = now + timeouts.LIMIT_LOOK_SOON
        return self._look_at - now

    def _end_empty(self) -> None:
        """After a look at the roster: end the limits whose queues are empty."""
        if not self._is_due:
            return
        self._is_due = False
        ending = [one for one in self._limits.all() if one.limit.until_empty and one.queue is not None]
        if not ending:
            return
        depths = self._depths.of([one.queue for one in ending if one.queue is not None])
        empty = [one for one in ending if one.queue is not None and depths.get(one.queue) == 0 and not one.waiting]
        over = [one for one in empty if one.directive.version in self._was_empty]
        self._was_empty = {one.directive.version for one in empty}
        for one in over:
            self._limits.over.add(one.directive.version)
            self._clear(one.directive)
        if over:
            self.update()

    def _clear(self, over: Directive) -> None:
        def plan(held: Sequence[Directive], now: datetime) -> list[DirectiveDraft]:
            return [DirectiveDraft.clearing(one) for one in held if one.version == over.version and one.is_live(now)]

        author = Author(f"worker {self._active.worker}", "the queue is empty")
        try:
            self._writer().save("rate-limit", plan, author)
        except StemError as error:
            logger.info("the rate limit of %s has ended here and can't be cleared for all: %s", over.subject, error)

    def _share(self, limit: Limit, peers: Iterable[Heartbeat]) -> Share:
        queue, own = limit.queue, self._active.worker
        others = [one.worker for one in peers if queue is None or (queue in one.queues and queue not in one.paused)]
        sharing = self._active.sharing(limit.directive, limit.subject, {own, *others})
        return Share(sharing.index(own), len(sharing)) if own in sharing else Share(0, 1)

    def _log(self, known: set[int]) -> None:
        extra = {"worker": self._active.worker}
        for one in self._limits.all():
            if one.directive.version not in known:
                by, why = one.directive.requested_by or "-", one.directive.reason or "no reason given"
                logger.warning("%s is limited to %s by %s: %s", one.subject, one.limit, by, why, extra=extra)
        if known and not self._limits.live:
            logger.warning("no rate limit counts any more", extra=extra)


def _obeys(beat: Heartbeat) -> bool:
    return beat.directives is not None and not beat.ignores_directives


def _shown(one: Limit) -> dict[str, object]:
    share, rate = one.effective, one.limit.rate
    return {
        "rate": str(rate),
        "each": one.limit.each,
        "workers": None if one.share is None else one.share.count,
        "share_per_s": 0.0 if one.is_shut else None if share is None else round(1 / rate.interval / share.count, 6),
        "held": len(one.waiting),
    }
