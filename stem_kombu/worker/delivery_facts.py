"""What has to be known before :mod:`~stem_kombu.worker.transitions` can decide: gathered here, and only what the event needs."""

from __future__ import annotations

from collections.abc import Callable

from stem_kombu import chance
from stem_kombu.agent.active_rules import ActiveRules
from stem_kombu.agent.fleet_clock import FleetClock
from stem_kombu.bound import spares
from stem_kombu.errors import TaskNotRegistered
from stem_kombu.execution.base import Job
from stem_kombu.ladder import Ladder, ladder_of
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.selector import sent_at
from stem_kombu.task import TaskMessage
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.delivery_events import NO_FACTS, Facts
from stem_kombu.worker.lost_workers import LostWorkers
from stem_kombu.worker.ownership import Ownership
from stem_kombu.worker.settlement import Settlement
from stem_kombu.worker.task_history import TaskHistory

_HAS_STARTED = Facts(has_started=True)
_MAY_COME_AGAIN = (Ending.FAILED, Ending.LOST, Ending.RETRY)


class DeliveryFacts:
    """Reads revocations, records, leases and the roster for one worker.

    ``ensure_fresh()`` reads the revoke store if the last time is too long ago, and says whether it did.
    """

    def __init__(
        self,
        cache: RevocationCache,
        ensure_fresh: Callable[[], bool],
        history: TaskHistory,
        ownership: Ownership,
        lost_workers: LostWorkers,
        directives: ActiveDirectives,
        fleet_clock: FleetClock,
        *,
        default_max_retries: int,
    ) -> None:
        self.worker = directives.worker
        self.cache = cache
        self.rules = ActiveRules(cache.now)
        self.history = history
        self.ownership = ownership
        self.lost_workers = lost_workers
        self.directives, self.limits = directives, directives.limits
        self.clock = ownership.clock
        self.fleet_clock = fleet_clock
        self._ensure_fresh = ensure_fresh
        self._default_max_retries = default_max_retries

    def revocation_of(self, message: TaskMessage) -> Revocation | None:
        """What revokes the task now: the revocation of its id, else the first rule that strikes it."""
        found = self.cache.get(message.task_id)
        if found is not None and found.proofs and self.is_spared(found, message):
            found = None
        return self.rules.match(message) if found is None and self.rules.live else found

    def is_spared(self, revocation: Revocation, message: TaskMessage) -> bool:
        """Whether a revocation of its id says nothing of this very attempt (:mod:`stem_kombu.bound`)."""
        return spares(revocation, message.attempt, sent_at(message), self.cache.now())

    def refresh(self) -> bool:
        """Let the cache hold what the store held a moment ago. Whether to look at the connection too: the store may have
        taken its time, or nothing was read from the connection for a while."""
        return self._ensure_fresh() or not self.ownership.is_fetched_lately

    def of_decoded(self, delivery: Delivery, missing: TaskNotRegistered | None) -> Facts:
        """Of a message that has just come, and is in the table, so that no revocation passes it by."""
        message = delivery.message
        return Facts(
            message,
            self.clock.utcnow(),
            self.worker,
            self.revocation_of(message),
            unregistered=None if missing is None else TaskError(type(missing).__name__, str(missing)),
            is_suspect=bool(delivery.lost) and self.lost_workers.is_suspect(delivery),
            is_paused=self._is_paused(message),
            is_limited=self.limits.live and self.limits.holds_back(delivery),
            fleet_now=None if message.eta is None else self.fleet_clock.time_for(message),
        )

    def of_waiting(self, delivery: Delivery) -> Facts:
        """Of a delivery whose time has come; asks the roster about one that may have ended workers."""
        revocation = self.revocation_of(delivery.message)
        return Facts(
            delivery.message,
            self.clock.utcnow(),
            self.worker,
            revocation,
            is_lease_lost=delivery.lease_lost,
            is_paused=self._is_paused(delivery.message),
            is_limited=self.limits.live and self.limits.holds_back(delivery),
            lost_workers=tuple(delivery.lost),
            verdict=self.lost_workers.judge(delivery) if delivery.lost and revocation is None else None,
        )

    def of_revoked(self, delivery: Delivery) -> Facts:
        """Of a delivery that a revocation has found here."""
        revocation = self.revocation_of(delivery.message)
        return Facts(
            delivery.message,
            self.clock.utcnow(),
            self.worker,
            revocation,
            lost_workers=tuple(delivery.lost),
            ladder=self._ladder(revocation),
        )

    def _is_paused(self, message: TaskMessage) -> bool:
        """Whether no task of its queue may start here: the queue is paused, or another worker was elected to start them."""
        return message.queue in self.directives.paused or message.queue in self.limits.shut

    def _ladder(self, revocation: Revocation | None) -> Ladder | None:
        if revocation is None or not revocation.proofs:
            return None
        return ladder_of(revocation, self.cache.now())

    def of_slot_free(self, delivery: Delivery) -> Facts:
        """Right before a start: reads the store and asks for the record again where the last time is too long ago."""
        time_passed = self.refresh()
        message = delivery.message
        if self.history.is_stale(delivery.history_checked_at):
            time_passed, delivery.recorded_end = True, self.history.recorded_end(message)
        revocation = self.cache.get(message.task_id)
        if revocation is not None or self.rules.live:
            revocation = self.revocation_of(message)
        is_ours = self.ownership.is_ours(delivery, time_passed=time_passed)
        is_paused = message.queue in self.directives.paused or message.queue in self.limits.shut
        if revocation is None and is_ours and delivery.recorded_end is None and not is_paused:
            return NO_FACTS
        return Facts(revocation=revocation, recorded=delivery.recorded_end, is_ours=is_ours, is_paused=is_paused)

    def of_started(self, delivery: Delivery) -> Facts:
        """Right before the handler is called."""
        revocation = self.cache.get(delivery.task_id)
        if revocation is not None or self.rules.live:
            revocation = self.revocation_of(delivery.message)
        if revocation is None and not delivery.lease_lost:
            return NO_FACTS
        return Facts(revocation=revocation, is_lease_lost=delivery.lease_lost, ladder=self._ladder(revocation))

    def of_ended(self, delivery: Delivery, job: Job, outcome: Outcome) -> Facts:
        """Of an attempt that is over. One that says what revoked it knows better than the cache, which may know it no more."""
        message, options = job.message, job.task.options
        max_retries = message.max_retries if message.max_retries is not None else options.max_retries
        stopped = delivery.terminate_mono
        return Facts(
            message,
            self.clock.utcnow(),
            self.worker,
            outcome.revocation or self.revocation_of(message),
            delivery.recorded_end,
            is_lease_lost=delivery.lease_lost,
            has_started=delivery.started_at is not None,
            outcome=outcome,
            options=options,
            started_at=delivery.started_at,
            max_retries=self._default_max_retries if max_retries is None else max_retries,
            jitter=chance.random(),
            lost_workers=tuple(delivery.lost),
            stopped_after=None if stopped is None else self.clock.monotonic() - stopped,
            fleet_now=self.fleet_clock.utcnow() if outcome.kind in _MAY_COME_AGAIN else None,
        )

    def of_attempted(self, delivery: Delivery, settlement: Settlement) -> Facts:
        """Of an outcome whose next step is about to be tried. To look at a connection is a call of the system, so that is done
        only for what depends on it."""
        has_started, is_lease_lost = delivery.started_at is not None, delivery.lease_lost
        if has_started and not is_lease_lost and not settlement.cancels:
            return _HAS_STARTED
        is_ours = self.ownership.is_surely_ours if has_started else self.ownership.is_ours
        return Facts(
            revocation=self.revocation_of(delivery.message) if settlement.cancels else None,
            is_ours=is_ours(delivery),
            is_lease_lost=is_lease_lost,
            has_started=has_started,
            settlement=settlement,
        )

    def of_message(self, message: TaskMessage) -> Facts:
        """Of a message that can't be read as a whole."""
        return Facts(message, self.clock.utcnow(), self.worker, self.revocation_of(message))


def of_connection_lost(delivery: Delivery) -> Facts:
    """Of a delivery whose connection is gone."""
    return _HAS_STARTED if delivery.started_at is not None else NO_FACTS
