"""``stem health`` at servers that are a standby, nearly out of connections, or of another time."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
import redis

from tests.cli.program import Done, Program
from tests.cli.test_health_conditions import OPTIONS, health
from tests.faults.fleet import ROOT
from tests.faults.skew import VARIABLE
from tests.servers.postgres import PostgresServer
from tests.servers.process import Reaper
from tests.servers.redis import RedisServer

#: How many connections the servers allow, and how many of them are left to ``stem health``, which looks at several places.
MOST, ROOM = 40, 3


@pytest.fixture(scope="module")
def small_postgres(server_reaper: Reaper, postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """One of its own, as its settings change; ``postgres_server`` is asked for so that absence is told there."""
    server = PostgresServer(server_reaper, fsync=True, options=["-c", f"max_connections={MOST}"])
    try:
        server.start()
        yield server
    finally:
        server.close()


def sentences(found: object) -> str:
    return " ".join(found.get("warnings", ())) if isinstance(found, dict) else ""


@pytest.mark.parametrize("place", ["backend", "revoke_store"])
def test_a_postgres_that_is_nearly_out_of_connections_is_a_warning_and_a_full_one_an_error(
    embedded: Program, small_postgres: PostgresServer, place: str
) -> None:
    url = small_postgres.new_database()
    assert "connections" not in sentences(health(embedded, place, url, 0))
    with contextlib.ExitStack() as held:
        for _ in range(MOST - ROOM):
            held.enter_context(contextlib.closing(psycopg2.connect(url)))
        found = health(embedded, place, url, 0)
        assert "connections are in use" in sentences(found), found
        assert "raise max_connections" in sentences(found)
        for _ in range(ROOM):
            held.enter_context(contextlib.closing(psycopg2.connect(url)))
        found = health(embedded, place, url, 74)
        assert "too many" in found["message"]
        assert "max_connections" in found["hint"]


@pytest.mark.parametrize("place", ["backend", "revoke_store"])
def test_a_standby_is_an_error_that_says_where_to_go(
    embedded: Program, small_postgres: PostgresServer, place: str
) -> None:
    url = small_postgres.new_database()
    health(embedded, place, url, 0)  # it has the tables that a primary would have sent
    signal = small_postgres.directory / "data" / "standby.signal"
    small_postgres.stop()
    signal.touch()
    if os.geteuid() == 0:
        shutil.chown(signal, "postgres")
    try:
        small_postgres.start()
        found = health(embedded, place, url, 74)
        assert "read-only" in found["message"]
        assert "primary" in found["hint"]
    finally:
        small_postgres.stop()
        signal.unlink()
        small_postgres.start()


@pytest.mark.parametrize("place", OPTIONS)
def test_a_redis_that_is_nearly_out_of_connections_is_a_warning_and_a_full_one_an_error(
    embedded: Program, start_redis: Callable[..., RedisServer], place: str
) -> None:
    server = start_redis()
    client = redis.Redis.from_url(server.url)
    client.config_set("maxclients", MOST)
    with contextlib.ExitStack() as held:
        for _ in range(MOST - ROOM - len(client.client_list())):
            held.enter_context(socket.create_connection((server.host, server.port)))
        found = health(embedded, place, server.url, 0)
        assert "connections are in use" in sentences(found), found
        assert "raise maxclients" in sentences(found)
        for _ in range(ROOM):
            held.enter_context(socket.create_connection((server.host, server.port)))
        found = health(embedded, place, server.url, 74)
        assert "no connection left" in found["message"]
        assert "maxclients" in found["hint"]


@pytest.mark.parametrize(("seconds", "where"), [(60, "behind"), (-60, "ahead of"), (2, None)])
@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_clock_that_is_off_is_a_warning_with_its_seconds(
    embedded: Program, request: pytest.FixtureRequest, kind: str, seconds: int, where: str | None
) -> None:
    """The date of the command's own process is moved: the server's is the machine's."""
    url = request.getfixturevalue(f"{kind}_url")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.skew", "stem_kombu_cli", "health", "--revoke-store", url, "--json"],
        env={**embedded.environment, VARIABLE: str(seconds), "PYTHONPATH": str(ROOT)},
        cwd=embedded.folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done
    checks = Done(done.returncode, done.stdout, done.stderr).json["checks"]
    (found,) = [one for one in checks if one["component"] == "revoke_store"]
    if where is None:
        assert "its clock is" not in sentences(found)
    else:
        assert f"s {where} this machine's: synchronise both (NTP)" in sentences(found)
        told = re.search(r"its clock is (\d+) s", sentences(found))
        # Of what the question itself took, only the part is told that can't be the question's.
        assert told is not None and 10 <= int(told[1]) <= 60


def test_a_database_of_sqlalchemy_that_cant_be_written_is_an_error(
    embedded: Program, tmp_path: Path, postgres_url: str
) -> None:
    found = health(embedded, "broker", f"sqla+sqlite:///{tmp_path / 'no-folder' / 'kombu.db'}", 74)
    assert "unable to open database file" in found["message"]
    url = f"sqla+{postgres_url.replace('postgresql', 'postgresql+psycopg2')}"
    assert health(embedded, "broker", url, 0)["status"] == "ok"
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kombu_queue")
        assert cursor.fetchone() == (0,), "the marker is gone"
        cursor.execute(f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET default_transaction_read_only = on")
    assert "read-only" in health(embedded, "broker", url, 74)["message"]


def test_a_folder_of_messages_that_is_not_there_is_an_error(embedded: Program, tmp_path: Path) -> None:
    folder = tmp_path / "messages"
    url = f"filesystem://?data_folder_in={folder}&data_folder_out={folder}&control_folder={tmp_path}"
    found = health(embedded, "broker", url, 74)
    assert f"folder {folder} takes no file" in found["message"]
    folder.mkdir()
    assert health(embedded, "broker", url, 0)["status"] == "ok"
    assert list(folder.iterdir()) == []


def test_a_broker_that_sends_to_one_and_a_store_that_carries_no_commands_are_an_error(
    embedded: Program, tmp_path: Path
) -> None:
    broker, store = f"sqla+sqlite:///{tmp_path / 'kombu.db'}", f"file://{tmp_path / 'revokes'}"
    done = embedded.run("health", "--broker", broker, "--revoke-store", store, "--json")
    assert done.code == 74, done
    (found,) = [one for one in done.json["checks"] if one["component"] == "control"]
    assert "does not send commands to all workers at once" in found["message"]
    assert "STEM_REVOKE_STORE_URL" in found["hint"]
    done = embedded.run("health", "--broker", broker, "--revoke-store", f"sqlite://{tmp_path / 'state.db'}", "--json")
    assert done.code == 0, done
