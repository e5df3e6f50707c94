"""What a server refuses is told by class and code, with the right next step, and is not waited for where waiting can't help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from stem_kombu.app import Stem
from stem_kombu.errors import BrokerRefused, BrokerUnavailable, StoreRefused, StoreUnavailable
from stem_kombu.revocation import RevocationDraft
from stem_kombu.settings import Settings
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.task import TaskMessage
from stem_kombu.transports.producer import open_producer
from stem_kombu.worker.worker import Worker
from tests.servers.postgres import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer


def sending_to(url: str) -> BrokerUnavailable:
    producer = open_producer(Settings.from_env({}, broker=url))
    try:
        with pytest.raises(BrokerUnavailable) as told:
            producer.send(TaskMessage("t", "tasks.any"))
    finally:
        producer.close()
    return told.value


@pytest.fixture
def guarded(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis(password="right")


@pytest.mark.parametrize(
    ("user", "what", "hint"),
    [
        (":wrong@", "user or password was not accepted", "check user and password"),
        ("", "user or password was not accepted", "check user and password"),
        ("poor:poor@", "this user has no right to a command, key or channel", "ACL SETUSER"),
    ],
)
def test_what_redis_refuses_for_good_is_told_with_its_own_next_step(
    guarded: RedisServer, user: str, what: str, hint: str
) -> None:
    with redis.Redis.from_url(guarded.url) as client:
        client.acl_setuser("poor", enabled=True, passwords=["+poor"], commands=["+ping", "+client"])
    error = sending_to(f"redis://{user}127.0.0.1:{guarded.port}/0")
    assert isinstance(error, BrokerRefused)
    assert what in str(error)
    assert hint in str(error.hint)


def test_a_database_that_redis_does_not_have_is_refused_for_good(redis_server: RedisServer) -> None:
    redis_server.start()
    error = sending_to(f"redis://127.0.0.1:{redis_server.port}/99999")
    assert isinstance(error, BrokerRefused)
    assert "the number after the last slash" in str(error.hint)


def test_a_redis_without_memory_is_called_so_and_may_take_it_later(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(options=["--maxmemory-policy", "noeviction"])
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)
    error = sending_to(server.url)
    assert not isinstance(error, BrokerRefused)
    assert "the server is out of memory" in str(error)
    assert "raise maxmemory" in str(error.hint)


@pytest.fixture
def without_rights(rabbitmq_server: RabbitServer) -> Iterator[str]:
    rabbitmq_server.start()
    rabbitmq_server.evaluate('rabbit_auth_backend_internal:add_user(<<"poor">>, <<"poor">>, <<"test">>)')
    rabbitmq_server.evaluate(
        'rabbit_auth_backend_internal:set_permissions(<<"poor">>, <<"/">>, <<"^none$">>, <<"^none$">>, <<"^none$">>, <<"t">>)'
    )
    yield f"amqp://poor:poor@127.0.0.1:{rabbitmq_server.port}//"
    rabbitmq_server.evaluate('rabbit_auth_backend_internal:delete_user(<<"poor">>, <<"test">>)')


def test_a_right_that_is_missing_on_rabbitmq_is_not_called_a_wrong_password(without_rights: str) -> None:
    error = sending_to(without_rights)
    assert isinstance(error, BrokerRefused)
    assert "this user has no right to do that" in str(error)
    assert "access to queue 'default'" in str(error)
    assert "set_permissions" in str(error.hint)


@pytest.mark.parametrize(
    ("place", "what", "hint"),
    [
        ("guest:wrong@127.0.0.1:{port}//", "user or password was not accepted", "check user and password"),
        ("guest:guest@127.0.0.1:{port}/absent", "the virtual host can't be opened", "create it"),
    ],
)
def test_what_rabbitmq_refuses_for_good_is_told_with_its_own_next_step(
    rabbitmq_server: RabbitServer, place: str, what: str, hint: str
) -> None:
    rabbitmq_server.start()
    error = sending_to(f"amqp://{place.format(port=rabbitmq_server.port)}")
    assert isinstance(error, BrokerRefused)
    assert what in str(error)
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    ("user", "said", "hint", "for_good"),
    [
        ("full", "too many connections", "raise max_connections", False),
        ("reader", "read-only", "give the URL of the primary", False),
        ("nobody", "permission denied", "grant this user CREATE", True),
        ("absent", "authentication failed", "check user and password", True),
    ],
)
def test_postgresql_s_refusals_are_told_apart(
    postgres_server: PostgresServer, postgres_url: str, user: str, said: str, hint: str, for_good: bool
) -> None:
    import psycopg2

    options = {"full": "CONNECTION LIMIT 0", "reader": "", "nobody": ""}
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM public")
        if user in options:
            cursor.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'secret' {options[user]}")
        if user == "reader":
            cursor.execute("ALTER ROLE reader SET default_transaction_read_only = on")
            cursor.execute("GRANT CREATE ON SCHEMA public TO reader")
    try:
        place = postgres_url.rpartition("@")[2]
        store = open_revoke_store(f"postgresql://{user}:secret@{place}")
        with pytest.raises(StoreUnavailable) as told:
            store.save("stem", [RevocationDraft("t")])
        store.close()
        assert isinstance(told.value, StoreRefused) is for_good
        assert said in str(told.value)
        assert hint in str(told.value.hint)
    finally:
        with connection.cursor() as cursor:
            if user in options:
                cursor.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")
        connection.close()


@pytest.mark.parametrize("place", ["guest:wrong@127.0.0.1:{port}//", "guest:guest@127.0.0.1:{port}/absent"])
def test_a_worker_does_not_wait_for_a_broker_that_refuses_it(
    rabbitmq_server: RabbitServer, tmp_path: Path, place: str
) -> None:
    rabbitmq_server.start()
    app = Stem(
        "shop",
        broker=f"amqp://{place.format(port=rabbitmq_server.port)}",
        backend=f"sqlite:///{tmp_path / 'state.db'}",
    )
    with pytest.raises(BrokerRefused):
        Worker(app).start()
    app.close()


def test_a_worker_does_not_wait_for_queues_that_it_may_not_read(
    rabbitmq_server: RabbitServer, without_rights: str, tmp_path: Path
) -> None:
    own, none = '<<"^(stem-|celery).*">>', '<<"^(stem-|celery|amq).*">>'
    rabbitmq_server.evaluate(
        f'rabbit_auth_backend_internal:set_permissions(<<"poor">>, <<"/">>, {own}, {none}, {own}, <<"t">>)'
    )
    app = Stem("shop", broker=without_rights, backend=f"sqlite:///{tmp_path / 'state.db'}")
    with pytest.raises(BrokerRefused, match="access to queue 'default'"):
        Worker(app).start()
    app.close()


def test_a_worker_does_not_wait_for_a_store_that_refuses_it(postgres_url: str, embedded_url: str) -> None:
    wrong = postgres_url.replace("stem-secret", "wrong")
    app = Stem("shop", broker=embedded_url, revoke_store=wrong)
    with pytest.raises(StoreRefused, match="authentication failed"):
        Worker(app).start()
    app.close()
