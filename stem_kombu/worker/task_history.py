"""What the backend tells of a task's past: an attempt whose message comes again, or was sent again, may need no further run."""

from __future__ import annotations

from stem_kombu import timeouts
from stem_kombu.backends.base import TaskStates
from stem_kombu.clock import Clock
from stem_kombu.errors import StoreError
from stem_kombu.outcome import TaskRecord, TaskState, sent_later
from stem_kombu.task import TaskMessage
from stem_kombu.transports.outages import Outage


class TaskHistory:
    """Asks ``states``; without them nothing is known."""

    def __init__(self, states: TaskStates | None, clock: Clock) -> None:
        self._states = states
        self._outage = Outage(
            "could not find out whether tasks have ended before", str(getattr(states, "url", "")), clock
        )
        self._clock = clock
        self._failed_at = float("-inf")

    def is_stale(self, checked_at: float | None) -> bool:
        """Whether what was asked at that monotonic time (``None``: it need not be asked) is to be asked again before a start."""
        if checked_at is None:
            return False
        now = self._clock.monotonic()
        return now - checked_at > timeouts.HISTORY_CHECKED and now - self._failed_at > timeouts.HISTORY_QUIET

    def recorded_end(self, message: TaskMessage) -> TaskRecord | None:
        """The record by which this attempt needs no further run; ``None``: there is none, or the backend can't tell."""
        record = self.record(message)
        return record if record is not None and is_over(message, record) else None

    def record(self, message: TaskMessage) -> TaskRecord | None:
        """What is recorded of the task, ``None`` for nothing, or when the backend can't tell."""
        if self._states is None:
            return None
        try:
            record = self._states.get(message.task_id)
        except StoreError as error:
            self._failed_at = self._clock.monotonic()
            self._outage.failed(error)
            return None
        self._outage.worked()
        return record


def is_over(message: TaskMessage, record: TaskRecord) -> bool:
    """Whether the record says that this attempt needs no further run: the task has ended, or the next attempt is at the
    broker already, for it is published before anything is recorded of it. What was sent later under the same id is another
    life of the task."""
    if sent_later(message.enqueued_at, record.enqueued_at):
        return False
    if record.state.is_terminal or sent_later(record.enqueued_at, message.enqueued_at):
        return record.state.is_terminal
    return record.attempt > message.attempt or (
        record.attempt == message.attempt and record.state is TaskState.RETRYING
    )
