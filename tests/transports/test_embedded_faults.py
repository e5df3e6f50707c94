"""What can happen to the embedded broker's file, and what its users are told."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Producer
from kombu.exceptions import OperationalError

from stem_kombu.errors import BrokerError, BrokerUnavailable, ConfigurationError
from stem_kombu.transports.sqlite import location
from stem_kombu.transports.sqlite.errors import translated
from stem_kombu.transports.sqlite.registration import EmbeddedBrokerCorrupt, EmbeddedBrokerUnavailable, Transport
from tests.transports.embedded_actors import acting, connect
from tests.transports.test_embedded_queues import bodies, publish
from tests.waiting import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
def connection(sqlite_url: str) -> Iterator[Connection]:
    with connect(sqlite_url) as opened:
        opened.default_channel.queue_declare("q")
        yield opened


def test_a_file_that_is_no_database_is_named_and_not_retried(path: Path, sqlite_url: str) -> None:
    path.write_bytes(b"this is a letter to my aunt, not a database" * 100)
    with pytest.raises(EmbeddedBrokerCorrupt) as told:
        connect(sqlite_url)
    assert str(path) in told.value.message
    assert told.value.hint is not None
    assert isinstance(told.value, Transport.connection_errors)
    assert not isinstance(told.value, Transport.recoverable_connection_errors)


def test_a_file_of_a_newer_version_is_left_alone(path: Path, sqlite_url: str) -> None:
    connect(sqlite_url).release()
    with sqlite3.connect(path) as sql:
        sql.execute("UPDATE stem_broker_meta SET value = '99' WHERE key = 'schema_version'")
    sql.close()
    with pytest.raises(EmbeddedBrokerCorrupt, match="version 99"):
        connect(sqlite_url)


def test_the_file_may_be_shared_with_other_tables(path: Path, sqlite_url: str) -> None:
    # Given a file of a store, with its own version
    with sqlite3.connect(path) as sql:
        sql.execute("CREATE TABLE revocation (task_id TEXT)")
        sql.execute("PRAGMA user_version = 7")
    sql.close()
    connect(sqlite_url).release()
    # Then both are there, and every table of ours has our prefix
    with sqlite3.connect(path) as sql:
        tables = {name for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert sql.execute("PRAGMA user_version").fetchone() == (7,)
    sql.close()
    assert "revocation" in tables
    assert {t for t in tables if not t.startswith(("stem_broker_", "sqlite_"))} == {"revocation"}


def test_a_file_that_stays_locked_is_a_connection_error_that_says_what_to_look_for(path: Path, sqlite_url: str) -> None:
    with connect(sqlite_url, busy_timeout=0.2) as connection:
        channel = connection.default_channel
        channel.queue_declare("q")
        blocker = sqlite3.connect(path, isolation_level=None)
        try:
            blocker.execute("BEGIN IMMEDIATE")
            with pytest.raises(EmbeddedBrokerUnavailable) as told:
                publish(channel, 1, "q")
            assert "locked by another process for more than 0.2 s" in str(told.value)
            assert str(path) in str(told.value)
            assert told.value.hint
            assert isinstance(told.value, connection.recoverable_connection_errors)
            # Nothing half-done stays behind
            blocker.execute("ROLLBACK")
            publish(channel, 2, "q")
            assert bodies(channel, "q") == [2]
        finally:
            blocker.close()


def test_kombus_retries_outlive_a_lock(path: Path, sqlite_url: str) -> None:
    with connect(sqlite_url, busy_timeout=0.1) as connection:
        connection.default_channel.queue_declare("q")
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        told: list[Exception] = []

        def give_way(error: Exception, interval: float) -> None:
            told.append(error)
            if blocker.in_transaction:
                blocker.execute("ROLLBACK")

        Producer(connection).publish(
            1,
            routing_key="q",
            exchange="",
            retry=True,
            retry_policy={"max_retries": 5, "interval_start": 0, "errback": give_way},
        )
        blocker.close()
        assert isinstance(told[0], EmbeddedBrokerUnavailable)
        assert bodies(connection.default_channel, "q") == [1]


def test_kombus_own_error_keeps_the_next_step(tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_text("")
    connection = Connection(
        f"sqlite:///{occupied}/broker.db", transport="stem_kombu.transports.sqlite.registration:Transport"
    )
    with pytest.raises(OperationalError, match="let this user create and write"):
        connection.ensure_connection(max_retries=1, interval_start=0)


def test_a_directory_in_place_of_the_file_is_an_error(path: Path, sqlite_url: str) -> None:
    path.mkdir()
    connection = Connection(sqlite_url, transport="stem_kombu.transports.sqlite.registration:Transport")
    with pytest.raises(OperationalError, match=str(path)) as told:
        connection.ensure_connection(max_retries=1, interval_start=0)
    assert isinstance(told.value.__cause__, BrokerUnavailable)


def test_a_network_file_system_is_refused(path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "filesystem_of", lambda directory: "nfs4")
    with pytest.raises(ConfigurationError, match="nfs4 is a network file system"):
        connect(sqlite_url)
    assert not path.exists()


def test_an_old_sqlite_is_refused(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigurationError, match=r"3\.35"):
        connect(sqlite_url)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("visibility_timeout", 0),
        ("visibility_timeout", "soon"),
        ("polling_interval", -1),
        ("busy_timeout", float("nan")),
        ("synchronous", "OFF"),
    ],
)
def test_an_option_without_meaning_is_refused(sqlite_url: str, option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        connect(sqlite_url, **{option: value})


def test_full_synchronisation_can_be_asked_for(sqlite_url: str) -> None:
    with connect(sqlite_url, synchronous="full") as connection:
        assert connection.transport.session.query(lambda sql: sql.execute("PRAGMA synchronous").fetchone()) == (2,)


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ("database or disk is full", EmbeddedBrokerUnavailable, "disk space"),
        ("attempt to write a readonly database", EmbeddedBrokerUnavailable, "write to the file"),
        ("unable to open database file", EmbeddedBrokerUnavailable, "directory"),
        ("disk I/O error", EmbeddedBrokerUnavailable, "disk"),
        ("database disk image is malformed", EmbeddedBrokerCorrupt, "restore"),
    ],
)
def test_each_fault_of_sqlite_has_its_next_step(text: str, kind: type[BrokerError], hint: str) -> None:
    error = translated(sqlite3.OperationalError(text), Path("/srv/b.db"))
    assert type(error) is kind
    assert "/srv/b.db" in error.message
    assert text in error.message
    assert hint in (error.hint or "")


def test_consumers_of_a_removed_file_are_told_and_a_new_connection_begins_anew(
    path: Path, sqlite_url: str, connection: Connection
) -> None:
    # Given a consumer
    connection.channel().basic_consume("q", callback=print, consumer_tag="c")
    # When somebody removes the file under it
    for suffix in ("", "-wal", "-shm", "-owners"):
        (path.parent / f"broker.db{suffix}").unlink(missing_ok=True)

    # Then it hears of that instead of waiting for ever
    with pytest.raises(EmbeddedBrokerUnavailable, match="removed or replaced"):
        connection.drain_events(timeout=10)
    assert not connection.connected
    # And a new connection works
    with connect(sqlite_url) as fresh:
        fresh.default_channel.queue_declare("q")
        publish(fresh.default_channel, 1, "q")
        assert bodies(fresh.default_channel, "q") == [1]


def test_publishers_to_a_removed_file_are_told_within_a_second_or_so(path: Path, connection: Connection) -> None:
    path.unlink()

    def refused() -> bool:
        try:
            publish(connection.default_channel, 1, "q")
        except EmbeddedBrokerUnavailable:
            return True
        return False

    eventually(refused, timeout=5)
    # And from then on, every time, until they reconnect
    assert all(refused() for _ in range(3))
    assert not connection.connected


def test_a_removed_lock_file_costs_a_reconnect_and_no_message(
    path: Path, sqlite_url: str, connection: Connection
) -> None:
    # Given a consumer that holds a message
    channel = connection.channel()
    publish(channel, 1, "q")
    assert channel.basic_get("q").decode() == 1
    channel.basic_consume("q", callback=print, consumer_tag="c")
    # When the lock file goes and the next process believes it dead
    os.unlink(f"{path}-owners")
    with acting("hold", url=sqlite_url, queue="q") as actor:
        # Then the message is delivered again
        actor.expect("holds")
        # And the consumer is told to reconnect instead of going on under a name that others have buried
        with pytest.raises(EmbeddedBrokerUnavailable, match="deleted this connection's owner row"):
            connection.drain_events(timeout=10)


def test_space_is_used_again(path: Path, connection: Connection) -> None:
    # Given a broker through which a lot has gone
    channel = connection.default_channel

    def through() -> None:
        for _ in range(200):
            publish(channel, "x" * 5000, "q")
        assert len(bodies(channel, "q")) == 200

    for _ in range(2):
        through()
    size = pages(channel)
    # When as much goes through again, it does not grow
    for _ in range(4):
        through()
    assert pages(channel) <= size * 1.2


def pages(channel: Any) -> int:
    return int(channel.open_session().query(lambda sql: sql.execute("PRAGMA page_count").fetchone()[0]))


def test_free_space_is_given_back_in_the_end(connection: Connection) -> None:
    channel = connection.default_channel
    for _ in range(30):
        publish(channel, "x" * 1_000_000, "q")
    channel.queue_purge("q")
    before = pages(channel)
    session = channel.open_session()
    for _ in range(3):
        session._database.give_back_space()  # the keeper does so every half minute
    assert pages(channel) < before / 2
