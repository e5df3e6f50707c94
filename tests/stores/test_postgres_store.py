"""The PostgreSQL store: order of commits, forks, rights, and servers that refuse, restart and hang."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.postgres_session import PostgresSession
from stem_kombu.drivers.schema import Schema
from stem_kombu.errors import StoreError, StoreUnavailable
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.stores import postgres_rows
from stem_kombu.stores.postgres import SCHEMA, PostgresRevokeStore
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.ports import free_port
from tests.servers.postgres import PostgresServer, session
from tests.waiting import eventually

NS = "shop"
PROOF = '{"t":1,"e":null,"x":false,"r":null,"q":null,"s":"hmac-sha256:ops:AA=="}'
NO_TABLES = Schema.of(["CREATE TABLE IF NOT EXISTS nothing (a int)"])


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresRevokeStore]:
    opened = PostgresRevokeStore(postgres_url)
    yield opened
    opened.close()


def database(url: str, **options: Any) -> PostgresDatabase:
    return PostgresDatabase(url, schema=NO_TABLES, **options)


def test_g4_a_later_version_is_not_visible_before_an_earlier_one(
    store: PostgresRevokeStore, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier writer is held between getting its version and COMMIT; the later one must wait for it."""
    store.save(NS, [Draft("before")])
    first_has_version, let_go = threading.Event(), threading.Event()
    add = postgres_rows.add

    def held(opened: PostgresSession, records: Any) -> set[str]:
        there = add(opened, records)
        if records[0].task_id == "first":
            first_has_version.set()
            assert let_go.wait(30)
        return there

    monkeypatch.setattr(postgres_rows, "add", held)
    versions: dict[str, int] = {}

    def save(task_id: str) -> None:
        versions[task_id] = store.save(NS, [Draft(task_id)])[0].version

    first, second = (threading.Thread(target=save, args=(name,)) for name in ("first", "second"))
    first.start()
    assert first_has_version.wait(30)
    second.start()
    with session(postgres_url) as cursor:

        def someone_waits() -> bool:
            cursor.execute(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            return cursor.fetchone() is not None

        eventually(someone_waits)
    assert [record.task_id for record in store.since(NS, 0)] == ["before"]

    let_go.set()
    first.join(30)
    second.join(30)

    assert versions["first"] < versions["second"]
    assert [record.task_id for record in store.since(NS, 0)] == ["before", "first", "second"]


def test_new_revocations_are_neither_looked_for_nor_spelled_out_in_columns_of_one_value(
    store: PostgresRevokeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(NS, [Draft("before")])
    seen: list[tuple[str, Any]] = []
    executed = PostgresSession._executed

    def noted(opened: PostgresSession, statement: str | bytes, parameters: Any) -> Any:
        seen.append((str(statement), parameters))
        return executed(opened, statement, parameters)

    monkeypatch.setattr(PostgresSession, "_executed", noted)
    drafts = [Draft(f"t{number}", requested_by="operator", expires_in=60) for number in range(postgres_rows.PAGE + 1)]
    store.save(NS, drafts)

    about = [(statement, given) for statement, given in seen if "stem_revocations " in statement]
    assert [statement.split()[0] for statement, _ in about] == [
        "SELECT",
        "INSERT",
        "INSERT",
    ]  # the highest version, two pages
    assert not any("ANY" in statement for statement, _ in about)
    assert sum(len(value) for value in about[1][1] if isinstance(value, str)) < 12 * postgres_rows.PAGE


@pytest.mark.parametrize("held", [[0], [1, 4, 7], list(range(9))])
def test_a_batch_of_new_tasks_and_others_is_merged_as_one_by_one(
    store: PostgresRevokeStore, monkeypatch: pytest.MonkeyPatch, held: list[int]
) -> None:
    monkeypatch.setattr(postgres_rows, "PAGE", 4)
    store.save(NS, [Draft(f"t{number}", True, f"reason {number}", expires_in=600) for number in held])
    saved = store.save(NS, [Draft(f"t{number}", requested_by="b", expires_in=60) for number in range(9)])

    assert [record.task_id for record in saved] == [f"t{number}" for number in range(9)]
    assert [record.version - saved[0].version for record in saved] == list(range(9))
    assert [record.terminate for record in saved] == [number in held for number in range(9)]
    assert [record.reason for record in saved] == [f"reason {n}" if n in held else None for n in range(9)]
    assert list(store.since(NS, 0)) == saved


def test_writers_of_different_namespaces_do_not_wait_for_each_other(
    store: PostgresRevokeStore, postgres_url: str
) -> None:
    store.save(NS, [Draft("t")])
    connection = psycopg2.connect(postgres_url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM stem_revocation_versions WHERE namespace = %s FOR UPDATE", (NS,))

        store.save("other", [Draft("t")])

    connection.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("end", ["close", "exit"])
def test_a_forked_child_leaves_the_sessions_of_its_parent_alone(postgres_url: str, end: str) -> None:
    opened = database(postgres_url)

    def backend(this: PostgresSession) -> int:
        return int(this.rows("SELECT pg_backend_pid()")[0][0])

    before = opened.read(backend)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        status = 1
        try:
            status = 0 if opened.read(backend) != before else 3
            if end == "close":
                opened.close()
            del opened
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert opened.read(backend) == before
    opened.close()


def test_g1_a_server_that_was_restarted_is_found_again(
    store: PostgresRevokeStore, postgres_server: PostgresServer
) -> None:
    (before,) = store.save(NS, [Draft("t1")])
    threads = [threading.Thread(target=store.ping) for _ in range(4)]  # several connections, all of which will be stale
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    postgres_server.restart()

    (after,) = store.save(NS, [Draft("t2")])
    assert list(store.load(NS)) == [before, after]
    postgres_server.kill()
    with pytest.raises(StoreUnavailable, match="refused") as down:
        store.save(NS, [Draft("lost")])
    assert "stem-secret" not in str(down.value)
    postgres_server.start()
    assert list(store.load(NS)) == [before, after]


def test_a_session_that_was_ended_is_opened_again(store: PostgresRevokeStore, postgres_url: str) -> None:
    store.save(NS, [Draft("t1")])
    with session(postgres_url) as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )

    store.save(NS, [Draft("t2")])

    assert len(list(store.load(NS))) == 2


def test_what_must_not_happen_twice_is_not_repeated(postgres_url: str) -> None:
    opened = database(postgres_url)
    calls = []

    def end_yourself(this: PostgresSession) -> None:
        calls.append(1)
        this.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(StoreUnavailable):
        opened.write(end_yourself, repeat=False)

    assert calls == [1]
    with pytest.raises(StoreUnavailable):
        opened.write(end_yourself)
    assert len(calls) == 3


def test_a_deadlock_is_repeated(postgres_url: str) -> None:
    opened = database(postgres_url)
    opened.write(lambda this: this.execute("CREATE TABLE pair (id int PRIMARY KEY, hits int DEFAULT 0)"))
    opened.write(lambda this: this.execute("INSERT INTO pair VALUES (1), (2)"))
    met = threading.Barrier(2)

    def hit(first: int, second: int) -> Callable[[PostgresSession], None]:
        tries = iter((True, False, False))

        def operation(this: PostgresSession) -> None:
            this.execute("UPDATE pair SET hits = hits + 1 WHERE id = %s", (first,))
            if next(tries):
                met.wait(30)
            this.execute("UPDATE pair SET hits = hits + 1 WHERE id = %s", (second,))

        return operation

    threads = [threading.Thread(target=opened.write, args=(hit(*order),)) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert opened.read(lambda this: this.rows("SELECT id, hits FROM pair ORDER BY id")) == [(1, 2), (2, 2)]
    opened.close()


def test_an_operation_that_fails_leaves_nothing_behind(store: PostgresRevokeStore, postgres_url: str) -> None:
    opened = database(postgres_url)

    def fail(this: PostgresSession) -> None:
        this.execute("INSERT INTO nothing VALUES (1)")
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        opened.write(fail)
    with pytest.raises(StoreError, match="does not exist"):
        opened.write(lambda this: this.execute("INSERT INTO nothing VALUES (2); SELECT no_such_column"))

    assert opened.read(lambda this: this.rows("SELECT * FROM nothing")) == []
    opened.close()


def test_a_server_that_hangs_is_given_up(postgres_server: PostgresServer, postgres_url: str) -> None:
    opened = database(postgres_url, timeout=0.2)
    opened.read(lambda this: this.rows("SELECT 1"))
    postgres_server.pause()
    try:
        for attempt in (opened, database(postgres_url, connect_timeout=0.3)):
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                attempt.read(lambda this: this.rows("SELECT 1"))
    finally:
        postgres_server.resume()
    assert opened.read(lambda this: this.rows("SELECT 1")) == [(1,)]
    opened.close()


def test_a_statement_that_takes_too_long_is_given_up_and_the_connection_kept(postgres_url: str) -> None:
    opened = database(postgres_url, timeout=0.2)

    with pytest.raises(StoreUnavailable, match="statement timeout"):
        opened.read(lambda this: this.rows("SELECT pg_sleep(30)"))

    assert opened.read(lambda this: this.rows("SELECT 1")) == [(1,)]
    opened.close()


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"password": "wrong-secret"}, "password authentication failed", "check user and password"),
        ({"user": "nobody"}, "password authentication failed", "check user and password"),
        ({"database": "no_such_database"}, "does not exist", "createdb"),
        ({"query": "sslmode=require"}, "does not support SSL", "sslmode=disable"),
        ({"host": "no.such.host.invalid"}, "could not translate host name", "host and port"),
        ({"port": None}, "refused", "host and port"),
    ],
    ids=["password", "user", "database", "tls", "host", "port"],
)
def test_a_server_that_cannot_be_used_is_told_without_the_password(
    postgres_url: str, change: dict[str, Any], message: str, hint: str
) -> None:
    parts = urlsplit(postgres_url)
    at = {"user": parts.username, "password": parts.password, "host": parts.hostname, "port": parts.port, "query": ""}
    at |= {"database": parts.path.lstrip("/")} | change
    port = at["port"] or free_port()
    url = f"postgres://{at['user']}:{at['password']}@{at['host']}:{port}/{at['database']}?{at['query']}"

    with pytest.raises(StoreUnavailable, match=message) as refused:
        open_revoke_store(url).ping()

    assert hint in (refused.value.hint or "")
    assert "secret" not in refused.value.message
    assert f"{at['user']}:***@" in refused.value.message


