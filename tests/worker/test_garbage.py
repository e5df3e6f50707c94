"""Garbage thrown at every door of a real worker leaves it answering, its counters counted, and nothing lost (G17, G18)."""

from __future__ import annotations

import bz2
import gzip
import json
import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Exchange, Producer

from fuzz import corpus
from fuzz.targets import load
from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.transports import names
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker

#: More than any message may hold, in a few kilobytes.
BOMB = zlib.compress(bytes(1 << 26))


class Thrower:
    """Somebody at the broker who knows every name and no format."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection: Any = connect(open_connection(url))
        self._producer = Producer(self.connection.default_channel, auto_declare=False)
        self.thrown = 0

    def at_queue(self, queue: str, body: Any, **envelope: Any) -> None:
        envelope = {"content_type": "application/json", "content_encoding": "utf-8", **envelope}
        self._producer.publish(body, exchange="", routing_key=queue, retry=False, **envelope)
        self.thrown += 1

    def at_exchange(self, exchange: Exchange, body: Any, **envelope: Any) -> None:
        envelope = {"content_type": "application/json", "content_encoding": "utf-8", **envelope}
        exchange(self.connection.default_channel).declare()
        self._producer.publish(body, exchange=exchange.name, routing_key="", retry=False, **envelope)
        self.thrown += 1

    def under_the_envelope(self, queue: str, text: bytes) -> bool:
        """Put bytes where the broker keeps a message; whether this broker has such a place."""
        if self.url.startswith("redis"):
            redis.Redis.from_url(self.url).lpush(queue, text)
        elif self.url.startswith("sqlite"):
            with sqlite3.connect(self.url.partition("://")[2], timeout=10) as database:
                row = "SELECT id, 0, ?, ? FROM stem_broker_queue WHERE name = ?"
                insert = f"INSERT INTO stem_broker_message (queue_id, rank, envelope, body) {row}"
                database.execute(insert, (text.decode("latin-1"), "[]", queue))
        else:
            return False
        self.thrown += 1
        return True


@pytest.fixture
def thrower(broker_url: str) -> Iterator[Thrower]:
    thrower = Thrower(broker_url)
    yield thrower
    thrower.connection.release()


#: Properties that make a body of anything something else.
ENVELOPES: tuple[dict[str, Any], ...] = (
    {},
    {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
    {"content_encoding": "no-such-encoding"},
    {"headers": {"compression": "gzip"}},
    {"headers": {"compression": "no-such-compression"}},
    {"headers": {"task": "inline.add", "id": "t", "timelimit": [1e308, -1]}},
    {"headers": {"task": ["inline.add"], "id": {"a": 1}, "retries": "many", "eta": "soon"}},
)
BODIES: tuple[bytes, ...] = (
    b"",
    b"\x00\xff\xfe",
    b"[" * 5000,
    b"null",
    b'{"task": "inline.add", "id": "old", "args": []}',
    b"[[1], {}, {}]",
    b'[{"__type__": "datetime", "__value__": "never"}, {}, {}]',
    b"\x80\x05cposix\nsystem\n",
    gzip.compress(b"{}")[:-5],
)


def garbage(target: str, most: int) -> list[bytes]:
    """Some inputs of a fuzz target that its door refuses: a mutation away from what is let in."""
    door = load(target)
    refused = []
    for data in corpus.read(target):
        if len(refused) < most and not door(data):
            refused.append(data)
    return refused


def throw_everything(thrower: Thrower, worker: Worker, queue: str) -> None:
    namespace = worker.identity.namespace
    control = (names.broadcast_exchange(namespace), names.heartbeat_exchange(namespace))
    celery = Exchange("celery.pidbox", type="fanout", durable=False, delivery_mode="transient")
    for body in BODIES:
        for envelope in ENVELOPES:
            thrower.at_queue(queue, body, **envelope)
            thrower.at_exchange(control[0], body, **envelope)
        thrower.at_exchange(control[1], body)
        thrower.at_exchange(celery, body)
    for body in garbage("control-command", 60):
        thrower.at_exchange(control[0], body)
        thrower.at_queue(names.inbox_name(namespace, worker.identity.worker), body)
    for body in garbage("celery-control", 40):
        thrower.at_exchange(celery, body)
    for body in garbage("heartbeat", 20):
        thrower.at_exchange(control[1], body)
    for text in (*garbage("task-message", 60), b"no json", b"{}", b"[]", b'{"properties": {}}'):
        thrower.under_the_envelope(queue, text)
    # Unpacked they would fill the memory of every worker, one after the other.
    thrower.at_queue(queue, BOMB, headers={"compression": "application/x-gzip", "task": "inline.add", "id": "bomb"})
    packed = bz2.compress(bytes(1 << 24))
    thrower.at_exchange(control[0], packed, headers={"compression": "application/x-bz2"})


@pytest.mark.timeout(240)
def test_g17_garbage_at_every_door_is_counted_and_loses_nothing(
    app: Stem, thrower: Thrower, make_worker: WorkerMaker, control: ControlClient
) -> None:
    worker = make_worker()
    queue = app.settings.default_queue
    before = [app.send_task("inline.add", [n], {"b": 1}) for n in range(10)]
    throw_everything(thrower, worker, queue)
    after = [app.send_task(f"{mode}.add", [n], {"b": 2}) for n in range(10) for mode in ("inline", "isolate")]

    assert [result.get(timeout=60) for result in before] == [n + 1 for n in range(10)]
    assert [result.get(timeout=60) for result in after] == [n + 2 for n in range(10) for _ in range(2)]
    assert [reply.worker for reply in control.ping().replies] == ["alpha"]

    def counted() -> dict[str, Any]:
        (reply,) = control.stats().replies
        dropped: dict[str, Any] = reply.payload["dropped"]
        return dropped if dropped["tasks"] and dropped["control"] else {}

    dropped = eventually(counted, 30)
    assert sum(dropped["tasks"].values()) >= len(BODIES) * (len(ENVELOPES) - 1)
    assert sum(dropped["control"].values()) >= len(BODIES) * (len(ENVELOPES) - 1)
    assert worker.ownership.generation == 1, "garbage cost the connection that brings work"
    # What was said after the garbage is heard: a revoke stops a task that did not start.
    report = control.revoke(["never"], reason="after the garbage")
    assert [reply.payload["applied"] for reply in report.replies] == [["never"]]


def test_g18_a_task_whose_arguments_only_celery_can_encode_is_tried_again_as_it_came(
    app: Stem, thrower: Thrower, make_worker: WorkerMaker, gate: Any
) -> None:
    """Celery's JSON holds NaN, ours does not; what is sent again is the sender's own text."""
    make_worker()
    body = json.dumps([[gate.path], {"extra": float("nan")}, {}])
    headers = {"task": "inline.takes_anything", "id": "nan-1", "retries": 0, "stem-max-retries": 1}
    thrower.at_queue(app.settings.default_queue, body, headers=headers)
    record = eventually(lambda: (held := app.backend.get("nan-1")) and held.state.is_terminal and held, 30)
    assert (record.state.value, record.attempt, record.error.message) == ("failed", 2, "whatever it is")
    assert gate.reached("attempt-2")
    assert not gate.reached("attempt-3")
