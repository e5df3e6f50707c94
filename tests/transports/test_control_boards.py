"""Control boards over Redis, PostgreSQL, PostgreSQL behind PgBouncer, and SQLite; and what only one of them can get wrong."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis

pytest.register_assert_rewrite("stem_kombu.testing.control_board_contract")

from stem_kombu.errors import ConfigurationError, StoreError  # noqa: E402
from stem_kombu.testing.control_board_contract import HOUR, MINE, ControlBoardContract, all_of  # noqa: E402
from stem_kombu.transports.store.board import COMMANDS, ControlBoard  # noqa: E402
from stem_kombu.transports.store.postgres import PostgresControlBoard  # noqa: E402
from stem_kombu.transports.store.registry import can_carry_control, open_control_board  # noqa: E402
from stem_kombu.transports.store.sqlite import SqliteControlBoard  # noqa: E402
from tests.servers.pgbouncer import PgBouncerServer  # noqa: E402
from tests.servers.postgres import session  # noqa: E402


def rows_in(url: str) -> int:
    with session(url) as one:
        one.execute("SELECT count(*) FROM stem_control_messages")
        return int(one.fetchone()[0])


def end_sessions(url: str) -> None:
    with session(url) as one:
        one.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )


class TestRedisBoard(ControlBoardContract):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    def left(self, url: str) -> Iterator[Callable[[], int]]:
        with closing(redis.Redis.from_url(url)) as client:
            yield lambda: len(client.keys("*"))

    @pytest.fixture
    def cut(self, url: str) -> Iterator[Callable[[], None]]:
        with closing(redis.Redis.from_url(url)) as client:
            yield lambda: client.client_kill_filter(_type="normal", skipme=True)


class TestRedisBoardWithPrefix(TestRedisBoard):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return f"{redis_url}?global_keyprefix=shop:"

    @pytest.fixture
    def left(self, redis_url: str) -> Iterator[Callable[[], int]]:
        with closing(redis.Redis.from_url(redis_url)) as client:

            def count() -> int:
                keys = client.keys("*")
                assert all(key.startswith(b"shop:{") for key in keys)
                return len(keys)

            yield count

    @pytest.fixture
    def cut(self, redis_url: str) -> Iterator[Callable[[], None]]:
        with closing(redis.Redis.from_url(redis_url)) as client:
            yield lambda: client.client_kill_filter(_type="normal", skipme=True)


class TestPostgresBoard(ControlBoardContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.fixture
    def left(self, postgres_url: str) -> Callable[[], int]:
        return lambda: rows_in(postgres_url)

    @pytest.fixture
    def cut(self, postgres_url: str) -> Callable[[], None]:
        return lambda: end_sessions(postgres_url)


class TestBoardBehindPgBouncer(TestPostgresBoard):
    @pytest.fixture
    def url(self, pgbouncer_server: PgBouncerServer, postgres_url: str) -> str:
        pgbouncer_server.start()
        return pgbouncer_server.through(urlsplit(postgres_url).path.strip("/"))

    @pytest.fixture(autouse=True)
    def nobody_listens(self, url: str, postgres_url: str, pgbouncer_server: PgBouncerServer) -> Iterator[None]:
        """LISTEN would stay on a connection that belongs to other programs a moment later."""
        yield
        try:
            for _ in range(4):
                with session(url) as other:
                    other.execute("SELECT count(*) FROM pg_listening_channels()")
                    assert other.fetchone() == (0,)
        finally:
            end_sessions(postgres_url)  # or the pool would keep the database from being dropped


class TestSqliteBoard(ControlBoardContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "store.db"

    @pytest.fixture
    def url(self, path: Path) -> str:
        return f"sqlite://{path}"

    @pytest.fixture
    def left(self, path: Path) -> Callable[[], int]:
        def count() -> int:
            with closing(sqlite3.connect(path)) as connection:
                return int(connection.execute("SELECT count(*) FROM stem_control_messages").fetchone()[0])

        return count

    @pytest.fixture
    def cut(self) -> Callable[[], None]:
        def fork() -> None:
            """There is no server to lose; but before a fork every process closes its files."""
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)

        return fork


# PostgreSQL.


def test_a_message_whose_transaction_ends_late_is_read_after_those_that_began_later(postgres_url: str) -> None:
    """What a sequence does: number 1 becomes visible after number 2 was read."""
    board = PostgresControlBoard(postgres_url, "shop")
    reader = board.open_reader([COMMANDS, MINE])
    insert = """INSERT INTO stem_control_messages (namespace, address, expires_at, body)
        VALUES ('shop', %s, now() + interval '1 hour', %s)"""
    late = psycopg2.connect(postgres_url)
    try:
        with late.cursor() as one:
            one.execute(insert, ("commands", b"late"))
            one.execute(insert, (MINE.name, b"late"))
        for number in range(3):
            board.publish([COMMANDS, MINE], f"{number}".encode(), expires=HOUR)
            assert all_of(reader, 2) == [(COMMANDS, f"{number}".encode()), (MINE, f"{number}".encode())]

        late.commit()

        assert sorted(all_of(reader, 2), key=str) == [(COMMANDS, b"late"), (MINE, b"late")]
        assert reader.wait(0.0) == []
    finally:
        late.close()
        reader.close()
        board.close()


def test_postgres_wakes_a_reader_that_does_not_look_by_itself(postgres_url: str) -> None:
    board = PostgresControlBoard(postgres_url, "shop", look_every=HOUR)
    reader = board.open_reader([COMMANDS])
    arrived: list[Any] = []
    try:
        assert reader.wait(0.0) == []  # the next look is an hour away
        thread = threading.Thread(target=lambda: arrived.extend(all_of(reader, 1)))
        thread.start()

        board.publish([COMMANDS], b"notified", expires=HOUR)

        thread.join(30)
        assert arrived == [(COMMANDS, b"notified")]
    finally:
        reader.close()
        board.close()


def test_a_role_without_the_right_to_create_tables_uses_those_that_are_there(postgres_url: str) -> None:
    PostgresControlBoard(postgres_url, "shop").publish([COMMANDS], b"", expires=1.0)
    parts = urlsplit(postgres_url)
    with session(postgres_url) as one:
        one.execute("DROP ROLE IF EXISTS board_user")
        one.execute("CREATE ROLE board_user LOGIN PASSWORD 'secret'")
        one.execute("REVOKE CREATE ON SCHEMA public FROM public")
        one.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON stem_control_messages TO board_user")
    url = f"postgresql://board_user:secret@{parts.hostname}:{parts.port}{parts.path}"
    board = PostgresControlBoard(url, "shop")
    reader = board.open_reader([COMMANDS, MINE])
    try:
        board.publish([COMMANDS, MINE], b"granted", expires=HOUR)

        assert sorted(all_of(reader, 2), key=str) == [(COMMANDS, b"granted"), (MINE, b"granted")]
    finally:
        reader.close()
        board.close()
        with session(postgres_url) as one:
            one.execute("DROP OWNED BY board_user")
            one.execute("DROP ROLE board_user")


# Redis.


def test_a_stream_that_begins_anew_with_smaller_numbers_is_read(redis_url: str) -> None:
    """Its key expired, and meanwhile the server's clock was set back, or another server took over whose clock is late."""
    board = open_control_board(redis_url, "shop")
    reader = board.open_reader([COMMANDS])
    key = "{shop}:control:link:commands"
    with closing(redis.Redis.from_url(redis_url)) as client:
        board.publish([COMMANDS], b"ahead", expires=HOUR)
        assert all_of(reader, 1) == [(COMMANDS, b"ahead")]
        client.delete(key)
        client.xadd(key, {"expires_ms": 2**52, "body": b"behind"}, id="5-0")
        try:
            assert all_of(reader, 1) == [(COMMANDS, b"behind")]
        finally:
            reader.close()
            board.close()


