"""What the SQLite backend does beyond the contract: expiry, garbage, files that can't be used."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.backends.sqlite import SqliteBackend
from stem_kombu.errors import StoreCorrupt, StoreError
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.testing.roster_contract import heartbeat, workers
from tests.backends.test_memory_backend import Hands


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def backend(path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(path)
    yield backend
    backend.close()


def task(task_id: str, state: TaskState = TaskState.SUCCEEDED) -> TaskRecord:
    return TaskRecord(task_id, "tasks.render", state)


def ask(path: Path, statement: str, *parameters: Any) -> list[Any]:
    """The rows of a statement of the test's own."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement, parameters).fetchall()
    finally:
        connection.close()


def test_g15_expired_records_are_pruned_in_slices_that_keep_up(path: Path) -> None:
    clock = Hands()
    backend = SqliteBackend(path, clock=clock, result_ttl=60)
    backend.record([task(f"old{number:04}") for number in range(1500)])
    clock.sleep(61)

    counts = [1500]
    for batch in range(6):
        backend.record([task(f"new{batch}-{number}") for number in range(200)])
        counts += ask(path, "SELECT count(*) FROM stem_tasks WHERE task_id LIKE 'old%'")[0]

    deleted = [before - after for before, after in pairwise(counts)]
    assert backend.get("old0000") is None
    assert counts[-1] < counts[0] - 600
    assert max(deleted) <= 800
    backend.close()


def test_g15_an_entry_that_has_aged_out_is_neither_seen_nor_kept(path: Path) -> None:
    clock = Hands()
    backend = SqliteBackend(path, clock=clock)
    backend.beat(heartbeat("old", interval=10.0))
    clock.sleep(119)
    assert workers(backend) == ["old"]

    clock.sleep(1)
    assert workers(backend) == []
    backend.beat(heartbeat("new"))

    assert ask(path, "SELECT worker FROM stem_roster") == [("new",)]
    backend.close()


@pytest.mark.parametrize("garbage", ["nonsense", "[]", b"\xff", 7, ""])
def test_g37_a_row_that_can_not_be_read_is_named_and_gives_way(
    backend: SqliteBackend, path: Path, garbage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend.record([task("bad"), task("good")])
    ask(path, "UPDATE stem_tasks SET record = ? WHERE task_id = 'bad'", garbage)

    with pytest.raises(StoreCorrupt, match="stem_tasks, task 'bad'"):
        backend.get("bad")
    assert backend.record([task("bad"), task("good")]) == [task("bad"), task("good")]
    assert backend.get("bad") == task("bad")
    assert backend.get("good") == task("good")
    assert "stem_tasks, task 'bad'" in caplog.text


@pytest.mark.parametrize("garbage", ["nonsense", "{}", b"\xff", 7])
def test_garbage_in_one_entry_of_the_roster_hides_no_other_and_is_told_once(
    backend: SqliteBackend, path: Path, garbage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for worker in ("a", "bad", "c"):
        backend.beat(heartbeat(worker))
    ask(path, "UPDATE stem_roster SET beat = ? WHERE worker = 'bad'", garbage)

    with caplog.at_level(logging.WARNING):
        views = [backend.view("stem") for _ in range(3)]

    assert [[beat.worker for beat in view.heartbeats] for view in views] == [["a", "c"]] * 3
    assert [view.unreadable for view in views] == [1, 1, 1]
    assert [view.set_aside for view in views] == [("bad",)] * 3
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["bad"]
    assert backend.claim(heartbeat("bad")) is None


def test_a_file_that_is_no_database_is_told_and_left_alone(backend: SqliteBackend, path: Path) -> None:
    path.write_bytes(b"precious notes, not a database\n" * 100)

    with pytest.raises(StoreCorrupt, match="result backend sqlite://"):
        backend.record([task("t")])

    assert path.read_bytes().startswith(b"precious notes")


def test_a_batch_with_one_record_that_cannot_be_stored_writes_nothing(backend: SqliteBackend) -> None:
    with pytest.raises(StoreError, match="can't be stored"):
        backend.record([task("a"), TaskRecord("b", "n", TaskState.SUCCEEDED, result={1, 2})])

    assert backend.get("a") is None
