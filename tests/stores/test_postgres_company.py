"""PostgreSQL as others have set it up: pools, encodings, isolation levels."""

from __future__ import annotations

import threading
from urllib.parse import urlsplit, urlunsplit

import pytest

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.postgres import PostgresBackend
from stem_kombu.errors import StoreError, StoreUnavailable
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.stores.postgres import PostgresRevokeStore
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.postgres import PostgresServer, session

NS = "shop"
BEAT = Heartbeat(NS, "w1", "boot", "inbox", 10.0, "host", 1, "0.1.0")


def use_everything(url: str, *, name: str = "t") -> None:
    """Every operation of store and backend, on connections of their own."""
    store, backend = PostgresRevokeStore(url), PostgresBackend(url)
    try:
        store.save(NS, [Draft(name, reason="r", expires_in=60.0)])
        assert [record.task_id for record in store.load(NS)].count(name) == 1
        assert store.get(NS, name) is not None
        store.revision(NS), store.prune(NS), store.now(), store.ping()
        backend.record([TaskRecord(name, "job", TaskState.SUCCEEDED, attempt=1, result=1)])
        assert backend.get(name) is not None
        backend.claim(BEAT), backend.beat(BEAT), backend.view(NS), backend.leave(NS, "w1", "boot")
    finally:
        store.close()
        backend.close()


def test_nothing_is_left_on_the_connections_of_a_pool(
    pgbouncer_server: PgBouncerServer, postgres_url: str, postgres_server: PostgresServer
) -> None:
    """In transaction mode a server's connection goes to another program after each COMMIT, with all that was set on it."""
    pgbouncer_server.start()
    url = pgbouncer_server.through(urlsplit(postgres_url).path.strip("/"))
    try:
        use_everything(url)

        for _ in range(4):
            with session(url) as other:
                other.execute("SELECT name, setting FROM pg_settings WHERE source = 'session'")
                left = {name for name, _ in other.fetchall()}
                other.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
                (locks,) = other.fetchone()
                other.execute("SELECT count(*) FROM pg_prepared_statements")
                (prepared,) = other.fetchone()
                other.execute("SELECT pg_sleep(0)")
            # What a pool keeps apart for each client by itself, and what PostgreSQL sets anew for each transaction.
            assert left <= {
                "application_name",
                "client_encoding",
                "DateStyle",
                "TimeZone",
                "standard_conforming_strings",
                "transaction_isolation",
            }
            assert (locks, prepared) == (0, 0)
    finally:
        pgbouncer_server.stop()


def test_a_statement_still_has_a_time_limit_behind_a_pool(pgbouncer_server: PgBouncerServer, postgres_url: str) -> None:
    pgbouncer_server.start()
    url = pgbouncer_server.through(urlsplit(postgres_url).path.strip("/"))
    store = PostgresRevokeStore(url, patience=0.5)
    try:
        store.save(NS, [Draft("t")])
        with session(postgres_url) as holder:
            holder.execute("BEGIN")
            holder.execute("LOCK TABLE stem_revocation_versions")

            with pytest.raises(StoreUnavailable, match="no answer in time"):
                store.save(NS, [Draft("u")])

            holder.execute("ROLLBACK")
        assert [record.task_id for record in store.load(NS)] == ["t"]
    finally:
        store.close()
        pgbouncer_server.stop()


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
def test_g6_a_database_with_another_isolation_level_refuses_no_writer(postgres_url: str, level: str) -> None:
    with session(postgres_url) as admin:
        admin.execute(
            f"ALTER DATABASE {urlsplit(postgres_url).path.strip('/')} SET default_transaction_isolation = '{level}'"
        )
    first = PostgresRevokeStore(postgres_url)
    first.save(NS, [Draft("first")])
    failures: list[Exception] = []

    def write(thread: int) -> None:
        store = PostgresRevokeStore(postgres_url)
        try:
            for number in range(8):
                store.save(NS, [Draft(f"{thread}-{number}")])
                list(store.since(NS, 0))
        except StoreError as error:
            failures.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(list(first.load(NS))) == 1 + 12 * 8
    first.close()


def _database(server: PostgresServer, encoding: str) -> str:
    name = f"encoded_{encoding.lower()}"
    with session(server.url) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name}")
        admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    parts = urlsplit(server.url)
    return urlunsplit(parts._replace(path=f"/{name}"))


@pytest.mark.parametrize("text", ["отчёт-7", "naïve", "日本語", "🦑"])
def test_a_database_without_an_encoding_holds_any_text(postgres_server: PostgresServer, text: str) -> None:
    postgres_server.start()
    url = _database(postgres_server, "SQL_ASCII")

    use_everything(url, name=text)


def test_a_role_that_prefers_another_encoding_changes_nothing(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    with session(postgres_url) as admin:
        admin.execute(f"ALTER DATABASE {urlsplit(postgres_url).path.strip('/')} SET client_encoding = 'LATIN1'")

    use_everything(postgres_url, name="отчёт-7")
    use_everything(f"{postgres_url}?client_encoding=latin1", name="отчёт-8")


def test_text_that_a_database_has_no_characters_for_is_refused_with_a_sentence(postgres_server: PostgresServer) -> None:
    postgres_server.start()
    url = _database(postgres_server, "LATIN1")
    store, backend = PostgresRevokeStore(url), PostgresBackend(url)

    use_everything(url, name="naïve")
    with pytest.raises(StoreError, match="encoding of this database") as refused:
        store.save(NS, [Draft("plain"), Draft("отчёт-7")])
    with pytest.raises(StoreError, match="encoding of this database"):
        backend.record([TaskRecord("отчёт-7", "job", TaskState.SUCCEEDED, attempt=1)])

    assert "UTF8" in str(refused.value.hint)
    assert not isinstance(refused.value, StoreUnavailable)  # it would be tried again for ever
    assert [record.task_id for record in store.load(NS)] == ["naïve"]
    store.close()
    backend.close()