# SQLite.


def test_a_restored_file_whose_numbers_are_smaller_is_read(tmp_path: Path) -> None:
    board = SqliteControlBoard(tmp_path / "store.db", "shop")
    reader = board.open_reader([COMMANDS])
    try:
        for number in range(3):
            board.publish([COMMANDS], f"{number}".encode(), expires=HOUR)
        assert len(all_of(reader, 3)) == 3
        with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
            connection.execute("DELETE FROM stem_control_messages")
            connection.execute("DELETE FROM sqlite_sequence")
            connection.commit()
        assert reader.wait(0.0) == []

        board.publish([COMMANDS], b"anew", expires=HOUR)

        assert all_of(reader, 1) == [(COMMANDS, b"anew")]
    finally:
        reader.close()
        board.close()


# Elsewhere.


@pytest.mark.parametrize("url", ["file:///tmp/x", "./revokes", "memory://", "mystore://host"])
def test_other_stores_carry_no_control_messages(url: str) -> None:
    assert not can_carry_control(url)
    with pytest.raises(ConfigurationError, match=r"STEM_REVOKE_STORE_URL: .* can't carry control messages") as refused:
        open_control_board(url, "shop", name="STEM_REVOKE_STORE_URL")
    assert "postgresql://" in str(refused.value.hint)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "postgresql://127.0.0.1:1/x", "sqlite:///nowhere/at/all.db"])
def test_a_database_that_is_not_there_is_told(url: str) -> None:
    board: ControlBoard = open_control_board(url, "shop")
    with pytest.raises(StoreError, match="control link"):
        board.publish([COMMANDS], b"", expires=1.0)
    with pytest.raises(StoreError, match="control link"):
        board.open_reader([COMMANDS])
