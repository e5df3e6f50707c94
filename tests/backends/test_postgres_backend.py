"""What the PostgreSQL backend does beyond the contract: expiry, garbage, outages, locks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import psycopg2
import pytest

from stem_kombu.backends.postgres import PostgresBackend
from stem_kombu.errors import StoreCorrupt, StoreUnavailable
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.testing.backend_contract import _record_shuffled
from stem_kombu.testing.parallel import in_processes
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.testing.roster_contract import heartbeat, workers
from tests.servers.postgres import PostgresServer


@pytest.fixture
def backend(postgres_url: str) -> Iterator[PostgresBackend]:
    backend = PostgresBackend(postgres_url)
    yield backend
    backend.close()


@pytest.fixture
def ask(postgres_url: str) -> Iterator[Callable[..., Any]]:
    """Runs a statement of the test's own and returns its rows."""
    connection = psycopg2.connect(postgres_url)
    connection.autocommit = True

    def run(statement: str, *parameters: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    yield run
    connection.close()


def task(task_id: str, state: TaskState = TaskState.SUCCEEDED) -> TaskRecord:
    return TaskRecord(task_id, "tasks.render", state)


# Expiry.


def test_g15_expired_records_are_pruned_in_slices_that_keep_up(
    backend: PostgresBackend, ask: Callable[..., Any]
) -> None:
    backend.record([task(f"old{number:04}") for number in range(1500)])
    ask("UPDATE stem_tasks SET expires_at = clock_timestamp() - interval '1 second'")

    def left() -> int:
        return int(ask("SELECT count(*) FROM stem_tasks WHERE task_id LIKE 'old%%'")[0][0])

    assert backend.get("old0000") is None
    counts = [left()]
    for batch in range(6):
        backend.record([task(f"new{batch}-{number}") for number in range(200)])
        counts.append(left())

    deleted = [before - after for before, after in pairwise(counts)]
    assert counts[-1] < counts[0] - 600
    assert max(deleted) <= 800
    assert backend.get("new0-0") == task("new0-0")


def test_pruning_waits_for_nobody_and_spares_what_somebody_holds(
    backend: PostgresBackend, postgres_url: str, ask: Callable[..., Any]
) -> None:
    backend.record([task("held"), task("free")])
    ask("UPDATE stem_tasks SET expires_at = clock_timestamp() - interval '1 second'")
    holder = psycopg2.connect(postgres_url)
    with holder.cursor() as cursor:
        cursor.execute("SELECT 1 FROM stem_tasks WHERE task_id = 'held' FOR UPDATE")

        PostgresBackend(postgres_url).record([task("new")])

    assert ask("SELECT task_id FROM stem_tasks ORDER BY 1") == [("held",), ("new",)]
    holder.close()


def test_g15_an_entry_that_has_aged_out_is_neither_seen_nor_kept(
    backend: PostgresBackend, postgres_url: str, ask: Callable[..., Any]
) -> None:
    backend.beat(heartbeat("old"))
    ask("UPDATE stem_roster SET expires_at = clock_timestamp(), held_until = clock_timestamp()")

    assert workers(backend) == []
    successor = PostgresBackend(postgres_url)
    successor.beat(heartbeat("new"))

    assert ask("SELECT worker FROM stem_roster") == [("new",)]
    successor.close()


# Garbage.


@pytest.mark.parametrize("garbage", ["nonsense", "{}", "[]", '{"name":"n","ended_us":"noon"}'])
def test_g37_a_row_that_can_not_be_read_is_named_and_gives_way(
    backend: PostgresBackend, ask: Callable[..., Any], garbage: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend.record([task("bad"), task("good")])
    ask("UPDATE stem_tasks SET body = %s WHERE task_id = 'bad'", garbage)

    with pytest.raises(StoreCorrupt, match="stem_tasks, task 'bad'"):
        backend.get("bad")
    assert backend.record([task("bad"), task("good")]) == [task("bad"), task("good")]
    assert backend.get("bad") == task("bad")
    assert backend.get("good") == task("good")
    assert "stem_tasks, task 'bad'" in caplog.text


def test_garbage_in_one_entry_of_the_roster_hides_no_other_and_is_told_once(
    backend: PostgresBackend, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    for worker in ("a", "bad", "c"):
        backend.beat(heartbeat(worker))
    ask("UPDATE stem_roster SET beat = 'nonsense' WHERE worker = 'bad'")

    with caplog.at_level(logging.WARNING):
        views = [backend.view("stem") for _ in range(3)]

    assert [[beat.worker for beat in view.heartbeats] for view in views] == [["a", "c"]] * 3
    assert [view.unreadable for view in views] == [1, 1, 1]
    assert [view.set_aside for view in views] == [("bad",)] * 3
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["bad"]
    with pytest.raises(StoreCorrupt, match="worker 'bad'"):
        backend.claim(heartbeat("bad", boot="another"))


# Outages and locks.


def test_it_goes_on_after_the_server_restarted(postgres_server: PostgresServer, backend: PostgresBackend) -> None:
    backend.record([task("before")])
    backend.beat(heartbeat("w"))

    postgres_server.restart()

    assert backend.record([task("after")]) == [task("after")]
    assert backend.get("before") == task("before")
    assert workers(backend) == ["w"]


def test_it_says_so_while_the_server_is_down_and_recovers(
    postgres_server: PostgresServer, backend: PostgresBackend
) -> None:
    backend.record([task("before")])
    postgres_server.stop()

    with pytest.raises(StoreUnavailable, match="result backend postgresql://"):
        backend.record([task("meanwhile")])

    postgres_server.start()
    assert backend.record([task("meanwhile")]) == [task("meanwhile")]


def test_g10_a_record_whose_answer_was_lost_is_offered_again_without_harm(
    postgres_server: PostgresServer,
    postgres_url: str,
    backend: PostgresBackend,
    proxy_for: Callable[[str, int], TcpProxy],
) -> None:
    proxy = proxy_for(postgres_server.host, postgres_server.port)
    near = f"{postgres_server.host}:{postgres_server.port}"
    far = PostgresBackend(postgres_url.replace(near, f"{proxy.host}:{proxy.port}"))
    far.record([TaskRecord("t", "tasks.render", TaskState.RUNNING, worker="w1")])

    proxy.cut()

    (held,) = far.record([TaskRecord("t", "tasks.render", TaskState.SUCCEEDED, result=1)])
    assert (held.worker, held.result) == ("w1", 1)
    assert far.record([TaskRecord("t", "tasks.render", TaskState.SUCCEEDED, result=1)]) == [held]
    assert backend.get("t") == held
    far.close()


def test_concurrent_batches_never_deadlock(postgres_url: str, ask: Callable[..., Any]) -> None:
    in_processes(4, _record_shuffled, postgres_url)

    assert ask("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


def test_a_table_that_was_dropped_is_made_again(backend: PostgresBackend, ask: Callable[..., Any]) -> None:
    backend.record([task("before")])

    ask("DROP TABLE stem_tasks, stem_roster")

    assert backend.record([task("after")]) == [task("after")]
    assert workers(backend) == []
