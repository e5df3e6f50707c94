"""One outcome that can't be carried out, on brokers and backends that take no more, and the others that go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import psycopg2
import pytest
import redis
from amqp.exceptions import MessageNacked
from kombu import Connection

from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.errors import BrokerBlocked
from stem_kombu.outcome import TaskState
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from stem_kombu.testing.gates import Gate
from stem_kombu.transports.producer import open_producer
from stem_kombu.worker.settlement import RESULT_NOT_STORABLE
from stem_kombu.worker.worker import Worker
from tests.servers.postgres import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker

on_amqp = pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
on_redis = pytest.mark.parametrize("broker_url", ["redis"], indirect=True)


@contextmanager
def alarm(server: RabbitServer) -> Iterator[None]:
    """RabbitMQ's memory alarm."""
    server.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.00001)")
    try:
        eventually(lambda: "memory" in server.evaluate("rabbit_alarm:get_alarms()"))
        yield
    finally:
        server.evaluate("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 2000000000})")
        eventually(lambda: "memory" not in server.evaluate("rabbit_alarm:get_alarms()"))


def send(app: Stem, name: str, *args: Any, count: int = 1, queue: str = "default") -> list[str]:
    messages = [TaskMessage(f"{name}-{args}-{n}-{queue}", name, args, queue=queue) for n in range(count)]
    app.producer.send_many(messages)
    return [message.task_id for message in messages]


def states(app: Stem, ids: list[str]) -> set[TaskState | None]:
    assert app.backend is not None
    return {None if (record := app.backend.get(one)) is None else record.state for one in ids}


def all_succeed(app: Stem, ids: list[str]) -> None:
    eventually(lambda: states(app, ids) == {TaskState.SUCCEEDED}, 60, lambda: states(app, ids))


@on_amqp
def test_g18_a_worker_starts_drains_and_stops_while_rabbitmq_takes_no_messages(
    app: Stem, make_worker: WorkerMaker, rabbitmq_server: RabbitServer
) -> None:
    failing = send(app, "inline.fails_once", True, count=3)
    others = send(app, "inline.fails_once", False, count=30)
    with alarm(rabbitmq_server):
        first = make_worker("first")
        all_succeed(app, others)
        eventually(lambda: {outcome.step for outcome in first.view.waiting_outcomes()} == {"publish"}, 30)
        waiting = first.view.waiting_outcomes()
        assert {outcome.id for outcome in waiting} <= set(failing)
        assert all("blocked by a resource alarm" in outcome.error for outcome in waiting)
        assert "publish" in first.view.facts().troubles
        assert TaskState.RETRYING not in states(app, failing)  # it is not, before its next attempt is at the broker
        first.stop()
        make_worker("second")
    all_succeed(app, failing)


@on_amqp
def test_a_send_under_an_alarm_names_the_alarm_and_sends_nothing_later(
    app: Stem, rabbitmq_server: RabbitServer, broker_url: str
) -> None:
    with alarm(rabbitmq_server):
        producer = open_producer(app.settings)
        with pytest.raises(BrokerBlocked, match="blocked by a resource alarm") as raised:
            producer.send(TaskMessage("never", "inline.add", (1,)))
        assert raised.value.unconfirmed == ("never",)
        assert "rabbitmqctl status" in str(raised.value.hint)
        producer.close()
    app.producer.send(TaskMessage("after", "inline.add", (1,)))
    with Connection(broker_url) as connection:
        assert connection.default_channel.queue_declare("default", passive=True).message_count == 1


@on_amqp
def test_g18_retries_that_their_full_queue_refuses_hold_up_no_other_and_follow(
    app: Stem, make_worker: WorkerMaker, rabbitmq_server: RabbitServer, broker_url: str, gate: Gate
) -> None:
    vhost = f'<<"{unquote(broker_url.rpartition("/")[2])}">>'
    failing = send(app, "inline.fails_when_open", str(gate.path), count=2)
    others = send(app, "inline.add", 1, count=20)
    worker = make_worker(inline_slots=2)
    gate.wait_reached("attempt-1")
    # RabbitMQ drops what is in a queue without room, so all of it has to be here before.
    eventually(lambda: len(worker.inflight) == 22)
    rabbitmq_server.evaluate(
        f'rabbit_policy:parse_set({vhost}, <<"full">>, <<"^default$">>, '
        '<<"{\\"max-length\\":0,\\"overflow\\":\\"reject-publish\\"}">>, <<"0">>, <<"queues">>, <<"tests">>)'
    )
    eventually(lambda: not is_taken(broker_url))
    gate.open()
    all_succeed(app, others)
    eventually(lambda: {outcome.id for outcome in worker.view.waiting_outcomes()} == set(failing), 30)
    assert states(app, failing) == {TaskState.RUNNING}  # and not retrying, before the next attempt is at the broker
    rabbitmq_server.evaluate(f'rabbit_policy:delete({vhost}, <<"full">>, <<"tests">>)')
    eventually(lambda: states(app, failing) == {TaskState.FAILED}, 60)
    assert worker.view.waiting_outcomes() == []


