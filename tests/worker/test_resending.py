"""Every way in which a worker sends a task again keeps its queue, broker, priority and headers (G18)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest

from stem_kombu import timeouts
from stem_kombu.app import Stem
from stem_kombu.messages.resending import consumed_queue
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.settings import Settings
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.queues import declared_task_queue
from stem_kombu.worker.admission import Admission
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker import apps
from tests.worker.conftest import WorkerMaker

QUEUE = "feeds"
KINDS = {
    "sqlite": ("default", "direct", "topic", "fanout"),
    "redis": ("default", "direct", "topic"),
    "amqp": ("default", "direct", "topic", "fanout", "headers"),
}
#: How the first attempt ends: as the handler of ``*.ends_once`` understands it.
WAYS = {
    "inline.ends_once": ("retry", "raise"),
    "coroutine.ends_once": ("retry", "raise"),
    "isolate.ends_once": ("retry", "raise", "lost child", "time limit"),
}
PROPERTIES = {"priority": 7, "reply_to": "answers", "correlation_id": "own", "app_id": "shop", "message_id": "m"}
HEADERS = {
    "lang": "py", "root_id": "root", "parent_id": "parent", "group": "group", "retries": 0, "shadow": "shadowed",
    "stamped_headers": ["mark"], "stamps": {"mark": "42"}, "tenant": "acme", "traceparent": "00-0af7-b7ad-01",
    "sentry-trace": "771a", "nested": {"deep": [1, None, {"x": True}]}, "origin": "client", "argsrepr": "()",
}  # fmt: skip


class Feeds:
    """A queue that exchanges of every kind route to, with keys that are no queue's name."""

    def __init__(self, url: str, queue: str = QUEUE) -> None:
        self.connection: Any = connect(open_connection(url))
        self.kinds = KINDS[url.partition(":")[0]]
        self.queue = queue
        channel = self.connection.default_channel
        entity = declared_task_queue(self.connection, queue, max_priority=9)
        for kind in self.kinds[1:]:
            exchange = kombu.Exchange(f"{queue}-{kind}", type=kind, durable=True)(channel)
            exchange.declare()
            arguments = {"x-match": "all", "shop": "yes"} if kind == "headers" else None
            key = {"direct": "order.created", "topic": "feed.#"}.get(kind, "")
            entity(channel).bind_to(exchange.name, routing_key=key, arguments=arguments)
        self._producer = kombu.Producer(channel, auto_declare=False)

    def publish(self, kind: str, task_id: str, name: str, *args: Any, **headers: Any) -> str:
        key = {"default": self.queue, "direct": "order.created", "topic": "feed.import"}.get(kind, "")
        exchange = "" if kind == "default" else f"{self.queue}-{kind}"
        sent = {**HEADERS, **headers, "id": task_id, "task": name, **({"shop": "yes"} if kind == "headers" else {})}
        self._producer.publish(
            json.dumps([list(args), {}, {}]), exchange=exchange, routing_key=key, headers=sent, retry=False,
            content_type="application/json", content_encoding="utf-8", **PROPERTIES,
        )  # fmt: skip
        return task_id


@pytest.fixture
def feeds(broker_url: str) -> Iterator[Feeds]:
    made = Feeds(broker_url)
    yield made
    made.connection.release()


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[str, Any, Any]]]:
    """What each worker of this process takes in: queue, headers and properties of each message, by task id."""
    seen: dict[str, list[tuple[str, Any, Any]]] = {}
    receive = Admission.receive

    def spy(self: Admission, raw: Any, generation: int) -> None:
        properties = {name: raw.properties.get(name) for name in PROPERTIES}
        seen.setdefault(str(raw.headers.get("id")), []).append((consumed_queue(raw), dict(raw.headers), properties))
        receive(self, raw, generation)

    monkeypatch.setattr(Admission, "receive", spy)
    return seen


def ended(app: Stem, task_id: str) -> TaskRecord:
    assert app.backend is not None
    held = app.backend.get
    found = eventually(
        lambda: (record := held(task_id)) and record.state.is_terminal and record, 60, lambda: held(task_id)
    )
    assert isinstance(found, TaskRecord)
    return found


def sent_as(headers: dict[str, Any]) -> dict[str, Any]:
    own = {"retries", "eta", "stem-eta", "stem-headers", "redelivered"}
    return {name: value for name, value in headers.items() if name not in own}


def test_g18_a_next_attempt_comes_back_as_it_came_whatever_ended_the_one_before(
    app: Stem, feeds: Feeds, arrivals: dict[str, Any], make_worker: WorkerMaker
) -> None:
    make_worker(queues=[QUEUE, "default"])
    ids = {
        feeds.publish(kind, f"{kind}/{name}/{way}", name, way, timelimit=[1.0, None] if way == "time limit" else None)
        for kind in feeds.kinds
        for name, ways in WAYS.items()
        for way in ways
    }
    for task_id in ids:
        record = ended(app, task_id)
        assert (record.state, record.attempt, record.queue) == (TaskState.SUCCEEDED, 2, QUEUE), record
        assert record.result == {"queue": QUEUE, "tenant": "acme", "nested": HEADERS["nested"]}
        # A worker with two kinds of tasks may have put a message back in between.
        assert sorted({headers["retries"] for _, headers, _ in arrivals[task_id]}) == [0, 1]
        for queue, headers, properties in arrivals[task_id]:
            assert (queue, properties, sent_as(headers)) == (QUEUE, PROPERTIES, sent_as(arrivals[task_id][0][1]))


@pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
def test_g18_a_far_eta_is_put_back_into_the_queue_that_was_consumed(
    app: Stem, feeds: Feeds, arrivals: dict[str, Any], make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "AMQP_LONGEST_HOLD", 0.2)
    worker = make_worker(queues=[QUEUE])
    ids = [feeds.publish(kind, f"far-{kind}", "inline.add", 1, 2, eta="2100-01-01T00:00:00Z") for kind in feeds.kinds]
    # Again and again, and always the same message of the same attempt.
    eventually(lambda: all(len(arrivals.get(task_id, [])) >= 3 for task_id in ids), 60, lambda: arrivals)
    for task_id in ids:
        assert {queue for queue, _, _ in arrivals[task_id]} == {QUEUE}
        assert all(sent_as(headers) == sent_as(arrivals[task_id][0][1]) for _, headers, _ in arrivals[task_id])
        assert all((headers["retries"], properties) == (0, PROPERTIES) for _, headers, properties in arrivals[task_id])
    assert worker.recorder.trouble is None


def test_g18_what_a_stopping_worker_gives_back_lies_in_its_queue_as_it_came(
    app: Stem, feeds: Feeds, arrivals: dict[str, Any], make_worker: WorkerMaker
) -> None:
    # Held until a retry that is far away, and given back by the worker that stops.
    worker = make_worker("alpha", queues=[QUEUE])
    ids = [feeds.publish(kind, f"back-{kind}", "inline.ends_once", "far retry") for kind in feeds.kinds]
    embedded = feeds.kinds == KINDS["sqlite"]  # whose broker keeps what is not due yet
    eventually(
        lambda: all(len(arrivals.get(task_id, [])) == (1 if embedded else 2) for task_id in ids), 60, lambda: arrivals
    )
    assert app.backend is not None
    held = app.backend.get
    eventually(lambda: all((found := held(task_id)) and found.state is TaskState.RETRYING for task_id in ids), 60)
    worker.stop()
    make_worker("beta", queues=[QUEUE])
    if not embedded:
        eventually(lambda: all(len(arrivals[task_id]) == 3 for task_id in ids), 60, lambda: arrivals)
    for task_id in ids:
        for queue, headers, properties in arrivals[task_id]:
            assert (queue, properties, sent_as(headers)) == (QUEUE, PROPERTIES, sent_as(arrivals[task_id][0][1]))


@pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)
def test_g18_urgent_tasks_are_tried_again_before_others_that_wait(
    app: Stem, feeds: Feeds, make_worker: WorkerMaker, broker_url: str, tmp_path: Any
) -> None:
    gates = [apps.Gate(tmp_path / name) for name in ("first", "second")]
    urgent, later, last = (0, 4, 9) if broker_url.startswith("redis") else (9, 5, 0)  # Kombu's Redis takes 0 first
    producer = kombu.Producer(feeds.connection.default_channel, auto_declare=False)

    def publish(task_id: str, name: str, *args: Any, priority: int) -> None:
        headers = {"id": task_id, "task": name}
        producer.publish([list(args), {}, {}], exchange="", routing_key=QUEUE, headers=headers, priority=priority)

    make_worker(queues=[QUEUE], concurrency=1, inline_slots=1)
    publish("gate", "inline.gated", gates[0].path, priority=urgent)
    gates[0].wait_reached()
    publish("urgent", "inline.ends_once", "retry", priority=urgent)
    publish("later", "inline.gated", gates[1].path, priority=later)
    for number in range(400):
        publish(f"last-{number}", "inline.add", 1, priority=last)
    gates[0].open()
    held = app.backend.get  # type: ignore[union-attr]
    # Its next attempt is at the broker when that is recorded, and the only slot is taken.
    eventually(lambda: (found := held("urgent")) and found.state is TaskState.RETRYING, 60)
    gates[1].wait_reached()
    gates[1].open()
    again = ended(app, "urgent").started_at
    before = [
        started for n in range(400) if again and (started := ended(app, f"last-{n}").started_at) and started < again
    ]
    assert len(before) < 200, "what waits without a priority ran first, and not only what was here already"


def test_g18_beside_your_connection_a_next_attempt_goes_to_its_broker_and_not_to_that_of_the_settings(
    broker_url: str, backend_url: str, arrivals: dict[str, Any], tmp_path: Any
) -> None:
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    apps.app.configure(Settings.from_env({}, broker=elsewhere, backend=backend_url))
    feeds = Feeds(broker_url)
    with kombu.Connection(broker_url) as yours, Worker(apps.app, connection=yours, queues=[QUEUE], concurrency=1):
        ids = [
            feeds.publish(kind, f"yours-{kind}-{way}", f"{mode}.ends_once", way)
            for kind in feeds.kinds
            for mode, way in (("inline", "raise"), ("isolate", "lost child"))
        ]
        for task_id in ids:
            assert ended(apps.app, task_id).attempt == 2
            assert {headers["retries"] for _, headers, _ in arrivals[task_id]} == {0, 1}
    feeds.connection.release()
    apps.app.close()
    assert not (tmp_path / "elsewhere.db").exists()


def test_g18_a_worker_shows_the_queue_that_it_consumed_everywhere(
    app: Stem, feeds: Feeds, make_worker: WorkerMaker, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make_worker(queues=[QUEUE])
    gates = {kind: apps.Gate(tmp_path / kind) for kind in feeds.kinds}
    for kind, gate in gates.items():
        feeds.publish(kind, f"shown-{kind}", "inline.gated", gate.path)
    for gate in gates.values():
        gate.wait_reached()
    assert {task.queue for task in worker.view.in_flight()} == {QUEUE}
    running: Callable[[str], Any] = app.backend.get  # type: ignore[union-attr]
    eventually(lambda: {found.queue for kind in gates if (found := running(f"shown-{kind}"))} == {QUEUE})
    for gate in gates.values():
        gate.open()
    assert {ended(app, f"shown-{kind}").queue for kind in gates} == {QUEUE}
