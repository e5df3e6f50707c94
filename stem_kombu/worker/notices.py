"""What is told of tasks on the side: counters, Celery's monitors, logs. None of it keeps a task from its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stem_kombu.celery_monitors.events import Events
from stem_kombu.clock import Clock
from stem_kombu.measures import Totals
from stem_kombu.outcome import Outcome, TaskRecord
from stem_kombu.redaction import redacted_arguments
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied
from stem_kombu.task import TaskMessage
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.delivery_events import Event, ImpossibleTransition
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.settlement import Settlement
from stem_kombu.worker.task_log import TaskLog, released_by

logger = logging.getLogger(__name__)


class TaskNotices:
    """``events`` takes what Celery's monitors are told, ``None`` where they are told nothing."""

    def __init__(self, worker: str, totals: Totals, clock: Clock, events: Events | None = None) -> None:
        self._worker = worker
        self._now = clock.monotonic
        self._totals = totals
        self._events = events
        self.log = TaskLog(worker, clock)

    def received(self, message: TaskMessage, redelivered: bool) -> None:
        """A message has come that this worker did not give back itself."""
        self._totals.add("received", message.queue, message.name)
        if redelivered:
            self._totals.add("redelivered", message.queue, message.name)

    def accepted(self, message: TaskMessage) -> None:
        """It is going to run, or waits for its time."""
        self.log.received(message)
        if self._events is not None:
            self._events.received(message, redacted_arguments(message.args, message.kwargs))

    def started(self, delivery: Delivery) -> None:
        message, at = delivery.message, delivery.started_at
        could = message.enqueued_at
        if message.eta is not None and (could is None or message.eta > could):
            could = message.eta  # it can't begin before
        waited = (at - could).total_seconds() if at is not None and could is not None else None
        self._totals.started(message.queue, message.name, waited)
        self.log.started(message)
        if self._events is not None:
            self._events.started(message.task_id)

    def ended(self, message: TaskMessage, outcome: Outcome) -> None:
        """Its handler is out; what follows is told by :meth:`settling`, but for what goes back to its queue. Raises nothing."""
        if (error := released_by(outcome)) is not None:
            self.log.released(message, error)

    def settling(self, delivery: Delivery, settlement: Settlement) -> None:
        """That is how it ended; raises nothing."""
        if settlement.total is not None:
            message, record = delivery.message, settlement.record
            ran = None if delivery.started_at is None else self._now() - delivery.started_mono
            how = None if settlement.total != "cancelled" or record is None else _how(record)
            self._totals.ended(settlement.total, message.queue, message.name, ran=ran, how=how)
            if record is not None:
                self.log.ended(message, record, ran)
        if self._events is not None and settlement.record is not None:
            try:
                self._events.settled(settlement.record)
            except Exception:  # noqa: BLE001 - monitors are told on the side
                complain("could not send the end of task %s to Celery's monitors", settlement.record.task_id)

    def revoked(self, revocations: Sequence[Revocation], applied: Applied) -> None:
        """These are in force now; raises nothing."""
        if applied.applied and self.log.is_on:
            self.log.revoked(revocations, frozenset(applied.applied))

    def stop_requested(self, task_id: str) -> None:
        """A revoked handler has been asked to stop."""
        logger.info("task %s: stop requested", task_id, extra={"task_id": task_id, "worker": self._worker})

    def lease_lost(self, task_id: str) -> None:
        said = "the lease of task %s is lost: it will run elsewhere, and is stopped here at its next checkpoint"
        logger.warning(said, task_id, extra={"task_id": task_id, "worker": self._worker})

    def ended_elsewhere(self, task_id: str) -> None:
        """It has ended after its lease was lost."""
        said = "task %s ended after its lease was lost: its outcome is another worker's"
        logger.warning(said, task_id, extra={"task_id": task_id, "worker": self._worker})


def _how(record: TaskRecord) -> str:
    """How a cancelled task came to its end, as metrics name it: a step of the ladder, ``expired``, or ``other`` where its handler
    ended by itself, and what is revoked is not tried again."""
    if record.ended_by is not None:
        return record.ended_by.how.value
    return "expired" if record.revocation is None else "other"


def complain(text: str, task_id: str) -> None:
    """Log the exception that is being handled; raises nothing, though an inline handler may have changed the logging."""
    try:
        logger.exception(text, task_id, extra={"task_id": task_id})  # noqa: LOG004 - called in handlers of exceptions only
    except Exception:  # noqa: BLE001, S110 - there is nothing left to say it with
        pass


def report_fault(phase: Phase, event: Event, task_id: str) -> None:
    """Log that something was reported of a delivery that can't happen in its phase."""
    try:
        raise ImpossibleTransition(phase, event)
    except ImpossibleTransition:
        complain("task %s: an impossible event was reported", task_id)
