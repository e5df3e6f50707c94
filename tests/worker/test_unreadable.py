"""What can't be read: a task ends in a record, and what is no task is kept (G17, G18)."""

from __future__ import annotations

import json
import logging
import pickle
import zlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import kombu
import pytest
import redis

from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.errors import ConfigurationError
from stem_kombu.messages.encoding import LARGEST_BODY
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.dead_letters import has_dead_letters
from stem_kombu.transports.names import unreadable_queue_name
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker

QUEUE = "orders"
KEPT = unreadable_queue_name(QUEUE)
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
NAMED = {"task": "inline.add", "retries": 0}
#: Bodies, properties and headers of tasks whose id and name can be read.
UNREADABLE: dict[str, tuple[bytes, dict[str, Any], dict[str, Any]]] = {
    "no JSON": (b"[[1], {}", {}, {}),
    "typed as nothing": (b'[[{"__type__": "shape", "__value__": 1}], {}, {}]', {}, {}),
    "typed as no time": (b'[[{"__type__": "datetime", "__value__": "no time"}], {}, {}]', {}, {}),
    "too deep": (b"[[" + b"[" * 150 + b"]" * 150 + b"], {}, {}]", {}, {}),
    "too deep to parse": (b"[" * 100_000, {}, {}),
    "too large": (b'[["' + b"x" * LARGEST_BODY + b'"], {}, {}]', {}, {}),
    "no arguments": (b'{"a": 1}', {}, {}),
    "no text": (b"\xff\xfe\x00", {"content_encoding": "binary"}, {}),
    "YAML": (b"- - 1\n- {}\n", {"content_type": "application/x-yaml"}, {}),
    "pickle": (pickle.dumps([[1], {}, {}]), {"content_type": "application/x-python-serialize"}, {}),
    "cut compression": (zlib.compress(b"[[1], {}, {}]" * 99)[:-9], {}, {"compression": "application/x-gzip"}),
    "bomb": (zlib.compress(bytes(LARGEST_BODY + 9)), {}, {"compression": "zlib"}),
    "unknown compression": (b"x", {}, {"compression": "application/x-snappy"}),
    "odd eta": (b"[[1], {}, {}]", {}, {"eta": "soon"}),
    "odd expires": (b"[[1], {}, {}]", {}, {"expires": [1]}),
    "odd time limit": (b"[[1], {}, {}]", {}, {"timelimit": ["never", None]}),
    "odd retries": (b"[[1], {}, {}]", {}, {"retries": "many"}),
    "odd own headers": (b"[[1], {}, {}]", {}, {"stem-headers": "{"}),
}  # fmt: skip


class Sender:
    """Who publishes what it likes into the queue, which is bound to an exchange of another name."""

    def __init__(self, url: str, **arguments: Any) -> None:
        self.url = url
        self.connection: Any = connect(open_connection(url))
        self._channel = self.connection.default_channel
        exchange = kombu.Exchange("shop", type="direct", durable=True)
        kombu.Queue(QUEUE, exchange, routing_key="order.created", queue_arguments=arguments or None)(
            self._channel
        ).declare()
        self._producer = kombu.Producer(self._channel, auto_declare=False)

    def publish(self, body: Any, **properties: Any) -> None:
        self._producer.publish(
            body, exchange="shop", routing_key="order.created", retry=False, **{**JSON, **properties}
        )

    def lie_in(self, queue: str) -> list[Any]:
        """Messages that lie in that queue now; they are taken out."""
        found: list[Any] = []
        try:
            while (message := self._channel.basic_get(queue, no_ack=True)) is not None:
                found.append(
                    message if isinstance(message, kombu.Message) else self._channel.message_to_python(message)
                )
        except self.connection.channel_errors:  # there is no such queue
            self._channel = self.connection.channel()
        return found


@pytest.fixture
def sender(broker_url: str) -> Iterator[Sender]:
    made = Sender(broker_url)
    yield made
    made.connection.release()


def ended(app: Stem, task_id: str) -> TaskRecord:
    assert app.backend is not None
    held = app.backend.get
    found = eventually(
        lambda: (record := held(task_id)) and record.state.is_terminal and record, 60, lambda: held(task_id)
    )
    assert isinstance(found, TaskRecord)
    return found


