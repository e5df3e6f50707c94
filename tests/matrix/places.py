"""Brokers of the matrix: how each is had.

A place is a context manager in ``PLACES``. It yields a :class:`~tests.matrix.place.Place`, or raises
:class:`~tests.servers.process.ServerMissing` where its server is not on this machine.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.fleet import Servers
from tests.matrix.place import LEASE, Place, need, rows_of_postgres, rows_of_sqlite
from tests.matrix.rabbitmq_places import quorum_queues, rabbitmq, rabbitmq_by_tls, several_hosts
from tests.matrix.redis_places import redis_brought, redis_by_socket, redis_by_tls, redis_found, sentinel
from tests.matrix.servers import EtcdServer, ZooKeeperServer
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.process import Reaper

_LEASED = {"visibility_timeout": LEASE}


@contextmanager
def embedded(servers: Servers, folder: Path) -> Iterator[Place]:
    broker, store = folder / "broker.db", folder / "state.db"
    yield Place(f"sqlite://{broker}", f"sqlite://{store}", lambda: rows_of_sqlite(broker) + rows_of_sqlite(store))


@contextmanager
def sqlalchemy_on_sqlite(servers: Servers, folder: Path) -> Iterator[Place]:
    need("sqlalchemy")
    broker, store = folder / "kombu.db", folder / "state.db"
    yield Place(
        f"sqla+sqlite:///{broker}",
        f"sqlite://{store}",
        lambda: rows_of_sqlite(broker) + rows_of_sqlite(store),
        _LEASED,
    )


@contextmanager
def sqlalchemy_on_postgres(servers: Servers, folder: Path) -> Iterator[Place]:
    need("sqlalchemy")
    url = servers.new_url("postgres", folder)
    broker = f"sqla+{url.replace('postgresql', 'postgresql+psycopg2')}"
    yield Place(broker, url, lambda: rows_of_postgres(url), _LEASED)


@contextmanager
def behind_pgbouncer(servers: Servers, folder: Path) -> Iterator[Place]:
    """:func:`sqlalchemy_on_postgres`, all of it by transaction pooling with two connections."""
    reaper = Reaper()
    pooler = PgBouncerServer(reaper, servers.get("postgres"))
    try:
        pooler.start()
        with sqlalchemy_on_postgres(servers, folder) as place:
            through = pooler.through(place.store.rpartition("/")[2])
            yield replace(place, store=through, broker=f"sqla+{through.replace('postgresql', 'postgresql+psycopg2')}")
    finally:
        pooler.close()
        reaper.close()


@contextmanager
def filesystem(servers: Servers, folder: Path) -> Iterator[Place]:
    places = {name: folder / name for name in ("messages", "control")}
    for one in places.values():
        one.mkdir()
    messages, store = str(places["messages"]), folder / "state.db"
    options = {"data_folder_in": messages, "data_folder_out": messages, "control_folder": str(places["control"])}

    def left() -> Counter[str]:
        files = (path.relative_to(folder) for one in places.values() for path in one.rglob("*") if path.is_file())
        return Counter(map(str, files)) + rows_of_sqlite(store)

    yield Place("filesystem://", f"sqlite://{store}", left, {**options, **_LEASED})


@contextmanager
def sqs(servers: Servers, folder: Path) -> Iterator[Place]:
    for module in ("boto3", "pycurl", "moto.server"):
        need(module)
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"aws_access_key_id": "user", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        client = boto3.client("sqs", endpoint_url=f"http://{host}:{port}", **keys)
        store = folder / "state.db"

        def left() -> Counter[str]:
            queues = (url.rpartition("/")[2] for url in client.list_queues().get("QueueUrls", ()))
            return Counter(queues) + rows_of_sqlite(store)

        options = {"region": "us-east-1", "is_secure": False, "visibility_timeout": int(LEASE)}
        yield Place(f"sqs://user:secret@{host}:{port}", f"sqlite://{store}", left, options, about="moto's server")
    finally:
        server.stop()


@contextmanager
def zookeeper(servers: Servers, folder: Path) -> Iterator[Place]:
    need("kazoo")
    reaper = Reaper()
    try:
        server = ZooKeeperServer(reaper)
        server.start()
        store = folder / "state.db"

        def left() -> Counter[str]:
            return Counter(server.nodes()) + rows_of_sqlite(store)

        yield Place(server.url, f"sqlite://{store}", left, loses=True)
        server.close()
    finally:
        reaper.close()


@contextmanager
def etcd(servers: Servers, folder: Path) -> Iterator[Place]:
    need("etcd")
    reaper = Reaper()
    try:
        server = EtcdServer(reaper)
        server.start()
        store = folder / "state.db"

        def left() -> Counter[str]:
            return Counter(server.keys()) + rows_of_sqlite(store)

        yield Place(server.url, f"sqlite://{store}", left, loses=True)
        server.close()
    finally:
        reaper.close()


#: By the name of the file that keeps its figures: the title of its column, the aliases of Kombu, and how it is had.
PLACES: dict[str, tuple[str, Callable[[Servers, Path], Any]]] = {
    "embedded": ("embedded (`sqlite://`)", embedded),
    "redis": ("Redis (`redis://`)", redis_found),
    "redis-6.2": ("Redis 6.2", partial(redis_brought, "Redis 6.2")),
    "redis-8": ("Redis 8", partial(redis_brought, "Redis 8")),
    "valkey": ("Valkey", partial(redis_brought, "Valkey")),
    "redis-socket": ("Redis by socket (`redis+socket://`)", redis_by_socket),
    "redis-tls": ("Redis by TLS (`rediss://`)", redis_by_tls),
    "sentinel": ("Sentinel (`sentinel://`)", sentinel),
    "rabbitmq": ("RabbitMQ, classic (`amqp://`)", rabbitmq),
    "rabbitmq-quorum": ("RabbitMQ, quorum", quorum_queues),
    "rabbitmq-tls": ("RabbitMQ by TLS (`amqps://`)", rabbitmq_by_tls),
    "rabbitmq-cluster": ("RabbitMQ, two nodes (`amqp://…;amqp://…`)", several_hosts),
    "sqla-sqlite": ("SQLAlchemy on SQLite (`sqla+sqlite://`)", sqlalchemy_on_sqlite),
    "sqla-postgres": ("SQLAlchemy on PostgreSQL (`sqla+postgresql://`)", sqlalchemy_on_postgres),
    "pgbouncer": ("SQLAlchemy on PostgreSQL, all behind PgBouncer with two connections", behind_pgbouncer),
    "filesystem": ("filesystem (`filesystem://`)", filesystem),
    "sqs": ("SQS (`sqs://`)", sqs),
    "zookeeper": ("ZooKeeper (`zookeeper://`), loss accepted", zookeeper),
    "etcd": ("etcd (`etcd://`), loss accepted", etcd),
}
