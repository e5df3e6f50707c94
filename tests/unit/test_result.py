"""What a sender learns of its task."""

from __future__ import annotations

import itertools
import threading
from datetime import datetime, timezone
from typing import Any

import pytest

from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.errors import ConfigurationError, ResultTimeout, TaskCancelled, TaskFailed
from stem_kombu.outcome import TaskError, TaskRecord, TaskState
from stem_kombu.result import AsyncResult
from stem_kombu.revocation import Revocation

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
_numbers = itertools.count()


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend(f"result-{next(_numbers)}")


@pytest.fixture
def result(backend: MemoryBackend) -> AsyncResult:
    return AsyncResult("t1", backend)


def recorded(backend: MemoryBackend, state: TaskState, **fields: Any) -> TaskRecord:
    (record,) = backend.record([TaskRecord("t1", "tasks.render", state, **fields)])
    return record


def test_a_task_that_nobody_recorded_has_no_state(result: AsyncResult) -> None:
    assert (result.id, result.state, result.record) == ("t1", None, None)


def test_state_and_record_are_asked_for_anew_each_time(backend: MemoryBackend, result: AsyncResult) -> None:
    recorded(backend, TaskState.RUNNING)
    seen = [(result.state, result.record)]
    ended = recorded(backend, TaskState.SUCCEEDED)
    seen.append((result.state, result.record))

    assert [state for state, _ in seen] == [TaskState.RUNNING, TaskState.SUCCEEDED]
    assert seen[1][1] == ended


@pytest.mark.parametrize("value", [None, 0, "", [1, {"a": None}]])
def test_get_returns_what_the_handler_returned(backend: MemoryBackend, result: AsyncResult, value: Any) -> None:
    recorded(backend, TaskState.SUCCEEDED, result=value)

    assert result.get(timeout=0) == value


def test_get_waits_until_the_task_has_ended(backend: MemoryBackend, result: AsyncResult) -> None:
    recorded(backend, TaskState.RUNNING)
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.append(result.get(timeout=60)))
    waiter.start()

    recorded(backend, TaskState.SUCCEEDED, result=42)
    waiter.join(60)

    assert found == [42]


def test_get_raises_what_the_handler_raised_as_task_failed(backend: MemoryBackend, result: AsyncResult) -> None:
    recorded(backend, TaskState.FAILED, error=TaskError("ValueError", "no such tile", "Traceback (most recent …"))

    with pytest.raises(TaskFailed, match="task t1 failed: ValueError: no such tile") as raised:
        result.get(timeout=0)

    assert raised.value.error_type == "ValueError"
    assert raised.value.traceback == "Traceback (most recent …"


def test_get_says_who_cancelled_the_task_and_why(backend: MemoryBackend, result: AsyncResult) -> None:
    revocation = Revocation("stem", "t1", 7, NOW, reason="wrong data", requested_by="ada@ops")
    recorded(backend, TaskState.CANCELLED, revocation=revocation)

    with pytest.raises(TaskCancelled, match="task t1 was cancelled by ada@ops: wrong data"):
        result.get(timeout=0)


def test_get_of_a_task_cancelled_without_a_word_says_only_that(backend: MemoryBackend, result: AsyncResult) -> None:
    recorded(backend, TaskState.CANCELLED)

    with pytest.raises(TaskCancelled, match=r"^task t1 was cancelled$"):
        result.get(timeout=0)


@pytest.mark.parametrize(
    ("state", "shown"), [(TaskState.QUEUED, "queued"), (TaskState.RETRYING, "retrying"), (None, "unknown")]
)
def test_get_gives_up_after_its_time_and_says_how_the_task_stands(
    backend: MemoryBackend, result: AsyncResult, state: TaskState | None, shown: str
) -> None:
    if state is not None:
        recorded(backend, state)

    with pytest.raises(ResultTimeout, match=f"task t1 has not ended within 0.01 s; it is {shown}"):
        result.get(timeout=0.01)


@pytest.mark.parametrize(
    "ask", [lambda r: r.get(), lambda r: r.state, lambda r: r.record], ids=["get", "state", "record"]
)
def test_without_a_backend_asking_says_what_to_set(ask: Any) -> None:
    result = AsyncResult("t1", None)

    with pytest.raises(ConfigurationError, match="t1") as raised:
        ask(result)

    assert result.id == "t1"
    assert "STEM_RESULT_BACKEND_URL" in (raised.value.hint or "")
