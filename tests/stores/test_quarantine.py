"""One bad record stops nobody (G37), in tables: it is set aside and named, everything else is obeyed."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from stem_kombu.errors import StoreCorrupt, StoreError
from stem_kombu.revocation import Revocation
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.stores import sqlite_check
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.batch import CEILING
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.stores.sqlite import SqliteRevokeStore
from tests.waiting import eventually

NS = "shop"

SQLITE_DAMAGE = [
    "terminate = 'yes'",
    "issued_us = 'x'",
    "expires_us = 9e30",
    "reason = x'ff00'",
    "proofs = '{'",
    "version = 'x'",
    "version = 9007199254740993",
    "task_id = 'a' || char(7)",
]
POSTGRES_DAMAGE = [
    "proofs = '{'",
    "proofs = '\"ab\"'",
    "version = 9007199254740993",
    "version = -5",
    "reason = repeat('x', 2001)",
    "task_id = 'a' || chr(7)",
]


def check_that_all_else_is_obeyed(store: RevokeStore) -> None:
    found = [record.task_id for record in store.load(NS)]
    assert found == ["t0", "t2"]
    assert [record.task_id for record in store.since(NS, 0)] == found
    assert len(store.quarantine.of(NS)) == 1
    assert "stem_revocations" in store.quarantine.of(NS)[0].place
    assert store.get(NS, "t1") is None
    assert store.glance(NS, ["t0", "t1"]).held.keys() == {"t0"}  # type: ignore[union-attr]
    (saved,) = store.save(NS, [Draft("t3")])
    assert saved.version < CEILING
    assert store.revision(NS) == saved.version
    assert [record.task_id for record in store.since(NS, saved.version - 1)] == ["t3"]
    store.save(NS, [Draft("t1")])
    assert store.get(NS, "t1") is not None


@pytest.mark.parametrize("damage", SQLITE_DAMAGE)
def test_g37_a_row_of_sqlite_that_can_not_be_read_is_set_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "revokes.db"
    store = SqliteRevokeStore(path)
    store.save(NS, [Draft("t0"), Draft("t1"), Draft("t2")])
    with sqlite3.connect(path) as other:
        other.execute(f"UPDATE stem_revocations SET {damage} WHERE task_id = 't1'")

    check_that_all_else_is_obeyed(store)
    store.close()


@pytest.mark.parametrize("damage", POSTGRES_DAMAGE)
def test_g37_a_row_of_postgres_that_can_not_be_read_is_set_aside(postgres_url: str, damage: str) -> None:
    store = open_revoke_store(postgres_url)
    store.save(NS, [Draft("t0"), Draft("t1"), Draft("t2")])
    execute(postgres_url, f"UPDATE stem_revocations SET {damage} WHERE task_id = 't1'")

    check_that_all_else_is_obeyed(store)
    store.close()


@pytest.mark.parametrize(("end", "is_live"), [("infinity", True), ("22000-01-01", True), ("-infinity", False)])
def test_g37_an_end_beyond_the_calendar_is_none(postgres_url: str, end: str, is_live: bool) -> None:
    store = open_revoke_store(postgres_url)
    store.save(NS, [Draft("t0"), Draft("t1")])
    execute(postgres_url, f"UPDATE stem_revocations SET expires_at = '{end}', issued_at = '{end}' WHERE task_id = 't1'")

    assert [record.task_id for record in store.load(NS)] == (["t0", "t1"] if is_live else ["t0"])
    assert len(list(store.since(NS, 0))) == 2
    store.close()


@pytest.mark.parametrize("counter", ["9007199254740991", "-1", "gone"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_g37_a_counter_that_no_store_can_have_given_does_not_count(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, counter: str
) -> None:
    url = f"sqlite://{tmp_path}/revokes.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    store = open_revoke_store(url)
    (first,) = store.save(NS, [Draft("t0")])
    change = "DELETE FROM stem_revocation_versions" if counter == "gone" else (
        f"UPDATE stem_revocation_versions SET version = {counter}"
    )  # fmt: skip
    if kind == "sqlite":
        with sqlite3.connect(tmp_path / "revokes.db") as other:
            other.execute(change)
    else:
        execute(url, change)

    assert store.revision(NS) == first.version
    (second,) = store.save(NS, [Draft("t1")])

    assert first.version < second.version < CEILING
    assert [record.task_id for record in store.load(NS)] == ["t0", "t1"]
    store.close()


@pytest.fixture(params=["small", "large"])
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[RevokeStore], list[Revocation]]:
    """Read all that a store holds, as a program does, or as a worker does of a large file, which is checked meanwhile."""
    if request.param == "small":
        return lambda store: list(store.load(NS))
    monkeypatch.setattr(sqlite_check, "LARGE", 0)
    return lambda store: sorted(
        {one.task_id: one for page in store.pages(NS) for one in page}.values(), key=attrgetter("version")
    )


def test_g6_spoiled_pages_are_not_read_as_fewer_records(
    tmp_path: Path, read: Callable[[RevokeStore], list[Revocation]]
) -> None:
    """SQLite reads what it can from a spoiled page, and says nothing of the rest."""
    path = tmp_path / "revokes.db"
    store = SqliteRevokeStore(path)
    store.save(NS, [Draft(f"t{number}", reason="r" * 60) for number in range(300)])
    store.close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    path.with_name(path.name + "-wal").unlink(missing_ok=True)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    dice = random.Random(12)
    silent = []
    logging.disable(logging.WARNING)
    for trial in range(60):
        spoiled = bytearray(content)
        page = dice.randrange(1, len(content) // 4096)
        start = page * 4096 + dice.choice([0, 0, dice.randrange(4096)])
        end = min(len(content), start + dice.choice([1, 8, 200]))
        spoiled[start:end] = bytes(dice.randrange(256) for _ in range(end - start))
        path.write_bytes(spoiled)
        reader = SqliteRevokeStore(path)
        try:
            found = len(read(reader))
            if found + len(reader.quarantine.of(NS)) < 300:
                silent.append((trial, page, start, found))
        except StoreError:
            pass
        finally:
            reader.close()
    logging.disable(logging.NOTSET)

    assert silent == []


def test_g37_a_spoiled_index_of_sqlite_is_made_again(
    tmp_path: Path, read: Callable[[RevokeStore], list[Revocation]]
) -> None:
    path = tmp_path / "revokes.db"
    store = SqliteRevokeStore(path)
    records = store.save(NS, [Draft(f"task-{number}") for number in range(30)])
    store.close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'stem_revocations_version'").fetchone()
    content = bytearray(path.read_bytes())
    place = (root - 1) * 4096
    for _ in range(17):
        place = content.index(NS.encode(), place + 1)
    assert place < root * 4096
    content[place : place + len(NS)] = b"x" * len(NS)
    path.write_bytes(content)

    assert read(SqliteRevokeStore(path)) == records


def test_records_of_a_table_that_is_spoiled_are_told(
    tmp_path: Path, read: Callable[[RevokeStore], list[Revocation]]
) -> None:
    path = tmp_path / "revokes.db"
    store = SqliteRevokeStore(path)
    store.save(NS, [Draft(f"t{number}") for number in range(300)])
    store.close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'stem_revocations'").fetchone()
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = b"\xff" * 4096
    path.write_bytes(content)

    with pytest.raises(StoreCorrupt, match=str(path)):
        read(SqliteRevokeStore(path))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_g37_repair_moves_what_can_not_be_read_into_a_table_of_its_own(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    url = f"sqlite://{tmp_path}/revokes.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    store = open_revoke_store(url)
    store.save(NS, [Draft("t0"), Draft("t1", reason="why"), Draft("t2")])
    statements = ["UPDATE stem_revocations SET proofs = '{' WHERE task_id = 't1'"]
    query = "SELECT task_id, reason FROM stem_revocations_set_aside"
    if kind == "sqlite":
        with sqlite3.connect(tmp_path / "revokes.db") as other:
            other.execute(statements[0])
    else:
        execute(url, statements[0])
        execute(url, "UPDATE stem_revocation_versions SET version = 7")
        assert len(store.problems(NS)) == 1

    done = store.repair(NS)

    assert done[-1] == "1 records that can't be read were moved to stem_revocations_set_aside"
    assert store.problems(NS) == []
    assert [record.task_id for record in store.since(NS, 0)] == ["t0", "t2"]
    assert store.quarantine.of(NS) == ()
    assert store.repair(NS) == []
    if kind == "sqlite":
        with sqlite3.connect(tmp_path / "revokes.db") as other:
            assert other.execute(query).fetchall() == [("t1", "why")]
    else:
        connection = psycopg2.connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            assert cursor.fetchall() == [("t1", "why")]
        connection.close()
    store.close()


def execute(url: str, statement: str, *given: Any) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement, given or None)
    connection.close()


def test_what_hides_no_record_is_mended_while_the_worker_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index by which a task is looked up: a worker has read all that it is to know without it."""
    monkeypatch.setattr(sqlite_check, "LARGE", 0)
    path = tmp_path / "revokes.db"
    store = SqliteRevokeStore(path)
    records = store.save(NS, [Draft(f"task-{number}") for number in range(30)])
    store.close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = other.execute(
            "SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_stem_rev%'"
        ).fetchone()
    content = bytearray(path.read_bytes())
    place = content.index(b"task-17", (root - 1) * 4096)
    assert place < root * 4096
    content[place : place + 7] = b"task-!!"
    path.write_bytes(content)
    store = SqliteRevokeStore(path)

    assert [one for page in store.pages(NS) for one in page] == records
    eventually(lambda: store.get(NS, "task-17") == records[17])
    assert store.problems(NS) == []
    store.close()
    assert not [one for one in threading.enumerate() if one.name == "stem-store-check"]
