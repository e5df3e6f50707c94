"""Messages of a team's own format run as the tasks that the application's adapter names, on every broker (I8)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stem_kombu import IncomingMessage, Stem, TaskCall, TaskContext, Worker
from stem_kombu.errors import ConfigurationError
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from stem_kombu.transports.names import unreadable_queue_name
from tests.waiting import eventually
from tests.worker.test_unreadable import QUEUE, Sender

app = Stem("adapted")
KEPT = unreadable_queue_name(QUEUE)


@app.adapter(queue=QUEUE)
def order(message: IncomingMessage) -> TaskCall | None:
    body = json.loads(message.body)
    if "order" not in body:
        return None
    if body["order"] == "odd":
        return TaskCall("adapted.bill", args="odd")
    name = "adapted.absent" if body["order"] == "absent" else "adapted.bill"
    return TaskCall(name, (body["order"],), {"times": body.get("times", 1)}, body.get("event"))


@app.task("adapted.bill", max_retries=3, retry_backoff=0.0)
def bill(ctx: TaskContext, number: int, times: int = 1, gate: str | None = None) -> list[Any]:
    if ctx.attempt < times:
        raise ConnectionError("the bank does not answer")
    if isinstance(number, str):
        Gate(number).reach()
        Gate(number).wait_open(checkpoint=ctx.heartbeat)
    return [number, ctx.attempt, ctx.queue]


@pytest.fixture
def sender(broker_url: str, tmp_path: Any) -> Iterator[Sender]:
    backend = f"sqlite:///{tmp_path / 'state.db'}"
    app.configure(Settings.from_env({}, broker=broker_url, backend=backend, sync_interval=0.3))
    sender = Sender(broker_url)
    yield sender
    sender.connection.close()
    app.close()


@pytest.fixture
def worker(sender: Sender) -> Iterator[Worker]:
    with Worker(app, queues=[QUEUE], concurrency=1, name="adapting") as worker:
        yield worker


def ended(task_id: str) -> TaskRecord:
    found: list[TaskRecord] = []

    def is_over() -> bool:
        record = app.result(task_id).record
        if record is not None and record.state.is_terminal:
            found.append(record)
        return bool(found)

    eventually(is_over, 60)
    return found[0]


def test_an_event_of_the_team_runs_as_a_task_and_is_tried_again_as_one(sender: Sender, worker: Worker) -> None:
    sender.publish(json.dumps({"order": 7, "times": 3, "event": "e-7"}))
    sender.publish(json.dumps({"order": 8}), message_id="m-8")
    record = ended("e-7")
    assert (record.state, record.result, record.name) == (TaskState.SUCCEEDED, [7, 3, QUEUE], "adapted.bill")
    assert ended("m-8").result == [8, 1, QUEUE]


def test_such_a_task_is_revoked_by_its_id(sender: Sender, worker: Worker, tmp_path: Any) -> None:
    gate = Gate(tmp_path / "gate")
    sender.publish(json.dumps({"order": gate.path, "event": "e-9"}))
    gate.wait_reached()
    app.control.revoke(["e-9"], terminate=True, reason="wrong order")
    record = ended("e-9")
    assert record.state is TaskState.CANCELLED
    assert record.revocation is not None and record.revocation.reason == "wrong order"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"invoice": 1}', "the message has no header 'task'"),
        ("no json", "adapter order of queue 'orders' failed: JSONDecodeError"),
        (
            '{"order": "odd"}',
            "adapter order of queue 'orders' returned a value that is not a task: args of task 'adapted.bill' is",
        ),
    ],
)
def test_what_is_no_task_by_the_adapter_is_kept_and_named(
    sender: Sender, worker: Worker, caplog: pytest.LogCaptureFixture, body: str, said: str
) -> None:
    with caplog.at_level(logging.WARNING):
        sender.publish(body, message_id="m-1")
        sender.publish(json.dumps({"order": 1, "event": "after"}))
        assert ended("after").state is TaskState.SUCCEEDED
        (kept,) = eventually(lambda: sender.lie_in(KEPT), 30)
    assert kept.body in (body, body.encode())
    (line,) = [one.getMessage() for one in caplog.records if "a message that is no task" in one.getMessage()]
    assert said in line
    assert "id m-1" in line


def test_a_task_that_the_application_does_not_have_ends_in_a_record(sender: Sender, worker: Worker) -> None:
    sender.publish(json.dumps({"order": "absent", "event": "e-1"}))
    error = ended("e-1").error
    assert error is not None and error.type == "TaskNotRegistered"


def test_tasks_in_the_same_queue_go_past_the_adapter(sender: Sender, worker: Worker) -> None:
    assert bill.apply_async((1,), queue=QUEUE).get(timeout=60) == [1, 1, QUEUE]


def of_two(one: Any, two: Any) -> None: ...


async def waits(message: Any) -> None: ...


@pytest.mark.parametrize("wrong", [of_two, waits, 5])
def test_what_can_be_no_adapter_is_refused_where_it_is_defined(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="adapter"):
        Stem("other").adapter(queue="orders")(wrong)


@pytest.mark.parametrize("queue", ["", " ", None])
def test_an_adapter_needs_a_queue(queue: Any) -> None:
    with pytest.raises(ConfigurationError, match="queue"):
        Stem("other").adapter(queue=queue)


def test_a_queue_has_one_adapter() -> None:
    other = Stem("other")
    adapter: Callable[..., Any] = other.adapter(queue="orders")(order)
    assert other.adapter(queue="orders")(adapter) is order
    with pytest.raises(ConfigurationError, match="queue 'orders' has two adapters"):
        other.adapter(queue="orders")(lambda message: None)
