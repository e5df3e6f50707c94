"""Where a task's life is steered: it starts, reports, is told to stop, and ends here.

The executors report to this object, intake hands deliveries to it, and revocations arrive at :meth:`TaskLifecycle.apply`,
whether they were heard on the broker or read from the store: one path.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stem_kombu.agent.leases import Leases
from stem_kombu.celery_monitors.events import Events
from stem_kombu.clock import Clock
from stem_kombu.execution.base import Executor, Job, Stop
from stem_kombu.outcome import Ending, Outcome, TaskError, TaskRecord
from stem_kombu.redaction import redacted_arguments
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied, RevocationCache
from stem_kombu.task import Mode, TaskMessage
from stem_kombu.worker.delayed import DelayedDeliveries, republished
from stem_kombu.worker.deliveries import Delivery, InFlight, Phase
from stem_kombu.worker.lost_workers import LostWorkers, running
from stem_kombu.worker.prefetch_policy import PrefetchPolicy
from stem_kombu.worker.recorder import Recorder
from stem_kombu.worker.settlement import MessageDisposition, Settlement, expiry, recorded_before, refused, settle
from stem_kombu.worker.start_log import StartLog
from stem_kombu.worker.task_history import TaskHistory
from stem_kombu.worker.telling import complain, tell_of
from stem_kombu.worker.totals import Totals

logger = logging.getLogger(__name__)


class TaskLifecycle:
    """Implements the executors' ``Observer``, intake's ``Desk``, and what the control plane asks about tasks."""

    def __init__(
        self,
        worker: str,
        inflight: InFlight,
        cache: RevocationCache,
        totals: Totals,
        *,
        default_max_retries: int,
        reject: Callable[[Any], None],
        ensure_fresh: Callable[[], bool],
        still_held: Callable[[int], bool],
        clock: Clock,
    ) -> None:
        self._worker = worker
        self._inflight = inflight
        self._cache = cache
        self._totals = totals
        self._default_max_retries = default_max_retries
        self.reject = reject
        self._ensure_fresh = ensure_fresh
        self._still_held = still_held
        self._clock = clock
        # The parts below are born after this one, which they report to.
        self.executor: Executor
        self.recorder: Recorder
        self.holds: DelayedDeliveries
        self.leases: Leases[Delivery]
        self.credit: PrefetchPolicy
        self.past: TaskHistory
        self.lost_workers: LostWorkers
        self.starts: StartLog
        #: What Celery's monitors are told, ``None`` when nobody listens on this broker or it is switched off.
        self.events: Events | None = None

    # -- intake's desk ------------------------------------------------------------------------------------------------

    def submit(self, delivery: Delivery) -> None:
        """Run the delivery as soon as a slot is free; set it aside when none is here, and may be at another worker."""
        self._inflight.waits(delivery.token, Phase.RESERVED)
        if self.credit.is_mixed:
            load, now = self._inflight.load(), self._clock.monotonic()
            if (until := self.credit.aside_until(delivery.task.mode, load, now)) is not None:
                self._inflight.waits(delivery.token, Phase.HELD)
                self.holds.set_aside(delivery, until)
                return
        options, message = delivery.task.options, delivery.message
        self.executor.submit(
            Job(
                token=delivery.token,
                task=delivery.task,
                message=message,
                soft_time_limit=_first(message.soft_time_limit, options.soft_time_limit),
                time_limit=_first(message.time_limit, options.time_limit),
            )
        )

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        """Record and acknowledge. What is refused while another message of the same attempt runs here goes with that one:
        its record would say that the attempt never ran."""
        if delivery.started_at is None and settlement.refuses and self._inflight.follow(delivery):
            return
        if settlement.total is not None:
            self._totals.add(settlement.total)
        if self.events is not None and settlement.record is not None:
            try:
                self.events.settled(settlement.record)
            except Exception:  # noqa: BLE001 - monitors are told on the side
                complain("the end of task %s can't be told to Celery's monitors", delivery.task_id)
        self.recorder.settle(delivery, settlement)

    def leased(self, delivery: Delivery) -> None:
        """Hold on to the delivery; a task may ask for more than the transport's lifetime from the start."""
        if self.events is not None:
            self.events.received(delivery.message, redacted_arguments(delivery.message.args, delivery.message.kwargs))
        if delivery.task.options.visibility is not None:
            self.leases.extend(delivery, delivery.task.options.visibility)

    def received(self, message: TaskMessage, redelivered: bool) -> None:
        if self.leases.asleep:
            self.leases.wake()
        if self._inflight.put_backs.take(message):
            self.credit.came_back()
            return
        self._totals.add("received")
        if redelivered:
            self._totals.add("redelivered")

    def due(self, delivery: Delivery) -> None:
        """A held delivery's time has come; it may have been revoked or have expired while it waited."""
        revocation = self._cache.get(delivery.task_id)
        expired = expiry(delivery.message, self._clock.utcnow())
        if revocation is not None or expired is not None:
            self._refuse(delivery, revocation, expired)
            return
        verdict = self.lost_workers.judge(delivery)
        if isinstance(verdict, TaskError):
            self._refuse(delivery, None, verdict)
        elif verdict is not None:
            self.holds.look_again(delivery, verdict)
        else:
            self.submit(delivery)

    def give_back(self, delivery: Delivery) -> None:
        """Let the broker deliver it again, to whoever has room."""
        if self._inflight.ended(delivery.token) is not None:
            self.settle(delivery, Settlement(None, MessageDisposition.REQUEUE))

    def repark(self, delivery: Delivery) -> None:
        """Put a delivery with a far eta back at the broker."""
        if self._inflight.ended(delivery.token) is not None:
            self.settle(delivery, republished(delivery))

    # -- the executors' observer ------------------------------------------------------------------------------------

    def may_start(self, job: Job) -> Outcome | None:
        try:
            return self._instead(job)
        except Exception:  # noqa: BLE001 - the boundary before a start, on which each slot depends
            complain("whether task %s may start can't be told, so it goes back to its queue", job.message.task_id)
            return Outcome(Ending.RELEASED)

    def _instead(self, job: Job) -> Outcome | None:
        looked = self._ensure_fresh()
        delivery = self._inflight.get(job.token)
        if delivery is not None and self.past.is_stale(delivery.told_at):
            looked, delivery.over = True, self.past.over(job.message)
            if delivery.over is not None:
                return Outcome(Ending.RELEASED)
        revocation = self._cache.get(job.message.task_id)
        if revocation is not None:
            return Outcome(Ending.CANCELLED, revocation=revocation)
        if looked and delivery is not None and (delivery.lease_lost or not self._still_held(delivery.generation)):
            # The broker gave it to somebody else while the store was read. Given back, which says nothing over another
            # connection, and rightly over this one should the message come here again at this very moment.
            return Outcome(Ending.RELEASED)
        return None

    def started(self, job: Job, pid: int) -> None:
        delivery = self._inflight.started(job.token, pid)
        if delivery is None:
            return
        self._totals.add("started")
        if self.events is not None:
            self.events.started(job.message.task_id)
        if self.recorder.tells_of_starts(delivery):
            # What may have ended a worker before names this one in its record before the handler begins.
            at_once = delivery.told_at is not None and job.task.mode is Mode.INLINE
            self.recorder.running(delivery, self._running(delivery), at_once=at_once)
        if job.task.mode is Mode.INLINE:
            self.starts.note(job.message)
        # A terminate that arrived between the look at the cache and the start found nothing running to stop.
        revocation = self._cache.get(job.message.task_id)
        if revocation is not None and revocation.terminate:
            self._stop(delivery, revocation)

    def _running(self, delivery: Delivery) -> TaskRecord:
        return running(delivery, self._worker, self.lost_workers.boot)

    def heartbeat(self, job: Job) -> None:
        self._inflight.checkpoint(job.token)

    def progress(self, job: Job, fraction: float | None, data: Mapping[str, Any]) -> None:
        self._inflight.checkpoint(job.token, fraction, data)

    def extend_lease(self, job: Job, seconds: float) -> None:
        self._inflight.checkpoint(job.token)
        if (delivery := self._inflight.get(job.token)) is not None:
            self.leases.extend(delivery, seconds)

    def ended(self, job: Job, outcome: Outcome) -> None:
        delivery = self._inflight.ended(job.token)
        if delivery is None:
            return
        try:
            # Its slot is free: who was set aside for want of one need not take the way over the broker.
            if (next_one := self.holds.take_aside(job.task.mode)) is not None:
                self.due(next_one)
        except Exception:  # noqa: BLE001 - another task, whose trouble is not this one's
            complain("task %s was set aside and can't be taken up", job.message.task_id)
        if outcome.error is not None and not delivery.lease_lost:
            tell_of(job.message, outcome.kind, outcome.error, self._worker)
        try:
            settlement = self._settlement(job, delivery, outcome)
        except Exception as error:  # noqa: BLE001 - the boundary behind which a task ends in a record, whatever it was
            complain("what follows from the end of task %s can't be decided", job.message.task_id)
            said = TaskError(type(error).__name__, f"the worker could not decide what follows from its end: {error}")
            now = self._clock.utcnow()
            settlement = refused(job.message, worker=self._worker, now=now, error=said)
        self.settle(delivery, settlement)

    def _settlement(self, job: Job, delivery: Delivery, outcome: Outcome) -> Settlement:
        """What follows from the end of an attempt."""
        if delivery.lease_lost:
            logger.warning("task %s ended after its lease was lost: its outcome is another worker's", delivery.task_id)
            return Settlement(None, MessageDisposition.LEAVE)
        if delivery.over is not None:
            return recorded_before(job.message, delivery.over)
        revocation, now = self._cache.get(job.message.task_id), self._clock.utcnow()
        if outcome.kind is Ending.RELEASED and revocation is not None and delivery.started_at is None:
            # Withdrawn because it was revoked while it waited for a slot.
            return refused(job.message, worker=self._worker, now=now, revocation=revocation)
        max_retries = _first(job.message.max_retries, job.task.options.max_retries, self._default_max_retries)
        return settle(
            job.message,
            job.task.options,
            outcome,
            worker=self._worker,
            started_at=delivery.started_at,
            revocation=revocation,
            max_retries=0 if max_retries is None else max_retries,
            now=now,
            jitter=random.random(),
            lost_workers=tuple(delivery.lost),
        )

    # -- revocations --------------------------------------------------------------------------------------------------

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        """Take revocations into the cache, withdraw what waits, and tell what runs to stop where that is asked for."""
        applied = self._cache.apply(revocations, self._cache.now())
        for delivery in self._inflight.of_tasks(revocation.task_id for revocation in revocations):
            # What counts is what the cache holds now: a stale message may still be the first to find the task here.
            revocation = self._cache.get(delivery.task_id)
            if revocation is None:
                continue
            if delivery.phase is Phase.HELD:
                if self.holds.release(delivery.token) is not None:
                    self._refuse(delivery, revocation)
            elif delivery.phase is Phase.RESERVED:
                self.executor.withdraw(delivery.token)  # ended() then finds it revoked
            elif delivery.phase is Phase.RUNNING and revocation.terminate:
                self._stop(delivery, revocation)
        return self._cache.in_step(revocations, applied)

    def lease_lost(self, delivery: Delivery) -> None:
        """The broker gave the message to somebody else: stop the handler, keep hands off the message."""
        delivery.lease_lost = True
        logger.warning(
            "the lease of task %s is lost: it will run elsewhere, and is stopped here at its next checkpoint",
            delivery.task_id,
            extra={"task_id": delivery.task_id, "worker": self._worker},
        )
        if self.holds.release(delivery.token) is not None:
            if self._inflight.ended(delivery.token) is not None:
                self.settle(delivery, Settlement(None, MessageDisposition.LEAVE))
        elif not self.executor.withdraw(delivery.token):
            self.executor.stop_job(delivery.token, Stop.LEASE_LOST)

    def connection_lost(self) -> None:
        """The broker has taken back what the connection held and gives it to anybody: let go of what has not started."""
        for delivery in self.holds.release_all():
            # At once, not by the recorder: the message may come again at any moment, and must not find it here.
            self._inflight.remove(delivery.token)
        for delivery in self._inflight.all():
            if delivery.phase is Phase.RESERVED:
                self.executor.withdraw(delivery.token)  # and given back, which says nothing over another connection
            elif delivery.started_at is None:
                # Refused, and not recorded yet: whoever gets it next decides about it, by what counts then.
                self._inflight.remove(delivery.token)

    def stopping(self) -> None:
        """The worker begins to stop: that it ends says nothing of what it runs from now on."""
        self.lost_workers.boot = None
        self.starts.stop()
        for delivery in self._inflight.running():
            if self.recorder.tells_of_starts(delivery):
                self.recorder.running(delivery, self._running(delivery))

    def release_held(self) -> None:
        """Give back everything that waits for its eta or for a slot: the worker is stopping."""
        # The last that came first: each goes to the head of its queue, and so they come again in their order.
        for delivery in reversed(self.holds.release_all()):
            self.give_back(delivery)
        for delivery in reversed(self._inflight.all()):
            if delivery.phase is Phase.RESERVED:
                self.executor.withdraw(delivery.token)

    def release_running(self) -> None:
        """Ask everything that runs to stop at its next checkpoint and go back to the queue (G20)."""
        for delivery in self._inflight.running():
            self.executor.stop_job(delivery.token, Stop.SHUTDOWN)

    def _stop(self, delivery: Delivery, revocation: Revocation) -> None:
        self._inflight.terminating(delivery.token, revocation)
        if self.executor.stop_job(delivery.token, Stop.REVOKED, revocation):
            logger.info("task %s is told to stop", delivery.task_id, extra={"task_id": delivery.task_id})

    def _refuse(self, delivery: Delivery, revocation: Revocation | None, error: TaskError | None = None) -> None:
        if self._inflight.ended(delivery.token) is not None:
            now = self._clock.utcnow()
            if revocation is not None:
                error = None  # who revoked it wants to see that, however late it was
            message, lost = delivery.message, tuple(delivery.lost)
            refusal = refused(
                message, worker=self._worker, now=now, revocation=revocation, error=error, lost_workers=lost
            )
            self.settle(delivery, refusal)


def _first(*values: Any) -> Any:
    for value in values:
        if value is not None:
            return value
    return None
