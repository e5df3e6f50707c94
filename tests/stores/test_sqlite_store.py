"""The SQLite store: files that are no database, that are locked, read-only, shared or replaced; and forks."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from pathlib import Path

import pytest

from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.errors import StoreCorrupt, StoreError, StoreUnavailable
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.stores.sqlite import SCHEMA, SqliteRevokeStore

NS = "shop"
PROOF = '{"t":1,"e":null,"x":false,"r":null,"q":null,"s":"hmac-sha256:ops:AA=="}'
PLAIN = Schema.of(["CREATE TABLE IF NOT EXISTS plain (a INTEGER PRIMARY KEY)"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "revokes.db"


@pytest.fixture
def store(path: Path) -> SqliteRevokeStore:
    return SqliteRevokeStore(path)


@pytest.fixture
def database(path: Path) -> SqliteDatabase:
    return SqliteDatabase(path, schema=PLAIN)


def test_g1_a_commit_reaches_the_disk(store: SqliteRevokeStore) -> None:
    settings = store._database.read(
        lambda connection: (
            connection.execute("PRAGMA journal_mode").fetchone()[0],
            connection.execute("PRAGMA synchronous").fetchone()[0],
        )
    )

    assert settings == ("wal", 2)  # 2 is FULL: in WAL mode, NORMAL may lose the last commits when the power fails


def test_rows_lie_in_the_order_in_which_they_are_read(store: SqliteRevokeStore) -> None:
    """By their random ids each would be on a page of its own, and a worker reads a million of them before it consumes."""
    for first in range(0, 300, 100):
        store.save(NS, [Draft(f"{7919 * number % 1009:04}") for number in range(first, first + 100)])

    versions = store._database.rows("SELECT version FROM stem_revocations NOT INDEXED ORDER BY rowid")

    assert versions == [(record.version,) for record in store.since(NS, 0)]


def test_a_file_that_is_no_database_is_told_and_left_as_it_is(store: SqliteRevokeStore, path: Path) -> None:
    path.write_text("hello, world\n" * 100)

    with pytest.raises(StoreCorrupt, match=rf"{path}: file is not a database"):
        store.save(NS, [Draft("t")])

    assert path.read_text() == "hello, world\n" * 100


def test_a_damaged_database_is_told(store: SqliteRevokeStore, path: Path) -> None:
    store.save(NS, [Draft(f"t{number}", reason="r" * 200) for number in range(500)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 8] = b"\xff" * (4096 * 6)
    path.write_bytes(content)

    with pytest.raises(StoreCorrupt, match=str(path)):
        list(store.load(NS))


def test_a_missing_folder_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no folder") as missing:
        SqliteRevokeStore(tmp_path / "missing" / "revokes.db").ping()

    assert missing.value.hint == f"create it: mkdir -p {tmp_path}/missing"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailable, match="can't create the folder"):
        SqliteRevokeStore(tmp_path / "file" / "sub" / "revokes.db", create_folder=True).ping()


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="unable to open") as refused:
        SqliteRevokeStore(tmp_path).ping()

    assert "this user may read and write" in (refused.value.hint or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_file_that_may_only_be_read_is_told(store: SqliteRevokeStore, path: Path) -> None:
    store.save(NS, [Draft("t")])
    store.close()
    path.chmod(0o444)
    folders = [folder for folder in path.parents if not folder.stat().st_mode & 0o005]
    modes = [folder.stat().st_mode for folder in folders]
    for folder in folders:
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(StoreUnavailable) as refused:
            SqliteRevokeStore(path).save(NS, [Draft("u")])
    finally:
        os.seteuid(0)
        for folder, mode in zip(folders, modes, strict=True):
            folder.chmod(mode)

    assert "writ" in (refused.value.hint or "")


def test_a_lock_that_is_never_let_go_is_told_and_readers_do_not_mind(store: SqliteRevokeStore, path: Path) -> None:
    store.save(NS, [Draft("t")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    impatient = SqliteDatabase(path, schema=SCHEMA, timeout=0.05)

    with pytest.raises(StoreUnavailable, match="locked by another process"):
        impatient.write(lambda connection: None)
    assert store.get(NS, "t") is not None

    other.execute("ROLLBACK")
    other.close()
    impatient.write(lambda connection: None)
    impatient.close()


def test_a_thread_that_waits_for_another_process_lets_the_others_read(database: SqliteDatabase, path: Path) -> None:
    database.write(lambda connection: connection.execute("INSERT INTO plain VALUES (1)").rowcount)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    tried = threading.Event()

    def insert(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO plain VALUES (2)")

    def write() -> None:
        tried.set()
        database.write(insert)

    writer = threading.Thread(target=write)
    writer.start()
    assert tried.wait(10)
    for _ in range(20):
        assert database.read(lambda connection: connection.execute("SELECT a FROM plain").fetchall()) == [(1,)]
    other.execute("ROLLBACK")
    writer.join(10)
    other.close()

    assert database.read(lambda connection: connection.execute("SELECT a FROM plain").fetchall()) == [(1,), (2,)]


def test_an_operation_that_fails_leaves_nothing_behind(database: SqliteDatabase) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO plain VALUES (1)")
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        database.write(fail)
    with pytest.raises(StoreError, match="UNIQUE"):
        database.write(lambda connection: connection.execute("INSERT INTO plain VALUES (2), (2)").rowcount)

    assert database.read(lambda connection: connection.execute("SELECT * FROM plain").fetchall()) == []


def test_it_shares_its_file_with_other_tables(store: SqliteRevokeStore, database: SqliteDatabase) -> None:
    database.write(lambda connection: connection.execute("INSERT INTO plain VALUES (1)").rowcount)

    store.save(NS, [Draft("t")])

    assert len(list(store.load(NS))) == 1
    assert database.read(lambda connection: connection.execute("SELECT a FROM plain").fetchall()) == [(1,)]


@pytest.mark.parametrize("how", ["deleted", "replaced", "emptied"])
def test_g2_a_file_that_was_taken_away_is_made_again_and_versions_go_on(
    store: SqliteRevokeStore, path: Path, how: str
) -> None:
    (old,) = store.save(NS, [Draft("old")])
    if how == "deleted":
        for file in path.parent.glob("revokes.db*"):
            file.unlink()
    elif how == "replaced":
        fresh = path.with_name("fresh.db")
        sqlite3.connect(fresh).close()
        fresh.touch()
        for file in path.parent.glob("revokes.db-*"):
            file.unlink()
        fresh.replace(path)
    else:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("DROP TABLE stem_revocations")
        other.execute("DROP TABLE stem_revocation_versions")
        other.close()

    (new,) = store.save(NS, [Draft("new")])

    assert new.version > old.version
    assert [record.task_id for record in store.since(NS, old.version)] == ["new"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_no_connection_is_open_while_a_process_forks(database: SqliteDatabase) -> None:
    database.write(lambda connection: connection.execute("INSERT INTO plain VALUES (1)").rowcount)
    inside, go_on = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO plain VALUES (2)")
        inside.set()
        assert go_on.wait(10)

    writer = threading.Thread(target=database.write, args=(slow,))
    writer.start()
    assert inside.wait(10)
    threading.Timer(0.05, go_on.set).start()  # the fork below waits for the transaction, not the other way round
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # an inherited lock would be waited for until the end of days
        status = 1
        try:
            inherited = database._connection
            found = database.read(lambda connection: connection.execute("SELECT a FROM plain").fetchall())
            status = 0 if inherited is None and found == [(1,), (2,)] else 3
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    writer.join(10)

    assert os.waitstatus_to_exitcode(status) == 0
    assert database.read(lambda connection: connection.execute("SELECT a FROM plain").fetchall()) == [(1,), (2,)]


def test_a_file_of_an_earlier_version_gets_its_column_for_proofs(path: Path, store: SqliteRevokeStore) -> None:
    earlier = SqliteDatabase(path, schema=Schema(SCHEMA.statements, SCHEMA.names))
    held = "task_id, version, issued_us, terminate"
    earlier.write(lambda connection: connection.execute(
        f"INSERT INTO stem_revocations (namespace, {held}) VALUES ('{NS}', 'old', 7, 1000, 1)"
    ))  # fmt: skip
    earlier.close()

    store.save(NS, [Draft("new", proofs=(PROOF,))])

    assert [(record.task_id, record.proofs) for record in store.load(NS)] == [("old", ()), ("new", (PROOF,))]
