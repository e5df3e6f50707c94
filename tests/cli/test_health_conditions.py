"""``stem health`` means it: each place takes a write, and what threatens the promises is said, there and when a worker starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis

from stem_kombu.drivers.file_conditions import write_marker
from stem_kombu.errors import StoreUnavailable
from stem_kombu.stores.file import FileRevokeStore
from tests.cli.program import Program
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.waiting import eventually
from tests.worker.test_set_aside import alarm

OPTIONS = {"broker": "--broker", "backend": "--backend", "revoke_store": "--revoke-store"}
PLACES = pytest.mark.parametrize("place", OPTIONS)


def check(document: Any, place: str) -> Any:
    (found,) = [one for one in document["checks"] if one["component"] == place]
    return found


def health(program: Program, place: str, url: str, code: int) -> Any:
    done = program.run("health", OPTIONS[place], url, "--json")
    assert done.code == code, done
    return check(done.json, place)


@PLACES
def test_a_redis_without_memory_is_an_error(
    embedded: Program, start_redis: Callable[..., RedisServer], place: str
) -> None:
    server = start_redis(options=["--maxmemory", "1", "--maxmemory-policy", "noeviction"])
    found = health(embedded, place, server.url, 74)
    assert found["status"] == "error"
    assert "memory" in found["message"]
    assert found["hint"]


@PLACES
def test_a_read_only_replica_is_an_error(
    embedded: Program, start_redis: Callable[..., RedisServer], place: str
) -> None:
    replica = start_redis(options=["--replicaof", "127.0.0.1", "1"])
    found = health(embedded, place, replica.url, 74)
    assert "read" in found["message"].lower()


@PLACES
def test_a_redis_that_may_forget_or_evict_is_a_warning(
    embedded: Program, start_redis: Callable[..., RedisServer], place: str
) -> None:
    server = start_redis(options=["--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"])
    found = health(embedded, place, server.url, 0)
    assert (found["status"], found["level"]) == ("ok", "warn")
    assert any("appendonly no" in warning for warning in found["warnings"])
    assert any("allkeys-lru" in warning for warning in found["warnings"])
    assert redis.Redis.from_url(server.url).keys("*health*") == []


def test_a_redis_that_is_nearly_full_is_a_warning(embedded: Program, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    client = redis.Redis.from_url(server.url)
    for number in range(64):
        client.set(f"other-{number}", bytes(1_000_000))
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
    found = health(embedded, "revoke_store", server.url, 0)
    assert any("maxmemory" in warning for warning in found["warnings"])


def test_a_sound_redis_has_no_warning(embedded: Program, start_redis: Callable[..., RedisServer]) -> None:
    url = start_redis().url
    for place in OPTIONS:
        assert "level" not in health(embedded, place, url, 0)


@PLACES
def test_a_node_of_a_redis_cluster_is_refused(
    embedded: Program, start_redis: Callable[..., RedisServer], place: str
) -> None:
    server = start_redis(cluster=True)
    found = health(embedded, place, server.url, 2)
    assert "Redis Cluster" in found["message"]


def test_a_redis_user_without_a_right_is_told_which(embedded: Program, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    server.say("ACL", "SETUSER", "team", "on", ">pw", "~*", "&*", "+@read", "+ping", "+info", "+time")
    url = server.url.replace("redis://", "redis://team:pw@")
    for place in OPTIONS:
        found = health(embedded, place, url, 74)
        assert "set" in found["message"].lower()
        assert found["hint"]


@pytest.mark.parametrize("place", ["backend", "revoke_store"])
def test_a_postgres_that_takes_no_writes_is_an_error(embedded: Program, postgres_url: str, place: str) -> None:
    assert health(embedded, place, postgres_url, 0)["status"] == "ok"
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET default_transaction_read_only = on")
    found = health(embedded, place, postgres_url, 74)
    assert "read-only" in found["message"]
    assert found["hint"]


@pytest.mark.parametrize("place", ["backend", "revoke_store"])
def test_a_postgres_that_does_not_sync_is_a_warning_and_keeps_no_marker(
    embedded: Program, postgres_url: str, place: str
) -> None:
    found = health(embedded, place, postgres_url, 0)
    assert any("fsync is off" in warning for warning in found["warnings"])
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        for table in (
            ("stem_revocations", "stem_revocation_versions")
            if place == "revoke_store"
            else ("stem_tasks", "stem_roster")
        ):
            cursor.execute(f"SELECT count(*) FROM {table}")
            assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("place", ["backend", "revoke_store"])
def test_a_pooler_before_postgres_is_said(
    embedded: Program, postgres_url: str, pgbouncer_server: PgBouncerServer, place: str
) -> None:
    assert not any("pooler" in warning for warning in health(embedded, place, postgres_url, 0)["warnings"])
    pgbouncer_server.start()
    try:
        found = health(embedded, place, pgbouncer_server.through(urlsplit(postgres_url).path.strip("/")), 0)
    finally:
        pgbouncer_server.stop()
    assert found["status"] == "ok"
    assert any("a connection pooler is in front of the server" in warning for warning in found["warnings"])


def test_a_rabbitmq_user_without_a_right_is_an_error(embedded: Program, rabbitmq_server: RabbitServer) -> None:
    url = rabbitmq_server.new_vhost()
    vhost = url.rpartition("/")[2]
    rabbitmq_server.evaluate('rabbit_auth_backend_internal:add_user(<<"reader">>, <<"pw">>, <<"tests">>)')
    rabbitmq_server.evaluate(
        f'rabbit_auth_backend_internal:set_permissions(<<"reader">>, <<"{vhost}">>, <<"^$">>, <<"^$">>, <<".*">>, <<"tests">>)'
    )
    try:
        found = health(embedded, "broker", url.replace(url.partition("//")[2].partition("@")[0], "reader:pw"), 74)
        assert "no right" in found["message"]
    finally:
        rabbitmq_server.evaluate('rabbit_auth_backend_internal:delete_user(<<"reader">>, <<"tests">>)')


def test_a_rabbitmq_under_an_alarm_is_an_error(embedded: Program, rabbitmq_server: RabbitServer) -> None:
    url = rabbitmq_server.new_vhost()
    with alarm(rabbitmq_server):
        found = health(embedded, "broker", url, 74)
    assert "resource alarm" in found["message"]
    assert "rabbitmqctl status" in found["hint"]
    assert health(embedded, "broker", url, 0)["status"] == "ok"


def test_nothing_stays_at_a_broker_that_was_checked(embedded: Program, rabbitmq_server: RabbitServer) -> None:
    url = rabbitmq_server.new_vhost()
    assert health(embedded, "broker", url, 0)["status"] == "ok"
    assert rabbitmq_server.queues(url) == set()


def test_a_folder_that_takes_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="takes no file"):
        write_marker(Path("/proc/self"), "revoke store x")
    store = FileRevokeStore(tmp_path / "revokes.stem")
    assert store.check("stem") == []
    assert list(tmp_path.glob(".stem-health*")) == []


def test_a_worker_says_the_same_once_when_it_starts(embedded: Program, start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(options=["--appendonly", "no"])
    worker = embedded.start_worker("--broker", server.url, "--revoke-store", server.url, "--name", "w1")
    eventually(lambda: worker.err.count("appendonly no") >= 2, 60, lambda: worker.err)
    assert worker.terminate() == 0
    said = [line for line in worker.err.splitlines() if "appendonly no" in line]
    assert len(said) == 2
    assert any("broker: persistence is off" in line and "WARNING" in line for line in said)
    assert any("revoke store: persistence is off" in line for line in said)


def test_the_tables_are_printed_for_a_role_that_may_not_make_any(embedded: Program, postgres_url: str) -> None:
    script = embedded.ok("health", "--print-ddl").out
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(script)
        cursor.execute(script)  # harmless when repeated
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'stem%' ORDER BY 1")
        assert [name for (name,) in cursor.fetchall()] == [
            "stem_control_floors",
            "stem_control_messages",
            "stem_control_records",
            "stem_failed_messages",
            "stem_revocation_versions",
            "stem_revocations",
            "stem_roster",
            "stem_tasks",
        ]