def test_g18_a_task_that_cannot_be_read_ends_in_a_record_and_its_slot_is_free(
    app: Stem, sender: Sender, make_worker: WorkerMaker
) -> None:
    for name, (body, properties, headers) in UNREADABLE.items():
        sender.publish(body, headers={**NAMED, "id": name, **headers}, **properties)
    worker = make_worker(queues=[QUEUE], concurrency=1, inline_slots=1)
    for name in UNREADABLE:
        record = ended(app, name)
        assert record.error is not None
        kind = "ForeignMessage" if name in ("YAML", "pickle") else "UnreadableTask"
        assert (record.state, record.queue, record.error.type) == (TaskState.FAILED, QUEUE, kind), record
    assert app.send_task("inline.add", [1], queue=QUEUE).get(timeout=60) == 1
    eventually(lambda: len(worker.inflight) == 0, 30)
    assert worker.ownership.generation == 1
    assert sender.lie_in(KEPT) == []


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_on_redis_a_header_that_only_looks_typed_does_not_hide_its_task(
    app: Stem, sender: Sender, make_worker: WorkerMaker
) -> None:
    looks = {"__type__": "shape", "__value__": 1}
    for name, headers in {"own": {"drawn": looks}, "eta": {"eta": looks}}.items():
        sender.publish(b"[[1], {}, {}]", headers={**NAMED, "id": name, **headers})
    make_worker(queues=[QUEUE])
    assert ended(app, "own").state is TaskState.SUCCEEDED
    assert ended(app, "eta").state is TaskState.FAILED


def test_g3_a_revoked_task_that_cannot_be_read_is_cancelled(
    app: Stem, sender: Sender, make_worker: WorkerMaker, control: Any
) -> None:
    make_worker(queues=[QUEUE])
    control.revoke(["stopped"], reason="not this one")
    sender.publish(b"no JSON", headers={**NAMED, "id": "stopped"})
    assert ended(app, "stopped").state is TaskState.CANCELLED


def test_a_pickle_of_celerys_protocol_1_is_recorded_by_the_id_that_can_be_read(
    app: Stem, sender: Sender, make_worker: WorkerMaker
) -> None:
    make_worker(queues=[QUEUE])
    body = pickle.dumps({"task": "shop.add", "id": "v1", "args": [1]})
    for name in ("pickle-v1", "json-v1"):
        if name.startswith("pickle"):
            sender.publish(body, content_type="application/x-python-serialize", correlation_id=name, headers={})
        else:
            sender.publish(json.dumps({"task": "shop.add", "id": name, "args": [1]}), correlation_id=name, headers={})
        record = ended(app, name)
        assert record.error is not None
        assert (record.state, record.error.type) == (TaskState.FAILED, "ForeignMessage")
    # It may as well have been no task at all.
    assert [message.body for message in eventually(lambda: sender.lie_in(KEPT), 30)] == [body]