def is_taken(url: str) -> bool:
    """Whether the queue takes one more message. The worker drops it, as it is no task."""
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        try:
            connection.Producer().publish(b"", exchange="", routing_key="default", delivery_mode=1)
        except MessageNacked:
            return False
        return True


@on_redis
def test_g18_a_redis_without_memory_is_drained_and_its_retries_follow(
    backend_url: str, start_redis: Callable[..., RedisServer], app: Stem
) -> None:
    server = start_redis(options=["--maxmemory-policy", "noeviction"])
    app.configure(Settings.from_env({}, broker=server.url, backend=backend_url, heartbeat_interval=0.5))
    failing = send(app, "inline.fails_once", True, count=5)
    others = send(app, "inline.fails_once", False, count=60)
    client = redis.Redis.from_url(server.url)
    worker = Worker(app, name="alpha", inline_slots=1, prefetch_multiplier=1)
    with worker:
        client.config_set("maxmemory", 1)
        all_succeed(app, others)
        eventually(lambda: len(worker.view.waiting_outcomes()) > 0 or states(app, failing) == {TaskState.SUCCEEDED}, 30)
        assert TaskState.RETRYING not in states(app, [outcome.id for outcome in worker.view.waiting_outcomes()])
        client.config_set("maxmemory", 0)
        all_succeed(app, failing)
        assert worker.view.waiting_outcomes() == []
    client.close()


@on_redis
def test_g18_a_result_that_redis_does_not_take_ends_as_failed_and_holds_up_no_other(
    app: Stem, broker_url: str, start_redis: Callable[..., RedisServer]
) -> None:
    results = start_redis(options=["--proto-max-bulk-len", "1mb"])
    app.configure(
        Settings.from_env({}, broker=broker_url, backend=results.url, revoke_store=broker_url, heartbeat_interval=0.5)
    )
    large = send(app, "inline.returns_text", 2_000_000, count=3)
    others = send(app, "inline.returns_text", 10, count=40)
    with Worker(app, name="alpha", inline_slots=4) as worker, ControlClient(app) as control:
        all_succeed(app, others)
        eventually(lambda: states(app, large) == {TaskState.FAILED}, 60)
        assert app.backend is not None
        record = app.backend.get(large[0])
        assert record is not None and record.error is not None
        assert record.error.type == RESULT_NOT_STORABLE
        assert "could not be stored" in record.error.message
        (reply,) = control.stats().replies
        assert reply.payload["settling"]["not_storable"] == 3
        eventually(lambda: len(worker.inflight) == 0)


@on_redis
def test_g18_an_outcome_that_postgres_can_not_encode_stays_with_its_message_and_holds_up_no_other(
    app: Stem, broker_url: str, postgres_server: PostgresServer
) -> None:
    """LATIN1 has no Cyrillic letters, so that no record of this task can be stored at all."""
    connection = psycopg2.connect(postgres_server.url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    latin = postgres_server.url.rpartition("/")[0] + "/latin"
    app.configure(
        Settings.from_env({}, broker=broker_url, backend=latin, revoke_store=broker_url, heartbeat_interval=0.5)
    )
    try:
        app.producer.send(TaskMessage("\u0437\u0430\u043a\u0430\u0437", "inline.add", (1,)))
        others = send(app, "inline.add", 1, count=40)
        with Worker(app, name="alpha", inline_slots=4) as worker, ControlClient(app) as control:
            all_succeed(app, others)
            eventually(lambda: [each.step for each in worker.view.waiting_outcomes()] == ["record"], 30)
            (reply,) = control.inspect().replies
            (waiting,) = reply.payload["waiting"]
            assert (waiting["id"], waiting["step"]) == ("\u0437\u0430\u043a\u0430\u0437", "record")
            assert waiting["tries"] >= 1 and "LATIN1" in waiting["error"]
        with Connection(broker_url) as back:  # given back, not acknowledged
            assert back.default_channel.queue_declare("default", passive=True).message_count == 1
    finally:
        app.close()
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE latin WITH (FORCE)")
        connection.close()
