"""What becomes of a delivery when it arrives: run it, hold it for its eta, refuse it, or recognise it.

Revoked here, the task never starts; it is recorded as cancelled before its message is acknowledged (G3, G9).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

from stem_kombu.backends.base import TaskStates
from stem_kombu.clock import Clock
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import ControlError, TaskNotRegistered
from stem_kombu.messages.decoding import UNKNOWN_NAME, UnreadableTask, decode_delivery
from stem_kombu.messages.resending import body_of, consumed_queue, put_aside, said_id
from stem_kombu.outcome import TaskError, TaskRecord
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.task import Task, TaskMessage, TaskRegistry
from stem_kombu.transports.names import unreadable_queue_name
from stem_kombu.worker.delayed import DelayedDeliveries
from stem_kombu.worker.deliveries import Delivery, InFlight, Phase
from stem_kombu.worker.lost_workers import LostWorkers, lost_with
from stem_kombu.worker.settlement import (
    UNSUPPORTED_CANVAS,
    MessageDisposition,
    Settlement,
    expiry,
    recorded_before,
    refused,
)
from stem_kombu.worker.task_history import TaskHistory, is_over

logger = logging.getLogger(__name__)

#: Seconds since the consumer last fetched something, after which its connection may well have been lost meanwhile.
FETCHED_LATELY = 0.01
#: A task that can't be looked up still needs an entry until its refusal is recorded.
_UNKNOWN = Task("unknown", lambda *_: None, context=True)


class Desk(Protocol):
    """What intake asks of the rest of the worker."""

    def submit(self, delivery: Delivery) -> None:
        """Run the delivery as soon as a slot is free."""

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        """Record and acknowledge."""

    def reject(self, message: Any) -> None:
        """Let a message go that must not run here: to the dead-letter exchange where there is one."""

    def leased(self, delivery: Delivery) -> None:
        """A delivery is held from now on: keep its lease alive."""

    def received(self, message: TaskMessage, redelivered: bool) -> None:
        """Count a message that has come, unless this worker itself gave it back."""


class Admission:
    """Decides about deliveries, in the consumer's thread. ``leased``: messages stay with a worker for a while, not with a
    connection.

    ``signed(raw)`` says whether a message is signed, and raises :class:`Untrusted` for one that must not run; without it
    nobody asks. ``has_dead_letters(queue)`` is asked when something is found in the queue that is no task.
    ``still_held(raw, generation, looked)``: whether what that connection brought is still this worker's; ``looked``: a
    store or backend has been asked, which may have taken its time.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        inflight: InFlight,
        cache: RevocationCache,
        states: TaskStates | None,
        holds: DelayedDeliveries,
        desk: Desk,
        *,
        ensure_fresh: Callable[[], bool],
        still_held: Callable[[Any, int, bool], bool],
        leased: bool,
        lost_workers: LostWorkers,
        worker: str,
        clock: Clock,
        signed: Callable[[Any], bool] | None = None,
        has_dead_letters: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._signed = signed
        self._has_dead_letters = lru_cache(maxsize=None)(has_dead_letters)
        self._registry = registry
        self._inflight = inflight
        self._cache = cache
        #: What the backend tells, to whom it matters.
        self.past = TaskHistory(states, clock)
        self._holds = holds
        self._desk = desk
        self._ensure_fresh = ensure_fresh
        self._still_held = still_held
        self._leased = leased
        self._lost_workers = lost_workers
        self._worker = worker
        self._clock = clock
        self._complaints = DropCounter(f"messages of the task queues of worker {worker}", clock)

    @property
    def dropped(self) -> dict[str, int]:
        """How many messages could not be read or were not believed, by reason."""
        return self._complaints.dropped

    def garbage(self, error: Exception) -> None:
        """Count what lay in a queue and was no message at all; the source has put it aside."""
        self._complaints.count("put-aside")
        logger.warning("%s", error)

    def receive(self, raw: Any, generation: int) -> None:
        """Take one message of connection ``generation`` in."""
        signed = False
        try:
            # Before anything is read of it: a forged message with a real task's id must leave no trace on that task.
            signed = self._signed is not None and self._signed(raw)
            arrived = decode_delivery(raw, signed=signed)
        except Untrusted as error:
            self._complaints.drop(error.reason, str(error))
            if isinstance(raw.headers, Mapping) and raw.headers.get("task") is not None:
                self._desk.reject(raw)
            else:
                self._keep(raw, generation, error)
            return
        except UnreadableTask as error:
            self._complaints.drop(error.code, str(error))
            # Where tasks are signed, what nobody signed and can't be read may bear any task's id.
            if signed or self._signed is None:
                self._refuse_unreadable(error, raw, generation)
            else:
                self._desk.reject(raw)
            return
        except ControlError as error:
            self._keep(raw, generation, error)
            return
        message, redelivered = arrived.message, arrived.redelivered
        self._desk.received(message, redelivered)
        if redelivered and self._runs_here(message, raw, generation):
            return
        # A next attempt is published again when its confirmation was lost, or by a worker that was suspended for so long that
        # another one had the task meanwhile; a first attempt is spared the look.
        told_at = self._clock.monotonic() if redelivered or message.attempt > 1 else None
        record = None if told_at is None else self.past.record(message)
        if record is not None and is_over(message, record):
            self._acknowledge_over(message, record, raw, generation)
            return
        looked = self._ensure_fresh() or told_at is not None
        if not self._still_held(raw, generation, looked):
            return  # the broker has it again, and this thread is about to find that out
        now = self._clock.utcnow()
        if message.enqueued_at is None and not redelivered and message.attempt == 1:
            # Celery's messages don't say when they were sent: what comes for the first time is a new life of its id.
            message = replace(message, enqueued_at=now)
        held_for_eta = message.eta is not None and message.eta > now
        phase = Phase.HELD if held_for_eta else Phase.RESERVED
        task = self._registry.get(message.name) if message.name in self._registry else _UNKNOWN
        delivery = self._inflight.add(message, task, raw, generation, redelivered, phase)
        delivery.told_at = told_at
        delivery.lost = dict.fromkeys(lost_with(message, record))
        refusal = self._refusal(message)
        if refusal is not None:
            self._inflight.ended(delivery.token)
            self._desk.settle(delivery, refusal)
            return
        self._desk.leased(delivery)
        if held_for_eta:
            self._holds.hold(delivery)
        elif self._lost_workers.is_suspect(delivery):
            self._inflight.waits(delivery.token, Phase.HELD)
            self._holds.look_again(delivery, 0.0)
        else:
            self._desk.submit(delivery)

    def _refuse_unreadable(self, error: UnreadableTask, raw: Any, generation: int) -> None:
        """Have whoever waits for it told; with a dead-letter exchange its message can still be sent to a Celery worker."""
        task, now = error.task, self._clock.utcnow()
        said = TaskError(type(error).__name__, f"{error}; {error.hint}" if error.hint else str(error))
        revocation = self._cache.get(task.task_id)
        settlement = refused(
            task,
            worker=self._worker,
            now=now,
            revocation=revocation,
            error=None if revocation else said,
            then=MessageDisposition.REJECT,
        )
        if task.name == UNKNOWN_NAME:
            self._keep(raw, generation, error, task, settlement)  # it may as well be no task
        else:
            self._settle_unread(task, raw, generation, settlement)

    def _keep(
        self,
        raw: Any,
        generation: int,
        error: Exception,
        task: TaskMessage | None = None,
        settlement: Settlement | None = None,
    ) -> None:
        """What is no task is another application's: it goes to the dead-letter exchange, or into a queue of its own."""
        queue, body = consumed_queue(raw), body_of(raw)
        rejected = self._has_dead_letters(queue)
        logger.warning(
            "queue %s: a message that is no task goes to %s: id %s, %d bytes, %s",
            queue,
            "the queue's dead-letter exchange" if rejected else f"queue {unreadable_queue_name(queue)}",
            said_id(raw) or "unknown",
            len(body) if isinstance(body, bytes) else 0,
            error,
        )
        self._complaints.count("dead-lettered" if rejected else "put-aside")
        aside = put_aside(raw, str(error))
        settlement = Settlement(None, MessageDisposition.REJECT) if settlement is None else settlement
        if not rejected:
            settlement = replace(settlement, then=MessageDisposition.ACKNOWLEDGE, retry=aside)
        self._settle_unread(task or aside, raw, generation, settlement)

    def _settle_unread(self, message: TaskMessage, raw: Any, generation: int, settlement: Settlement) -> None:
        delivery = self._inflight.add(message, _UNKNOWN, raw, generation, True, Phase.RESERVED)
        self._inflight.ended(delivery.token)
        self._desk.settle(delivery, settlement)

    def _runs_here(self, message: TaskMessage, raw: Any, generation: int) -> bool:
        """Whether a redelivery has taken the place of a delivery that is here already."""
        running = self._inflight.same_attempt(message, generation, leased=self._leased)
        return running is not None and self._inflight.adopt(running, raw, generation)

    def _acknowledge_over(self, message: TaskMessage, record: TaskRecord, raw: Any, generation: int) -> None:
        """Acknowledge an attempt that needs no further run, because what came of it is recorded."""
        self._settle_unread(message, raw, generation, recorded_before(message, record))

    def _refusal(self, message: TaskMessage) -> Settlement | None:
        now = self._clock.utcnow()
        revocation = self._cache.get(message.task_id)
        if revocation is not None:
            logger.info("task %s is revoked and does not start", message.task_id, extra={"task_id": message.task_id})
            return refused(message, worker=self._worker, now=now, revocation=revocation)
        expired = expiry(message, now)
        if expired is not None:
            return refused(message, worker=self._worker, now=now, error=expired)
        if message.celery is not None and message.celery.canvas:
            parts = ", ".join(message.celery.canvas)
            error = TaskError(
                UNSUPPORTED_CANVAS,
                f"task {message.name!r} was sent with a canvas ({parts}), which Stem can't run; send it without links, "
                "chains and chords, or to a queue that a Celery worker consumes",
            )
            logger.error("task %s is refused: %s", message.task_id, error.message, extra={"task_id": message.task_id})
            # Rejected, not acknowledged: with a dead-letter exchange it can still be sent to a worker that can.
            return refused(message, worker=self._worker, now=now, error=error, then=MessageDisposition.REJECT)
        try:
            self._registry.get(message.name)
        except TaskNotRegistered as missing:
            logger.error("%s (task %s): %s", missing, message.task_id, missing.hint, extra={"task_id": message.task_id})
            return refused(message, worker=self._worker, now=now, error=TaskError("TaskNotRegistered", str(missing)))
        return None