def test_g17_messages_that_are_no_tasks_are_kept_as_they_came_and_named(
    app: Stem, sender: Sender, make_worker: WorkerMaker, control: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make_worker(queues=[QUEUE])
    bodies = [json.dumps({"order": n, "event": "created", "card": "4711-0815"}) for n in range(5)]
    properties = {"message_id": "m-1", "reply_to": "shop-answers", "type": "order", "expiration": 3600}
    with caplog.at_level(logging.WARNING):
        for body in bodies:
            sender.publish(body, headers={"tenant": "acme", "deep": {"a": [1]}}, **properties)
        sender.publish(b"\x00\x01\x02", content_type="application/protobuf", content_encoding="binary")
        assert app.send_task("inline.add", [1], queue=QUEUE).get(timeout=60) == 1
        counted = eventually(
            lambda: (found := control.stats().replies[0].payload["dropped"]["tasks"]).get("put-aside") == 6 and found,
            30,
        )
        eventually(lambda: len(worker.inflight) == 0, 30)
    assert counted == {"put-aside": 6}
    found = sender.lie_in(KEPT)
    texts = [message.body if isinstance(message.body, str) else bytes(message.body).decode() for message in found]
    assert sorted(texts) == sorted([*bodies, "\x00\x01\x02"])
    for message in found[:5]:
        headers = {name: value for name, value in message.headers.items() if not name.startswith("stem-")}
        assert headers == {"tenant": "acme", "deep": {"a": [1]}}
        assert message.headers["stem-found-in"] == QUEUE
        kept = {name: message.properties.get(name) for name in ("message_id", "reply_to", "type", "expiration")}
        assert kept == {"message_id": "m-1", "reply_to": "shop-answers", "type": "order", "expiration": None}
    lines = [record.getMessage() for record in caplog.records if "no task" in record.getMessage()]
    assert len(lines) == 6
    assert all(f"queue {QUEUE}:" in line and KEPT in line and "bytes" in line for line in lines)
    assert sum("id m-1" in line for line in lines) == 5
    assert "4711" not in caplog.text


@pytest.mark.parametrize("broker_url", ["redis", "embedded"], indirect=True)
def test_g17_what_is_no_message_at_all_is_kept_too(
    app: Stem, sender: Sender, make_worker: WorkerMaker, control: Any, broker_url: str
) -> None:
    make_worker(queues=[QUEUE])
    if broker_url.startswith("redis"):
        client = redis.Redis.from_url(broker_url)
        texts = [b'{"order": 1}', b"no json", b"[]", b"\xff\x00"]
        client.lpush(QUEUE, *texts)
        eventually(lambda: client.llen(KEPT) == len(texts), 30)
        assert sorted(client.lrange(KEPT, 0, -1)) == sorted(texts)
        eventually(lambda: not client.hlen("stem-unacked"), 30)
        (reply,) = control.stats().replies
        assert reply.payload["dropped"]["tasks"] == {"put-aside": 4}
    else:
        import sqlite3

        with sqlite3.connect(broker_url.partition("://")[2], timeout=10) as database:
            row = "SELECT id, 0, ?, ? FROM stem_broker_queue WHERE name = ?"
            database.execute(
                f"INSERT INTO stem_broker_message (queue_id, rank, envelope, body) {row}", ("no", "[]", QUEUE)
            )
            where = "SELECT m.body FROM stem_broker_message m JOIN stem_broker_queue q ON q.id = m.queue_id WHERE q.name = ?"
            database.commit()
            eventually(lambda: database.execute(where, (KEPT,)).fetchall() == [("[]",)], 30)
    assert app.send_task("inline.add", [1], queue=QUEUE).get(timeout=60) == 1


@pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"x-max-priority": 5, "x-message-ttl": 3_600_000, "x-overflow": "reject-publish", "x-max-length": 1000},
        {"x-queue-type": "quorum", "x-delivery-limit": 50},
        {"x-single-active-consumer": True, "x-queue-mode": "lazy"},
    ],
    ids=["plain", "limits", "quorum", "modes"],
)
def test_g17_where_a_queue_has_a_dead_letter_exchange_that_is_where_they_go(
    app: Stem, make_worker: WorkerMaker, broker_url: str, arguments: dict[str, Any]
) -> None:
    with connect(open_connection(broker_url)) as connection:
        assert not has_dead_letters(connection, "nothing-yet")
        with pytest.raises(connection.channel_errors):
            connection.channel().queue_declare("nothing-yet", passive=True)
        dead = kombu.Exchange("dead", type="fanout", durable=True)
        kombu.Queue("letters", dead, durable=True)(connection.default_channel).declare()
        plain = kombu.Queue("without", queue_arguments=arguments, durable=True)(connection.default_channel)
        plain.declare()
        assert not has_dead_letters(connection, "without")
    sender = Sender(broker_url, **arguments, **{"x-dead-letter-exchange": "dead"})
    assert has_dead_letters(sender.connection, QUEUE)
    make_worker(queues=[QUEUE])
    sender.publish(json.dumps({"order": 1}))
    assert [json.loads(message.body) for message in eventually(lambda: sender.lie_in("letters"), 30)] == [{"order": 1}]
    assert sender.lie_in(KEPT) == []
    sender.connection.release()


def test_g18_a_task_of_celerys_that_expired_ends_in_a_record(
    app: Stem, sender: Sender, make_worker: WorkerMaker, broker_url: str
) -> None:
    """Celery gives the broker its expiry as well. RabbitMQ heeds that, and drops what expired before a worker sees it."""
    expires = isoformat(SYSTEM.utcnow() + timedelta(seconds=0.3))
    expiration = {} if broker_url.startswith("amqp") else {"expiration": 0.3}
    sender.publish(b"[[1], {}, {}]", headers={**NAMED, "id": "late", "expires": expires}, **expiration)
    eventually(lambda: isoformat(SYSTEM.utcnow()) > expires, 10)
    make_worker(queues=[QUEUE])
    record = ended(app, "late")
    assert record.error is not None
    assert (record.state, record.error.type) == (TaskState.CANCELLED, "Expired")


@pytest.mark.parametrize(
    ("args", "headers", "named"),
    [
        ([1, {"__type__": "shape", "__value__": 1}], {}, "argument 2"),
        ([{"deep": [{"__type__": "datetime", "__value__": "no time"}]}], {}, "argument 1"),
        ([{"__type__": "uuid", "__value__": 3}], {}, "argument 1"),
        ([1], {"own": {"__type__": "decimal", "__value__": "x"}}, "headers"),
        ([1], {"own": json.loads("[" * 150 + "]" * 150)}, "headers"),
    ],
)
def test_g17_what_would_not_be_read_is_refused_when_it_is_sent(args: Any, headers: Any, named: str) -> None:
    app = Stem("refuses", broker="memory://", backend=None)
    with pytest.raises(ConfigurationError, match=named):
        app.send_task("shop.add", args, headers=headers)
    with pytest.raises(ConfigurationError, match="name of task"):
        app.send_task("x" * 600)
    # What means a date to Celery's JSON arrives as one.
    app.send_task("shop.add", [{"__type__": "date", "__value__": "2026-01-01"}])
    app.close()