def test_a_user_who_may_not_create_tables_can_use_those_that_are_there(
    store: PostgresRevokeStore, postgres_url: str
) -> None:
    parts = urlsplit(postgres_url)
    role = f"weak_{parts.path.lstrip('/')}"
    weak = f"postgresql://{role}:pw@{parts.hostname}:{parts.port}{parts.path}"
    with session(postgres_url) as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
        cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        with pytest.raises(StoreUnavailable, match="permission denied") as refused:
            open_revoke_store(weak).save(NS, [Draft("t")])
        assert "CREATE" in (refused.value.hint or "")

        store.save(NS, [Draft("t")])
        with session(postgres_url) as cursor:
            cursor.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        with_rights = open_revoke_store(weak)
        with_rights.save(NS, [Draft("u")])
        assert len(list(store.load(NS))) == 2
        with_rights.close()
    finally:
        with session(postgres_url) as cursor:
            cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_tables_that_were_dropped_are_made_again_and_versions_go_on(
    store: PostgresRevokeStore, postgres_url: str
) -> None:
    (old,) = store.save(NS, [Draft("old")])
    with session(postgres_url) as cursor:
        cursor.execute("DROP TABLE stem_revocations, stem_revocation_versions")

    (new,) = store.save(NS, [Draft("new")])

    assert new.version > old.version
    assert [record.task_id for record in store.since(NS, old.version)] == ["new"]


