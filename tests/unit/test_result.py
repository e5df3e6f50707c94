"""What a sender learns of its task."""

from __future__ import annotations

import asyncio
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
def result(backend: MemoryBackend) -> AsyncResult[Any]:
    return AsyncResult("t1", backend)


def recorded(backend: MemoryBackend, state: TaskState, **fields: Any) -> TaskRecord:
    (record,) = backend.record([TaskRecord("t1", "tasks.render", state, **fields)])
    return record


def test_a_task_that_nobody_recorded_has_no_state(result: AsyncResult[Any]) -> None:
    assert (result.id, result.state, result.record) == ("t1", None, None)


def test_state_and_record_are_asked_for_anew_each_time(backend: MemoryBackend, result: AsyncResult[Any]) -> None:
    recorded(backend, TaskState.RUNNING)
    seen = [(result.state, result.record)]
    ended = recorded(backend, TaskState.SUCCEEDED)
    seen.append((result.state, result.record))

    assert [state for state, _ in seen] == [TaskState.RUNNING, TaskState.SUCCEEDED]
    assert seen[1][1] == ended


@pytest.mark.parametrize("value", [None, 0, "", [1, {"a": None}]])
def test_get_returns_what_the_handler_returned(backend: MemoryBackend, result: AsyncResult[Any], value: Any) -> None:
    recorded(backend, TaskState.SUCCEEDED, result=value)

    assert result.get(timeout=0) == value


def test_get_waits_until_the_task_has_ended(backend: MemoryBackend, result: AsyncResult[Any]) -> None:
    recorded(backend, TaskState.RUNNING)
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.append(result.get(timeout=60)))
    waiter.start()

    recorded(backend, TaskState.SUCCEEDED, result=42)
    waiter.join(60)

    assert found == [42]


def test_get_raises_what_the_handler_raised_as_task_failed(backend: MemoryBackend, result: AsyncResult[Any]) -> None:
    recorded(backend, TaskState.FAILED, error=TaskError("ValueError", "no such tile", "Traceback (most recent …"))

    with pytest.raises(TaskFailed, match="task t1 failed: ValueError: no such tile") as raised:
        result.get(timeout=0)

    assert raised.value.error_type == "ValueError"
    assert raised.value.traceback == "Traceback (most recent …"


def test_get_says_who_cancelled_the_task_and_why(backend: MemoryBackend, result: AsyncResult[Any]) -> None:
    revocation = Revocation("stem", "t1", 7, NOW, reason="wrong data", requested_by="ada@ops")
    recorded(backend, TaskState.CANCELLED, revocation=revocation)

    with pytest.raises(TaskCancelled, match="task t1 was cancelled by ada@ops: wrong data"):
        result.get(timeout=0)


def test_get_of_a_task_cancelled_without_a_word_says_only_that(
    backend: MemoryBackend, result: AsyncResult[Any]
) -> None:
    recorded(backend, TaskState.CANCELLED)

    with pytest.raises(TaskCancelled, match=r"^task t1 was cancelled$"):
        result.get(timeout=0)


@pytest.mark.parametrize(
    ("state", "shown"), [(TaskState.QUEUED, "queued"), (TaskState.RETRYING, "retrying"), (None, "unknown")]
)
def test_get_gives_up_after_its_time_and_says_how_the_task_stands(
    backend: MemoryBackend, result: AsyncResult[Any], state: TaskState | None, shown: str
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


@pytest.mark.parametrize("state", [*TaskState, None])
def test_a_task_is_ready_once_it_has_ended(
    backend: MemoryBackend, result: AsyncResult[Any], state: TaskState | None
) -> None:
    if state is not None:
        recorded(backend, state)
    assert result.ready() is (state is not None and state.is_terminal)


def test_the_traceback_is_that_of_the_attempt_that_failed(backend: MemoryBackend, result: AsyncResult[Any]) -> None:
    assert result.traceback is None
    recorded(backend, TaskState.FAILED, error=TaskError("ValueError", "no", "Traceback …"))
    assert result.traceback == "Traceback …"


def test_a_coroutine_gets_what_get_returns_and_raises(backend: MemoryBackend, result: AsyncResult[Any]) -> None:
    async def wait_for_it() -> Any:
        waiting = asyncio.ensure_future(awaited(result))
        await asyncio.sleep(0)
        recorded(backend, TaskState.SUCCEEDED, result=[1])
        return await waiting

    assert asyncio.run(wait_for_it()) == [1]

    backend.record([TaskRecord("t2", "tasks.render", TaskState.FAILED, error=TaskError("ValueError", "no"))])
    with pytest.raises(TaskFailed, match="ValueError: no"):
        asyncio.run(awaited(AsyncResult("t2", backend)))
    with pytest.raises(ConfigurationError, match="there is no result backend"):
        asyncio.run(awaited(AsyncResult("t1", None)))


async def awaited(result: AsyncResult[Any]) -> Any:
    return await result


class Client:
    """A control client that notes how it is asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    @property
    def control(self) -> Client:
        return self

    def revoke(self, task_ids: Any, **options: Any) -> Any:
        self.asked = options


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"wait": 5.0}, (True, 5.0)),
        ({"wait": 5}, (True, 5)),
        ({"wait": True}, (True, None)),
        ({"wait": 5.0, "timeout": 2.0}, (True, 2.0)),
        ({}, (False, None)),
    ],
)
def test_a_number_for_wait_is_the_time_of_the_command(given: dict[str, Any], asked: tuple[bool, Any]) -> None:
    client = Client()
    AsyncResult[Any]("t1", None, client).revoke(**given)
    assert (client.asked["wait"], client.asked["timeout"]) == asked
