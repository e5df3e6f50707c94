"""What follows from how an attempt ended: what is recorded, whether it is tried again, what becomes of the message.

Pure decisions; :mod:`stem_kombu.worker.recorder` carries them out, in the order record, then acknowledge (G9, G18).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from itertools import zip_longest

from stem_kombu.durations import LONGEST
from stem_kombu.outcome import EndedBy, EndedHow, Ending, Outcome, TaskError, TaskRecord, TaskState
from stem_kombu.revocation import Revocation
from stem_kombu.task import MOST_RETRIES, TaskMessage, TaskOptions


class MessageDisposition(str, Enum):
    """What becomes of the message once the outcome is recorded."""

    ACKNOWLEDGE = "acknowledge"
    REQUEUE = "requeue"
    REJECT = "reject"  # to the dead-letter exchange where there is one
    LEAVE = "leave"  # the lease is lost: it is another worker's now


@dataclass(slots=True)  # never changed; frozen, it would cost three times as much, for each delivery
class Settlement:
    """``retry`` is published before anything is recorded, so that a crash in between runs a task twice, never not at
    all. ``total`` is the counter that goes up."""

    record: TaskRecord | None
    then: MessageDisposition
    total: str | None = None
    retry: TaskMessage | None = None

    @property
    def ending(self) -> str:
        return "released" if self.record is None else self.record.state.value

    @property
    def cancels(self) -> bool:
        """Whether it says that the task was revoked, or expired."""
        return self.record is not None and self.record.state is TaskState.CANCELLED

    @property
    def refuses(self) -> bool:
        """Of a delivery that has not started: whether it never will, and that is to be recorded."""
        return self.record is not None and self.record.state.is_terminal


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why an outcome waits: the ``step`` that fails (``publish``, ``record`` or ``result``), since when (monotonic), how
    often it was tried, and the last error."""

    step: str
    since_mono: float
    tries: int
    error: str


def retry_delay(options: TaskOptions, attempt: int, jitter: float) -> float:
    """Seconds before the attempt after ``attempt``; ``jitter`` is a random number from 0 to 1."""
    # The exponent is capped so that a long-lived task can't overflow a float before the maximum is taken.
    delay = min(options.retry_backoff * 2.0 ** min(attempt - 1, 60), options.retry_backoff_max)
    return min(delay * (1.0 + options.retry_jitter * jitter), LONGEST)


def settle(
    message: TaskMessage,
    options: TaskOptions,
    outcome: Outcome,
    *,
    worker: str,
    started_at: datetime | None,
    revocation: Revocation | None,
    max_retries: int,
    now: datetime,
    jitter: float,
    fleet_now: datetime | None = None,
    lost_workers: tuple[str, ...] = (),
    stopped_after: float | None = None,
) -> Settlement:
    """What follows from ``outcome``. ``revocation`` is the live one of this task, if there is one: a revoked task is never
    retried, whether or not its running attempt was told to stop (G3, G9). ``stopped_after``: seconds from the request to stop
    to this end. ``fleet_now`` is the time from which the next attempt is dated, ``now`` without it.

    Total: an outcome whose times are beyond the calendar ends the task as failed, saying so."""
    kind = outcome.kind
    if kind is Ending.SUCCEEDED:
        succeeded = TaskRecord(
            message.task_id, message.name, TaskState.SUCCEEDED, message.attempt, message.queue, worker, outcome.result,
            enqueued_at=message.enqueued_at, started_at=started_at, ended_at=now, lost_workers=lost_workers,
            retried_from=message.retried_from,
        )  # fmt: skip
        return Settlement(succeeded, MessageDisposition.ACKNOWLEDGE, "succeeded")
    record = partial(
        TaskRecord,
        task_id=message.task_id,
        name=message.name,
        attempt=message.attempt,
        queue=message.queue,
        worker=worker,
        enqueued_at=message.enqueued_at,
        started_at=started_at,
        ended_at=now,
        lost_workers=lost_workers,
        retried_from=message.retried_from,
    )
    if kind is Ending.CANCELLED:
        cause = outcome.revocation or revocation
        how = EndedBy(EndedHow.BEFORE_START) if started_at is None else EndedBy(EndedHow.CHECKPOINT, stopped_after)
        cancelled = record(
            state=TaskState.CANCELLED, revocation=cause, ended_by=_by_steps(outcome, stopped_after) or how
        )
        return Settlement(cancelled, MessageDisposition.ACKNOWLEDGE, "cancelled")
    if kind is Ending.RELEASED:
        return Settlement(None, MessageDisposition.REQUEUE)
    if kind is Ending.REJECTED:
        return Settlement(record(state=TaskState.FAILED, error=outcome.error), MessageDisposition.ACKNOWLEDGE, "failed")
    # FAILED, LOST and RETRY: another attempt, unless it was revoked or the retries are used up.
    if revocation is not None:
        how_ended = _by_steps(outcome, stopped_after)
        cancelled = record(state=TaskState.CANCELLED, revocation=revocation, error=outcome.error, ended_by=how_ended)
        return Settlement(cancelled, MessageDisposition.ACKNOWLEDGE, "cancelled")
    if message.attempt > min(max_retries, MOST_RETRIES - 1):
        return Settlement(record(state=TaskState.FAILED, error=outcome.error), MessageDisposition.ACKNOWLEDGE, "failed")
    delay = retry_delay(options, message.attempt, jitter) if outcome.retry_in is None else outcome.retry_in
    try:
        due = (fleet_now or now) + timedelta(seconds=delay)
    except (ValueError, OverflowError, TypeError) as impossible:
        said = f"it can't be tried again after {delay!r} s: {impossible}"
        return Settlement(
            record(state=TaskState.FAILED, error=_also(outcome.error, said)), MessageDisposition.ACKNOWLEDGE, "failed"
        )
    return Settlement(
        record(state=TaskState.RETRYING, error=outcome.error, retry_at=due),
        MessageDisposition.ACKNOWLEDGE,
        "retried",
        retry=replace(message, attempt=message.attempt + 1, eta=due),
    )


