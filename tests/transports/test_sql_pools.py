"""SQLAlchemy's databases through few connections: PgBouncer with a pool of two, and an engine that may open one (G12, G18)."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerUnavailable
from stem_kombu.task import TaskMessage
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.registry import open_transport
from tests.cli.program import Program
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.postgres import session
from tests.waiting import eventually

pytest.importorskip("sqlalchemy")
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

#: Of an engine: one connection, and 2 s to wait for it. A transaction that is left open makes the next question fail.
ONE = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 2, "poolclass": QueuePool}


def sqla(url: str) -> str:
    return f"sqla+{url.replace('postgresql', 'postgresql+psycopg2')}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqla+sqlite:///{tmp_path / 'kombu.db'}"
    return sqla(request.getfixturevalue("postgres_url"))


@pytest.fixture
def pooled(pgbouncer_server: PgBouncerServer, postgres_url: str) -> Iterator[str]:
    pgbouncer_server.start()
    yield pgbouncer_server.through(urlsplit(postgres_url).path.strip("/"))
    pgbouncer_server.stop()


def test_producer_consumer_and_depths_share_the_only_connection_of_an_engine(url: str, queue_name: str) -> None:
    transport = open_transport(open_connection(url, options=ONE))
    producer = TaskProducer(lambda: open_connection(url, options=ONE))
    source, depths = transport.consumer([queue_name], clock=SYSTEM), transport.depths()
    for number in range(2):
        producer.send_many([TaskMessage(f"t{number}", "shop.add", queue=queue_name)])
        assert depths.of([queue_name]) == {queue_name: 1}
        (message,) = source.take(1)
        assert depths.of([queue_name]) == {queue_name: 0}, "what is held does not wait"
        assert source.take(0, [message.delivery_tag]) == []
        assert depths.of([queue_name]) == {queue_name: 0}
        assert transport.purge(queue_name) == 0
    producer.close()
    depths.close()
    source.close(keep=False)


@pytest.mark.parametrize("generic", [False, True])
def test_a_queue_that_is_only_asked_for_is_not_made(url: str, queue_name: str, generic: bool) -> None:
    transport = open_transport(open_connection(url), generic=generic)
    depths = transport.depths()
    for _ in range(2):
        assert depths.of([queue_name]) == {queue_name: None}
    depths.close()


def test_kombus_own_way_of_reading_leaves_no_transaction_open_either(postgres_url: str, queue_name: str) -> None:
    template = open_transport(open_connection(sqla(postgres_url), options=ONE), generic=True).template
    one, other = connect(template.clone()), connect(template.clone())
    queue = one.SimpleQueue(queue_name)
    for number in range(2):
        queue.put(number)
        assert queue.qsize() == 1
        again = other.SimpleQueue(queue_name)
        message = again.get(timeout=30)
        message.ack()
        assert message.payload == number
    for each in (one, other):
        each.release()


def test_a_pool_of_which_all_connections_are_taken_is_waited_for_in_a_limited_time_and_named(
    pooled: str, queue_name: str
) -> None:
    transport = open_transport(open_connection(sqla(pooled)))
    source, depths = transport.consumer([queue_name], clock=SYSTEM), transport.depths()
    with session(pooled) as one, session(pooled) as other:
        for cursor in (one, other):
            cursor.execute("BEGIN; SELECT 1")
        producer = TaskProducer(lambda: open_connection(sqla(pooled)))
        with pytest.raises(BrokerUnavailable, match="no answer within 10 s") as told:
            producer.send(TaskMessage("t", "shop.add", queue=queue_name))
        assert "SHOW POOLS" in str(told.value.hint)
        with pytest.raises(OperationalError, match="no answer within 10 s"):
            source.take(1)
        assert depths.of([queue_name]) == {queue_name: None}
    producer.send(TaskMessage("t", "shop.add", queue=queue_name))
    eventually(lambda: depths.of([queue_name]) == {queue_name: 1}, 30)
    producer.close()
    depths.close()
    source.close(keep=True)


def test_a_server_that_says_nothing_is_waited_for_in_a_limited_time(queue_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"sqla+postgresql+psycopg2://stem@127.0.0.1:{silent.getsockname()[1]}/shop"
        with pytest.raises(BrokerUnavailable, match="no answer in time"):
            open_transport(open_connection(url)).consumer([queue_name], clock=SYSTEM)


@pytest.mark.timeout(240)
def test_g12_two_workers_answer_and_work_where_broker_and_store_share_a_pool_of_two_connections(
    pooled: str, postgres_url: str, tmp_path: Path
) -> None:
    stem = Program(
        tmp_path,
        {
            "STEM_BROKER_URL": sqla(pooled),
            "STEM_RESULT_BACKEND_URL": pooled,
            "STEM_REVOKE_STORE_URL": pooled,
            "STEM_CONTROL_TIMEOUT": "30s",
            "STEM_HEARTBEAT_INTERVAL": "1s",
        },
    )
    try:
        workers = [stem.start_worker("--name", name, "-c", "1") for name in ("alpha", "bravo")]
        for _ in range(2):
            for command in ("ping", "inspect", "stats"):
                found = stem.ok("worker", command, "--json").json
                assert [reply["status"] for reply in found["replies"]] == ["ok", "ok"], command
            assert stem.ended(stem.send("shop.add", a=1, b=2))["result"] == 3
        assert "through the revoke store" in json.dumps(stem.ok("health", "--json").json)
        with session(postgres_url) as cursor:

            def all_rest() -> bool:
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
                )
                return bool(cursor.fetchone() == (0,))

            eventually(all_rest)
        assert [worker.terminate() for worker in workers] == [0, 0]
    finally:
        stem.close()
