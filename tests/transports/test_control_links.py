"""Control links on every broker that this machine has: the contract, over what each has of its own and over plain Kombu."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis
from amqp import Channel

from stem_kombu.testing.control_link_contract import ControlLinkContract
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports import names
from stem_kombu.transports.control_link import ControlConnection
from stem_kombu.transports.generic.control import GenericControlLink
from stem_kombu.transports.redis.by_kombu import ByKombuLink
from stem_kombu.transports.store.choice import link_through
from tests.servers.rabbitmq import RabbitServer
from tests.transports.receiving import connected
from tests.waiting import eventually


def through(url: str, proxy_for: Callable[[str, int], TcpProxy]) -> tuple[TcpProxy, str]:
    parts = urlsplit(url)
    proxy = proxy_for(parts.hostname or "127.0.0.1", parts.port or 0)
    return proxy, url.replace(f":{parts.port}", f":{proxy.port}")


class OnRedis(ControlLinkContract):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def left_behind(self, url: str) -> Callable[[], Collection[str]]:
        def found() -> list[str]:
            with redis.Redis.from_url(url) as client:
                return [repr(key) for key in client.scan_iter() if client.ttl(key) == -1]

        return found

    @pytest.fixture
    def put_malformed(self, url: str) -> Callable[[str], None]:
        def put(inbox: str) -> None:
            with redis.Redis.from_url(url) as client:
                client.lpush(inbox, b'{"no": "envelope"}')

        return put

    @pytest.fixture
    def proxied(self, url: str, proxy_for: Callable[[str, int], TcpProxy]) -> tuple[TcpProxy, str]:
        return through(url, proxy_for)


class OnRabbitMQ(ControlLinkContract):
    @pytest.fixture
    def url(self, amqp_url: str) -> str:
        return amqp_url

    @pytest.fixture
    def left_behind(self, url: str, rabbitmq_server: RabbitServer) -> Callable[[], Collection[str]]:
        return lambda: rabbitmq_server.queues(url)

    @pytest.fixture
    def proxied(self, url: str, proxy_for: Callable[[str, int], TcpProxy]) -> tuple[TcpProxy, str]:
        return through(url, proxy_for)

    def test_an_inbox_that_the_broker_drops_while_it_is_taken_over_is_made_anew(
        self, namespace: str, opened: Callable[..., ControlConnection], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """RabbitMQ may notice only then that the connection before was lost, and deletes the queue that it left."""
        consume, dropped = Channel.basic_consume, []

        def drops_first(channel: Channel, queue: str, *given: Any, **more: Any) -> Any:
            if not dropped:
                dropped.append(channel.queue_delete(queue))
            return consume(channel, queue, *given, **more)

        monkeypatch.setattr(Channel, "basic_consume", drops_first)
        inbox = names.inbox_name(namespace, "alpha")
        alpha = opened("alpha", inbox=inbox, broadcasts=True)
        assert len(dropped) == 1
        alpha.send(inbox, b"1", expires=60.0)
        eventually(lambda: [each.body for each in alpha.wait(0.1)] == [b"1"], 30)


class TestRedis(OnRedis):
    pass


class TestRabbitMQ(OnRabbitMQ):
    pass


class TestEmbedded(ControlLinkContract):
    reports_malformed = forgets_the_killed = False

    @pytest.fixture
    def url(self, embedded_url: str) -> str:
        return embedded_url

    @pytest.fixture
    def left_behind(self, url: str) -> Callable[[], Collection[str]]:
        def found() -> list[str]:
            connected(url).release()  # which sweeps
            with sqlite3.connect(url.partition("://")[2], timeout=10) as database:
                return [name for (name,) in database.execute("SELECT name FROM stem_broker_queue")]

        return found

    @pytest.fixture
    def put_malformed(self, url: str) -> Callable[[str], None]:
        def put(inbox: str) -> None:
            with sqlite3.connect(url.partition("://")[2], timeout=10) as database:
                row = "SELECT id, 0, ?, ? FROM stem_broker_queue WHERE name = ?"
                database.execute(
                    f"INSERT INTO stem_broker_message (queue_id, rank, envelope, body) {row}", ("no", "[]", inbox)
                )

        return put


class TestMemoryByKombu(ControlLinkContract):
    make_link = GenericControlLink
    expires_unread = False

    @pytest.fixture
    def url(self) -> str:
        return "memory://"

    @pytest.fixture
    def put_malformed(self, url: str) -> Callable[[str], None]:
        def put(inbox: str) -> None:
            connection = connected(url)
            connection.default_channel._put(inbox, {"no": "envelope"})
            connection.release()

        return put


class TestRedisByKombu(OnRedis):
    make_link = ByKombuLink
    confirms_subscription = expires_unread = changes_limit = False

    @pytest.fixture
    def left_behind(self, url: str) -> Callable[[], Collection[str]]:
        def found() -> list[str]:
            with redis.Redis.from_url(url) as client:
                # Kombu's notes of what was bound are the janitor's.
                return [
                    repr(key) for key in client.scan_iter() if client.ttl(key) == -1 and not key.startswith(b"_kombu.")
                ]

        return found


class TestRabbitMQByKombu(OnRabbitMQ):
    make_link = GenericControlLink
    changes_limit = False


class TestRedisStore(OnRedis):
    open_template, make_link = str, staticmethod(link_through)

    @pytest.fixture
    def put_malformed(self) -> Callable[[str], None]:
        pytest.skip("any bytes are a message here")


class TestPostgresStore(ControlLinkContract):
    open_template, make_link = str, staticmethod(link_through)

    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.fixture
    def left_behind(self, url: str) -> Callable[[], Collection[str]]:
        def found() -> list[str]:
            with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT address FROM stem_control_messages WHERE expires_at > now() + interval '61 s'")
                kept = [address for (address,) in cursor.fetchall()]
                cursor.execute(
                    "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                return kept + [query for (query,) in cursor.fetchall()]

        return found

    @pytest.fixture
    def proxied(self, url: str, proxy_for: Callable[[str, int], TcpProxy]) -> tuple[TcpProxy, str]:
        return through(url, proxy_for)


class TestSqliteStore(ControlLinkContract):
    open_template, make_link = str, staticmethod(link_through)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path / 'store.db'}"

    @pytest.fixture
    def left_behind(self, url: str) -> Callable[[], Collection[str]]:
        def found() -> list[str]:
            with closing(sqlite3.connect(url.partition("://")[2], timeout=10)) as database:
                later = "expires_us / 1000000 - strftime('%s', 'now') > 61"
                return [
                    name for (name,) in database.execute(f"SELECT address FROM stem_control_messages WHERE {later}")
                ]

        return found