def _by_steps(outcome: Outcome, after: float | None) -> EndedBy | None:
    """By the last signal of the ladder, ``None`` where none was sent."""
    return EndedBy(outcome.steps[-1].how, after, outcome.steps) if outcome.steps else None


def unsendable(settlement: Settlement, why: Exception) -> Settlement:
    """The settlement whose next attempt can't be sent (a Celery producer may put into a message what JSON has not): the
    attempt was the last one."""
    failed = settlement.record
    if failed is None:  # it was never recorded here: what was only held goes back to its queue
        return Settlement(None, MessageDisposition.REQUEUE)
    error = _also(failed.error, f"it can't be tried again: {why}")
    return Settlement(
        replace(failed, state=TaskState.FAILED, error=error, retry_at=None), MessageDisposition.ACKNOWLEDGE, "failed"
    )


def _also(error: TaskError | None, said: str) -> TaskError:
    return TaskError("Unsendable", said) if error is None else replace(error, message=f"{error.message}; {said}")


def not_storable(settlement: Settlement, tries: int, why: Exception) -> Settlement:
    """The settlement with a small record that any place can hold, for one that can't be written as it is: a result is
    replaced by the failure ``ResultNotStorable``, other outcomes stay what they are, with a short text in ASCII."""
    record = settlement.record
    assert record is not None
    said = _plain(f"could not be stored in {tries} tries: {why}", 1000)
    if record.state is TaskState.SUCCEEDED:
        state, error = TaskState.FAILED, TaskError(RESULT_NOT_STORABLE, f"the result {said}")
    else:
        state, known = record.state, record.error
        kind, text = (known.type, known.message) if known is not None else (RESULT_NOT_STORABLE, "")
        error = TaskError(_plain(kind, 200), f"{_plain(text, 1000)} (cut short, as the whole {said})")
    small = replace(
        record,
        state=state,
        result=None,
        error=error,
        name=_plain(record.name, 200),
        queue=None if record.queue is None else _plain(record.queue, 200),
        worker=None if record.worker is None else _plain(record.worker, 200),
        revocation=None if record.revocation is None else replace(record.revocation, reason=None, requested_by=None),
    )
    return replace(settlement, record=small, total=None)


def _plain(text: str, most: int) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii").replace("\0", "\\x00")[:most]


def refused(
    message: TaskMessage,
    *,
    worker: str,
    now: datetime,
    revocation: Revocation | None = None,
    error: TaskError | None = None,
    then: MessageDisposition = MessageDisposition.ACKNOWLEDGE,
    lost_workers: tuple[str, ...] = (),
) -> Settlement:
    """A message that must not run here: revoked, or past its own expiry (both ``cancelled``, the latter with an error that
    says so); with an error and no revocation of another type it ``failed``."""
    cancelled = revocation is not None or (error is not None and error.type == EXPIRED)
    record = TaskRecord(
        task_id=message.task_id,
        name=message.name,
        state=TaskState.CANCELLED if cancelled else TaskState.FAILED,
        attempt=message.attempt,
        queue=message.queue,
        worker=worker,
        error=error,
        revocation=revocation,
        enqueued_at=message.enqueued_at,
        ended_at=now,
        lost_workers=lost_workers,
        retried_from=message.retried_from,
        ended_by=None if revocation is None else EndedBy(EndedHow.BEFORE_START),
    )
    return Settlement(record, then, "cancelled" if cancelled else "failed")


def followers(message: TaskMessage, record: TaskRecord) -> list[TaskRecord]:
    """Records of the tasks that would have followed this one in a Celery canvas, which none will start: they end as it did."""
    origin = message.celery
    if origin is None or not origin.canvas or not record.state.is_terminal:
        return []
    return [
        replace(record, task_id=task_id, name=name, attempt=1, queue=None, enqueued_at=None, started_at=None)
        for task_id, name in zip_longest(origin.dependents, origin.dependent_names, fillvalue="(unknown)")
    ]


def recorded_before(message: TaskMessage, record: TaskRecord) -> Settlement:
    """A message whose attempt needs no further run, by what is recorded. The worker that did so may have died before a client
    of Celery was told."""
    again = None if message.celery is None or not record.state.is_terminal else record
    return Settlement(again, MessageDisposition.ACKNOWLEDGE)


def expiry(message: TaskMessage, now: datetime) -> TaskError | None:
    """Why the message may not start any more, ``None`` while it may."""
    if message.expires_at is None or message.expires_at > now:
        return None
    return TaskError(EXPIRED, f"the message expired at {message.expires_at.isoformat()}, before it could start")


def unsupported_canvas(message: TaskMessage) -> TaskError | None:
    """Why a message of Celery's can't run here at all, ``None`` when it can."""
    if message.celery is None or not message.celery.canvas:
        return None
    parts = ", ".join(message.celery.canvas)
    return TaskError(
        UNSUPPORTED_CANVAS,
        f"task {message.name!r} was sent with a canvas ({parts}), which Stem can't run; send it without links, "
        "chains and chords, or to a queue that a Celery worker consumes",
    )


EXPIRED = "Expired"
RESULT_NOT_STORABLE = "ResultNotStorable"
UNSUPPORTED_CANVAS = "UnsupportedCanvas"
