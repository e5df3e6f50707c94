"""Messages as they arrive: checked, decoded, looked up, and handed to the table of transitions.

Revoked here, the task never starts; it is recorded as cancelled before its message is acknowledged (G3, G9).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from stem_kombu.adapter import Adapter
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import ControlError, TaskNotRegistered
from stem_kombu.messages.adapting import adapted
from stem_kombu.messages.decoding import UNKNOWN_NAME, DecodedTask, UnreadableTask, decode_delivery
from stem_kombu.messages.resending import body_of, consumed_queue, put_aside, said_id
from stem_kombu.outcome import TaskError
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.task import Task, TaskMessage, TaskRegistry
from stem_kombu.transports.names import unreadable_queue_name
from stem_kombu.worker.delivery_events import Action, Do, Event, Facts
from stem_kombu.worker.lost_workers import lost_with
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.task_history import is_over
from stem_kombu.worker.task_lifecycle import TaskLifecycle
from stem_kombu.worker.transitions import decide

if TYPE_CHECKING:
    from kombu import Message

logger = logging.getLogger(__name__)

#: A task that can't be looked up still needs an entry until its refusal is recorded.
_UNKNOWN = Task("unknown", lambda *_: None, context=True)


class Admission:
    """Takes messages in, in the consumer's thread.

    ``signed(raw)`` says whether a message is signed, and raises :class:`Untrusted` for one that must not run; ``None``:
    nothing has to be signed. ``has_dead_letters(queue)`` is asked when something is found in the queue that is no task.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        lifecycle: TaskLifecycle,
        *,
        signed: Callable[[object], bool] | None = None,
        has_dead_letters: Callable[[str], bool],
        adapters: Mapping[str, Adapter],
    ) -> None:
        self._adapters = adapters
        self._signed = signed
        self._has_dead_letters = lru_cache(maxsize=None)(has_dead_letters)
        self._registry = registry
        self._lifecycle = lifecycle
        self._facts, self._inflight = lifecycle.facts, lifecycle.inflight
        self._drops = DropCounter(f"messages of the task queues of worker {self._facts.worker}", self._facts.clock)

    @property
    def dropped(self) -> dict[str, int]:
        """How many messages could not be read or verified, by reason."""
        return self._drops.dropped

    def malformed(self, error: Exception) -> None:
        """Count what lay in a queue and was no message at all; the source has put it aside."""
        self._drops.count("put-aside")
        logger.warning("%s", error)

    def receive(self, raw: Message, generation: int) -> None:
        """Take one message of connection ``generation`` in."""
        signed = False
        try:
            # Before anything is read of it: a forged message with a real task's id must leave no trace on that task.
            signed = self._signed is not None and self._signed(raw)
            arrived = adapted(raw, self._adapters, self._facts.clock.utcnow()) if self._adapters else None
            if arrived is None:
                arrived = decode_delivery(raw, signed=signed)
        except Untrusted as error:
            self._drops.drop(error.reason, str(error))
            is_task = isinstance(raw.headers, Mapping) and raw.headers.get("task") is not None
            self._not_run(Event.UNTRUSTED, error, raw, generation, Facts(is_task=is_task))
        except UnreadableTask as error:
            self._drops.drop(error.code, str(error))
            said = TaskError(type(error).__name__, f"{error}; {error.hint}" if error.hint else str(error))
            facts = self._facts.of_message(error.task)._replace(
                error=said, is_signed=signed or self._signed is None, is_task=error.task.name != UNKNOWN_NAME
            )
            self._not_run(Event.UNREADABLE, error, raw, generation, facts)
        except ControlError as error:
            self._not_run(Event.FOREIGN, error, raw, generation, Facts(is_task=False))
        else:
            self._decoded(arrived, raw, generation)

    def _decoded(self, arrived: DecodedTask, raw: Message, generation: int) -> None:
        message, redelivered = arrived.message, arrived.redelivered
        self._lifecycle.received(message, redelivered=redelivered)
        if redelivered and self._is_adopted(message, raw, generation):
            return
        # A next attempt is published again when its confirmation was lost, or by a worker that was suspended for so long that
        # another one had the task meanwhile; a first attempt is spared the look.
        record = checked_at = None
        if redelivered or message.attempt > 1:
            checked_at, record = self._facts.clock.monotonic(), self._facts.history.record(message)
            if record is not None and is_over(message, record):
                facts = Facts(message, recorded=record)
                self._end(message, raw, generation, decide(Phase.ARRIVED, Event.RECORDED_BEFORE, facts))
                return
        time_passed = self._facts.refresh() or checked_at is not None
        if not self._facts.ownership.is_ours_on_arrival(raw, generation, time_passed=time_passed):
            return  # the broker has it again, and this thread is about to find that out
        if message.enqueued_at is None and not redelivered and message.attempt == 1:
            # Celery's messages don't say when they were sent: what comes for the first time is a new life of its id.
            message = replace(message, enqueued_at=self._facts.clock.utcnow())
        task, missing = self._task(message)
        # In the table before anything is decided, so that no revocation passes it by.
        delivery = self._inflight.add(message, task, raw, generation, redelivered, Phase.ARRIVED)
        delivery.history_checked_at = checked_at
        delivery.lost = dict.fromkeys(lost_with(message, record))
        action = decide(Phase.ARRIVED, Event.DECODED, self._facts.of_decoded(delivery, missing))
        if action.settlement is None:
            self._lifecycle.accepted(delivery)
        self._lifecycle.carry_out(delivery, action)

    def _is_adopted(self, message: TaskMessage, raw: Message, generation: int) -> bool:
        """Whether a redelivery has taken the place of a delivery that is here already."""
        here = self._inflight.same_attempt(message, generation, leased=self._facts.ownership.leased)
        action = decide(Phase.ARRIVED, Event.REDELIVERED, Facts(is_here=here is not None))
        return action.do is Do.ADOPT and here is not None and self._inflight.adopt(here, raw, generation)

    def _task(self, message: TaskMessage) -> tuple[Task, TaskNotRegistered | None]:
        """What runs the message; or a place holder, and why nothing does."""
        try:
            return self._registry.get(message.name), None
        except TaskNotRegistered as missing:
            return _UNKNOWN, missing

    def _not_run(self, event: Event, error: ControlError, raw: Message, generation: int, facts: Facts) -> None:
        """Have it decided about what can't be run."""
        if not facts.is_task and (facts.is_signed or event is not Event.UNREADABLE):
            facts = self._looked_up(raw, error, facts)
        action = decide(Phase.ARRIVED, event, facts)
        if action.do is Do.REJECT:
            raw.reject()
            return
        message = facts.message or facts.aside
        assert message is not None
        self._end(message, raw, generation, action)

    def _looked_up(self, raw: Message, error: Exception, facts: Facts) -> Facts:
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
        self._drops.count("dead-lettered" if rejected else "put-aside")
        return facts._replace(has_dead_letters=rejected, aside=put_aside(raw, str(error)))

    def _end(self, message: TaskMessage, raw: Message, generation: int, action: Action) -> None:
        """Carry out what was decided about a message that is not to run."""
        delivery = self._inflight.add(message, _UNKNOWN, raw, generation, True, Phase.ARRIVED)
        self._lifecycle.carry_out(delivery, action)
