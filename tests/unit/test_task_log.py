"""The life of a task in log lines: one each, one for masses, and none below the level."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta, timezone

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.logs import JsonFormatter, TextFormatter
from stem_kombu.outcome import EndedBy, EndedHow, TaskError, TaskRecord, TaskState
from stem_kombu.revocation import Revocation
from stem_kombu.task import TaskMessage
from stem_kombu.worker import task_log
from stem_kombu.worker.task_log import MOST_LINES, TaskLog

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
NAME = task_log.__name__
REVOKED = Revocation("shop", "t", 3, NOW, True, "wrong picture", "ada@host", None)


class Standing:
    """A clock that stands, until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    utcnow = staticmethod(SYSTEM.utcnow)


def message(task_id: str = "t") -> TaskMessage:
    return TaskMessage(task_id=task_id, name="tasks.render", queue="images", attempt=2, enqueued_at=NOW)


def record(state: TaskState, **fields: object) -> TaskRecord:
    return TaskRecord("t", "tasks.render", state, attempt=2, **fields)  # type: ignore[arg-type]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> TaskLog:
    caplog.set_level(logging.INFO, NAME)
    return TaskLog("alpha", SYSTEM)


def test_each_step_of_a_tasks_life_is_one_line(log: TaskLog, caplog: pytest.LogCaptureFixture) -> None:
    log.received(message())
    log.started(message())
    log.ended(message(), record(TaskState.SUCCEEDED), 0.5)
    later = record(
        TaskState.RETRYING, ended_at=NOW, retry_at=NOW + timedelta(seconds=2), error=TaskError("OSError", "a\nb")
    )
    log.ended(message(), later, 0.25)
    how = EndedBy(EndedHow.CHECKPOINT, 0.01)
    log.ended(message(), record(TaskState.CANCELLED, revocation=REVOKED, ended_by=how), 3.0)
    assert [one.getMessage() for one in caplog.records] == [
        "task t (tasks.render) received from queue images",
        "task t (tasks.render) started, attempt 2",
        "task t (tasks.render) succeeded in 0.500 s",
        "task t (tasks.render) retries in 2 s, after attempt 2: OSError: a\\nb",
        "task t (tasks.render) cancelled at a checkpoint, 0.010 s after the request, by ada@host: wrong picture",
    ]
    lines = [json.loads(JsonFormatter().format(one)) for one in caplog.records]
    assert {(one["task_id"], one["task_name"], one["attempt"], one["worker"]) for one in lines} == {
        ("t", "tasks.render", 2, "alpha")
    }
    assert (lines[2]["runtime_s"], lines[3]["retry_in_s"], lines[3]["error"]) == (0.5, 2.0, "OSError")
    assert (lines[4]["requested_by"], lines[4]["reason"]) == ("ada@host", "wrong picture")
    assert {one["level"] for one in lines} == {"INFO"}


def test_a_failure_is_an_error_with_its_traceback_whatever_formats_it(
    log: TaskLog, caplog: pytest.LogCaptureFixture
) -> None:
    error = TaskError(
        "ValueError", "no \x1b[31mred", "Traceback (most recent call last):\n  x\nValueError: no \x1b[31mred\n"
    )
    caplog.set_level(logging.ERROR, NAME)
    log.started(message())
    log.ended(message(), record(TaskState.FAILED, error=error, started_at=NOW), 0.1)
    (one,) = caplog.records
    assert one.levelno == logging.ERROR
    trace = "Traceback (most recent call last):\n  x\nValueError: no \\x1b[31mred"
    said = f"task t (tasks.render) failed in 0.100 s, attempt 2: ValueError: no \\x1b[31mred\n{trace}"
    assert logging.Formatter("%(message)s").format(one) == said
    assert TextFormatter("%(levelname)s%(in_task)s: %(message)s").format(one) == f"ERROR: {said}"
    assert json.loads(JsonFormatter().format(one))["exception"] == trace


def test_a_task_that_the_application_does_not_have_is_told_with_what_to_do(
    log: TaskLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.ended(
        message(), record(TaskState.FAILED, error=TaskError("TaskNotRegistered", "task 'x' is not registered")), None
    )
    assert "is refused: task 'x' is not registered; import the module" in caplog.text


def test_a_mass_revoke_makes_a_few_lines_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    clock = Standing()
    log = TaskLog("alpha", clock)  # type: ignore[arg-type]
    revoked = [Revocation("shop", f"t{n}", n, NOW, True, "incident", "ada@host", None) for n in range(5000)]
    log.revoked(revoked, frozenset(one.task_id for one in revoked))
    cancelled = record(TaskState.CANCELLED, revocation=REVOKED, ended_by=EndedBy(EndedHow.BEFORE_START))
    for one in revoked:
        log.ended(message(one.task_id), cancelled, None)
    log.flush()
    texts = [one.getMessage() for one in caplog.records]
    assert texts[0] == "5,000 tasks are revoked, by ada@host: incident (the first of them)"
    assert len(texts) == 1 + MOST_LINES + 1
    assert texts[-1] == f"{5000 - MOST_LINES:,} more tasks cancelled; each has its record"
    clock.now = 2.0
    log.ended(message(), cancelled, None)  # the mass is over: it has a line of its own
    assert "cancelled before it started, by ada@host: wrong picture" in caplog.records[-1].getMessage()


def test_nothing_is_made_below_the_level(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.WARNING, NAME)
    made: list[str] = []
    monkeypatch.setattr(task_log, "_put", lambda *arguments: made.append(arguments[1]))
    log = TaskLog("alpha", SYSTEM)
    log.received(message())
    log.started(message())
    log.ended(message(), record(TaskState.SUCCEEDED), 0.5)
    log.revoked([REVOKED], frozenset({"t"}))
    log.ended(message(), record(TaskState.CANCELLED, revocation=REVOKED), 0.5)
    assert made == []


def test_a_line_is_a_record_like_those_that_logging_makes(
    log: TaskLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.started(message())
    seen: list[str] = []

    class Own(logging.LogRecord):
        def getMessage(self) -> str:
            seen.append(self.name)
            return super().getMessage()

    with monkeypatch.context() as patch:
        patch.setattr(logging, "_logRecordFactory", Own)  # as setLogRecordFactory does
        log.started(message())
    ours, theirs = caplog.records
    assert isinstance(theirs, Own)  # a factory of the program's own sees each record
    assert seen
    assert vars(ours).keys() == vars(theirs).keys()
    same = vars(ours).keys() - {"created", "msecs", "relativeCreated", "asctime", "message"}
    assert {name: vars(ours)[name] for name in same} == {name: vars(theirs)[name] for name in same}
    assert ours.created <= theirs.created < ours.created + 60
    assert ours.relativeCreated <= theirs.relativeCreated < ours.relativeCreated + 60_000
    assert 0 <= ours.msecs < 1000


def test_the_time_of_a_line_follows_the_second() -> None:
    formatter, plain = TextFormatter("%(asctime)s"), logging.Formatter("%(asctime)s")
    for created in (1_769_860_800.25, 1_769_860_800.75, 1_769_860_801.0, 1_769_860_800.25):
        line = logging.makeLogRecord({"created": created, "msecs": created % 1 * 1000})
        assert formatter.format(line) == plain.format(line)