def test_an_idle_since_reads_the_index_and_nothing_else(store: PostgresRevokeStore, postgres_url: str) -> None:
    last = store.save(NS, [Draft(f"t{number}") for number in range(5000)])[-1]
    with session(postgres_url) as cursor:
        cursor.execute("ANALYZE stem_revocations")
        cursor.execute(
            "EXPLAIN SELECT * FROM stem_revocations WHERE namespace = %s AND version > %s ORDER BY version LIMIT 5000",
            (NS, last.version),
        )
        plan = " ".join(line for (line,) in cursor.fetchall())

    assert "Index Scan using stem_revocations_version" in plan
    assert "Sort" not in plan


def test_the_schema_of_the_store_is_checked_by_name() -> None:
    assert set(SCHEMA.names) == {
        "stem_revocations",
        "stem_revocations_version",
        "stem_revocations_expiry",
        "stem_revocation_versions",
        "stem_control_records",
        "stem_control_records_version",
        "stem_control_records_expiry",
        "stem_control_floors",
    }
    with pytest.raises(ValueError, match="not a CREATE"):
        Schema.of(["DROP TABLE users"])


def test_a_table_of_an_earlier_version_gets_its_column_for_proofs(
    postgres_url: str, store: PostgresRevokeStore
) -> None:
    with session(postgres_url) as cursor:
        for statement in SCHEMA.statements:
            cursor.execute(statement)
        cursor.execute(f"INSERT INTO stem_revocations VALUES ('{NS}', 'old', 7, now(), true)")

    store.save(NS, [Draft("new", proofs=(PROOF,))])

    assert [(record.task_id, record.proofs) for record in store.load(NS)] == [("old", ()), ("new", (PROOF,))]


ODD = ["NULL", '"', "\\", '\\"', "{a,b}", "a,b", "%s", "%", "'; --", " x ", "\\N", "é", "{", "}", '""', "null"]


def test_ids_and_texts_that_mean_something_in_an_array_are_only_text(store: PostgresRevokeStore) -> None:
    drafts = [Draft(one, reason=other, requested_by=one) for one, other in zip(ODD, ["", *ODD], strict=False)]

    saved = store.save(NS, drafts)

    assert [(one.task_id, one.reason, one.requested_by) for one in saved] == list(
        zip(ODD, ["", *ODD], ODD, strict=False)
    )
    assert list(store.load(NS)) == saved
    assert [store.get(NS, one) for one in ODD] == saved
    again = store.save(NS, [Draft(one) for one in ODD])
    assert [(one.task_id, one.reason) for one in again] == [(one.task_id, one.reason) for one in saved]
