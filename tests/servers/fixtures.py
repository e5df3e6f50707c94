"""The servers as pytest fixtures; ``tests/conftest.py`` makes them known to all tests.

Of the session:  redis_server  rabbitmq_server  postgres_server  pgbouncer_server
Of one test:     redis_url  amqp_url  postgres_url     an empty database or virtual host
                 broker_url                            each broker in turn: embedded, redis, amqp
                 proxy_for                             proxy_for(host, port) -> a started TcpProxy
                 start_redis                           start_redis(password="secret") -> one more server
                 other_redis                           a Redis 6.2, a Redis 8 and a Valkey in turn
                 sentinels                             sentinels(password="secret") -> a master, a replica, two sentinels

Where a server is not installed, a test that needs it is skipped with a message that says what is missing; with
``STEM_TEST_REQUIRE_SERVERS=1`` it fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports.sqlite import registration as embedded
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.postgres import PostgresServer
from tests.servers.process import Reaper, ServerMissing, ServerProcess
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import BROUGHT, RedisServer, SentinelServer, brought
from tests.waiting import eventually

ServerT = TypeVar("ServerT", bound=ServerProcess)


@pytest.fixture(scope="session")
def server_reaper() -> Iterator[Reaper]:
    reaper = Reaper()
    yield reaper
    reaper.close()


def _served(make: Callable[[], ServerT]) -> Iterator[ServerT]:
    try:
        server = make()
    except ServerMissing as missing:
        if os.environ.get("STEM_TEST_REQUIRE_SERVERS") == "1":
            pytest.fail(f"STEM_TEST_REQUIRE_SERVERS=1, but {missing}", pytrace=False)
        pytest.skip(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis_server(server_reaper: Reaper) -> Iterator[RedisServer]:
    yield from _served(lambda: RedisServer(server_reaper))


@pytest.fixture(scope="session")
def rabbitmq_server(server_reaper: Reaper) -> Iterator[RabbitServer]:
    yield from _served(lambda: RabbitServer(server_reaper))


@pytest.fixture(scope="session")
def postgres_server(server_reaper: Reaper) -> Iterator[PostgresServer]:
    yield from _served(lambda: PostgresServer(server_reaper, fsync=os.environ.get("STEM_TEST_POSTGRES_FSYNC") == "1"))


@pytest.fixture(scope="session")
def pgbouncer_server(server_reaper: Reaper, postgres_server: PostgresServer) -> Iterator[PgBouncerServer]:
    yield from _served(lambda: PgBouncerServer(server_reaper, postgres_server))


# Each of these starts (or resumes) a server that the test before has left killed or paused.


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    redis_server.start()
    return redis_server.new_database()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    postgres_server.start()
    url = postgres_server.new_database()
    yield url
    postgres_server.start()
    postgres_server.drop_database(url)


@pytest.fixture
def amqp_url(rabbitmq_server: RabbitServer) -> Iterator[str]:
    rabbitmq_server.start()
    url = rabbitmq_server.new_vhost()
    yield url
    rabbitmq_server.start()
    rabbitmq_server.drop_vhost(url)


@pytest.fixture
def embedded_url(tmp_path: Path) -> str:
    embedded.register()  # so that a test's bare kombu.Connection knows the scheme
    return f"sqlite://{tmp_path / 'broker.db'}"


@pytest.fixture(params=["embedded", "redis", "amqp"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """A broker of each kind in turn. ``@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)`` picks."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def proxy_for() -> Iterator[Callable[[str, int], TcpProxy]]:
    proxies: list[TcpProxy] = []

    def started(host: str, port: int) -> TcpProxy:
        proxy = TcpProxy(host, port)
        proxies.append(proxy)
        proxy.start()
        return proxy

    yield started
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def start_redis(server_reaper: Reaper, redis_server: RedisServer) -> Iterator[Callable[..., RedisServer]]:
    """One more Redis with options of the test's choice; ``redis_server`` is asked for so that absence is told there."""
    servers: list[RedisServer] = []

    def started(**options: Any) -> RedisServer:
        server = RedisServer(server_reaper, **options)
        servers.append(server)
        server.start()
        return server

    yield started
    for server in servers:
        server.close()


@pytest.fixture(scope="session", params=BROUGHT)
def other_redis(server_reaper: Reaper, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Of each version in turn that a package of this machine brings; the oldest one has to be there."""
    if request.param != "Redis 6.2":
        try:
            brought(request.param)
        except ServerMissing as missing:
            pytest.skip(str(missing))
    yield from _served(lambda: RedisServer(server_reaper, program=brought(request.param)))


@dataclass
class Sentinels:
    """A master with a replica, and those that watch them."""

    master: RedisServer
    replica: RedisServer
    watchers: list[SentinelServer]
    password: str | None

    @property
    def url(self) -> str:
        """In Stem's spelling."""
        hosts = ",".join(f"{one.host}:{one.port}" for one in self.watchers)
        user = f":{self.password}@" if self.password else ""
        return f"sentinel://{user}{hosts}/0?master_name={SentinelServer.master}"

    @property
    def celery_url(self) -> str:
        """In Celery's spelling, which needs the option ``master_name``."""
        user = f":{self.password}@" if self.password else ""
        return ";".join(f"sentinel://{user}{one.host}:{one.port}/0" for one in self.watchers)


@pytest.fixture
def sentinels(server_reaper: Reaper, start_redis: Callable[..., RedisServer]) -> Iterator[Callable[..., Sentinels]]:
    watchers: list[SentinelServer] = []

    def started(password: str | None = None, sentinel_password: str | None = None) -> Sentinels:
        auth = ["--masterauth", password] if password else []
        master = start_redis(password=password, options=auth)
        replica = start_redis(password=password, options=[*auth, "--replicaof", master.host, str(master.port)])
        for _ in range(2):
            watchers.append(SentinelServer(server_reaper, master, quorum=1, password=sentinel_password))
            watchers[-1].start()
        # They elect the one that promotes by a majority of those that are known: of two, both.
        eventually(lambda: all(one.knows_replicas_and_others(1, 1) for one in watchers), 60)
        return Sentinels(master, replica, watchers, password)

    yield started
    for watcher in watchers:
        watcher.close()
