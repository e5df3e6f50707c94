"""The life of each task as log lines: received, started, and how the attempt ended.

A failure is an ERROR with its traceback, everything else is INFO. Each record has the fields ``task_id``, ``task_name``,
``attempt``, ``worker`` and ``queue``, and those of its step. Below their level lines cost one look at the level.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from stem_kombu import machine, timeouts
from stem_kombu.clock import SYSTEM, Clock, isoformat
from stem_kombu.concurrency import threads
from stem_kombu.outcome import EndedBy, EndedHow, Ending, Outcome, TaskError, TaskRecord, TaskState
from stem_kombu.revocation import Revocation
from stem_kombu.task import NOT_REGISTERED_HINT, TaskMessage

logger = logging.getLogger(__name__)

#: Cancelled tasks that have lines of their own within ``timeouts.TASK_LOG_SPAN``; of the others only the number is logged.
MOST_LINES = 10
_HOW = {
    EndedHow.BEFORE_START: "before it started",
    EndedHow.CHECKPOINT: "at a checkpoint",
    EndedHow.TERM: "after SIGTERM",
    EndedHow.KILL: "by SIGKILL",
}


class TaskLog:
    """Lines of the tasks of one worker. No method raises, though an inline handler may have changed the logging."""

    def __init__(self, worker: str, clock: Clock) -> None:
        self._worker = worker
        self._now = clock.monotonic
        self._lock = threads.Lock()
        self._span_began = float("-inf")
        self._lines = 0
        self._more = 0

    @property
    def is_on(self) -> bool:
        """Whether INFO lines are written."""
        return logger.isEnabledFor(logging.INFO)

    def received(self, message: TaskMessage) -> None:
        """It is going to run, or waits for its time."""
        if self.is_on:
            later = "" if message.eta is None else f", to start at {isoformat(message.eta)}"
            self._write(logging.INFO, message, f"received from queue {message.queue}{later}", {})

    def started(self, message: TaskMessage) -> None:
        """Its handler is about to be called."""
        if self.is_on:
            self._write(logging.INFO, message, f"started, attempt {message.attempt}", {})

    def released(self, message: TaskMessage, error: TaskError) -> None:
        """Its attempt goes back to the queue because of an error that is not its own."""
        if self.is_on:
            self._write(logging.INFO, message, f"goes back to its queue: {error.type}: {error.message}", {})

    def ended(self, message: TaskMessage, record: TaskRecord, ran: float | None) -> None:
        """That is recorded of the attempt, whose handler ran for ``ran`` seconds; ``None``: it was not called."""
        if record.state is TaskState.FAILED:
            self._failed(message, record, ran)
        elif not self.is_on:
            return
        elif record.state is TaskState.SUCCEEDED:
            self._write(logging.INFO, message, f"succeeded{_in(ran)}", {"runtime_s": _rounded(ran)})
        elif record.state is TaskState.RETRYING:
            self._retried(message, record, ran)
        elif record.state is TaskState.CANCELLED and self._may_have_a_line():
            self._cancelled(message, record, ran)

    def revoked(self, revocations: Iterable[Revocation], task_ids: frozenset[str]) -> None:
        """These of the revocations are in force now: one line, however many they are."""
        if not task_ids or not self.is_on:
            return
        first = next((one for one in revocations if one.task_id in task_ids), None)
        if first is None:
            return
        what = f"task {first.task_id} is" if len(task_ids) == 1 else f"{len(task_ids):,} tasks are"
        more = "" if len(task_ids) == 1 else " (the first of them)"
        fields = {"worker": self._worker, "revoked": len(task_ids), **_why(first)}
        if len(task_ids) == 1:
            fields["task_id"] = first.task_id
        _put(logging.INFO, f"{what} revoked{_by(first)}{more}", fields)

    # -- lines --------------------------------------------------------------------------------------------------------

    def _failed(self, message: TaskMessage, record: TaskRecord, ran: float | None) -> None:
        error = record.error or TaskError("Unknown", "no error was recorded")
        if record.started_at is None and ran is None:
            hint = f"; {NOT_REGISTERED_HINT}" if error.type == "TaskNotRegistered" else ""
            said = f"is refused: {error.message}{hint}"
        else:
            said = f"failed{_in(ran)}, attempt {message.attempt}: {error.type}: {error.message}"
        fields = {"runtime_s": _rounded(ran), "error": error.type}
        self._write(logging.ERROR, message, said, fields, error.traceback)

    def _retried(self, message: TaskMessage, record: TaskRecord, ran: float | None) -> None:
        delay = None
        if record.retry_at is not None and record.ended_at is not None:
            delay = max(0.0, (record.retry_at - record.ended_at).total_seconds())
        why = "" if record.error is None else f": {record.error.type}: {record.error.message}"
        fields = {
            "runtime_s": _rounded(ran),
            "retry_in_s": _rounded(delay),
            "error": None if record.error is None else record.error.type,
        }
        when = "soon" if delay is None else f"in {delay:.3g} s"
        self._write(logging.INFO, message, f"retries {when}, after attempt {message.attempt}{why}", fields)

    def _cancelled(self, message: TaskMessage, record: TaskRecord, ran: float | None) -> None:
        if record.revocation is None:
            why = "" if record.error is None else f": {record.error.message}"
            self._write(logging.INFO, message, f"cancelled{why}", {"runtime_s": _rounded(ran)})
            return
        how = _ended(record.ended_by)
        fields = {"runtime_s": _rounded(ran), **_why(record.revocation)}
        self._write(logging.INFO, message, f"cancelled{how}{_by(record.revocation)}", fields)

    def _write(
        self,
        level: int,
        message: TaskMessage,
        said: str,
        fields: Mapping[str, object],
        traceback: str | None = None,
    ) -> None:
        held = {
            "task_id": message.task_id,
            "task_name": message.name,
            "attempt": message.attempt,
            "worker": self._worker,
            "queue": message.queue,
            **fields,
        }
        _put(level, f"task {message.task_id} ({message.name}) {said}", held, traceback)

    # -- masses -------------------------------------------------------------------------------------------------------

    def _may_have_a_line(self) -> bool:
        """Whether one more cancelled task has a line; else it is counted, and the number is logged at the end of the span."""
        now = self._now()
        with self._lock:
            if now - self._span_began >= timeouts.TASK_LOG_SPAN and self._more == 0:
                self._span_began, self._lines = now, 0
            if self._lines < MOST_LINES:
                self._lines += 1
                return True
            self._more += 1
            if self._more == 1:
                timer = threads.Timer(timeouts.TASK_LOG_SPAN, self.flush)
                timer.name, timer.daemon = "stem-task-log", True
                timer.start()
            return False

    def flush(self) -> None:
        """Log how many tasks were cancelled without a line of their own."""
        with self._lock:
            more, self._more, self._lines = self._more, 0, 0
            self._span_began = self._now()
        if more:
            fields = {"worker": self._worker, "cancelled": more}
            _put(logging.INFO, f"{more:,} more tasks cancelled; each has its record", fields)


def _put(level: int, text: str, fields: Mapping[str, object], traceback: str | None = None) -> None:
    try:
        if not logger.isEnabledFor(level):
            return
        record = _record(level, _one_line(text), fields)
        if traceback:
            record.exc_text = "\n".join(map(_one_line, traceback.rstrip("\n").split("\n")))
        logger.handle(record)
    except Exception:  # noqa: BLE001, S110 - there is nothing left to say it with
        pass


class _Line(logging.LogRecord):
    """A record of this module, with what is the same for all of them taken from the first: :class:`logging.LogRecord` looks it up
    anew, which takes longer than to write the line."""

    def __init__(self, level: int, text: str, fields: Mapping[str, object]) -> None:
        created, thread = SYSTEM.now(), threads.current_thread()
        self.__dict__ = {
            **_FIRST,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": text,
            "created": created,
            "msecs": int((created - int(created)) * 1000) + 0.0,
            "relativeCreated": _FIRST["relativeCreated"] + (created - _FIRST["created"]) * 1000,
            "thread": thread.ident,
            "threadName": thread.name,
            "process": machine.getpid(),
            **fields,
        }


_FIRST = dict(vars(logging.LogRecord(logger.name, logging.INFO, __file__, 0, "", (), None)))


def _record(level: int, text: str, fields: Mapping[str, object]) -> logging.LogRecord:
    if logging.getLogRecordFactory() is logging.LogRecord:
        return _Line(level, text, fields)
    # The program has a factory of its own: it sees each record. The caller is not looked for; it is always this module.
    return logger.makeRecord(logger.name, level, __file__, 0, text, (), None, None, fields)


def _one_line(text: str) -> str:
    """The text with what a terminal obeys written as escapes, so that no sender of tasks can write lines of its own."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def released_by(outcome: Outcome) -> TaskError | None:
    """The error by which an attempt goes back to its queue, ``None`` where it does not."""
    return outcome.error if outcome.kind is Ending.RELEASED else None


def _in(ran: float | None) -> str:
    return "" if ran is None else f" in {ran:.3f} s"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _ended(ended_by: EndedBy | None) -> str:
    if ended_by is None:
        return ", and not tried again"
    after = "" if ended_by.after is None else f", {ended_by.after:.3f} s after the request"
    return f" {_HOW[ended_by.how]}{after}"


def _by(revocation: Revocation) -> str:
    by = f", by {revocation.requested_by}" if revocation.requested_by else ""
    return f"{by}: {revocation.reason}" if revocation.reason else by


def _why(revocation: Revocation) -> dict[str, object]:
    return {"requested_by": revocation.requested_by, "reason": revocation.reason}
