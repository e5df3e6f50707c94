"""A task that ends its workers is given up; one that is sent again after its end has a new life (G18, G10)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.backends.base import RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.clock import SYSTEM
from stem_kombu.context import TaskContext
from stem_kombu.control.client.client import ControlClient
from stem_kombu.errors import StoreUnavailable
from stem_kombu.outcome import TaskError, TaskRecord, TaskState
from stem_kombu.task import Task, TaskMessage, TaskOptions
from stem_kombu.testing.gates import Gate
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.lost_workers import LostWorkers, lost_with
from stem_kombu.worker.start_log import StartLog
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import WorkerProcess

Spawn = Callable[..., WorkerProcess]
NOW = SYSTEM.utcnow()
MESSAGE = TaskMessage("t", "tasks.bomb", enqueued_at=NOW)
RUNNING = TaskRecord("t", "tasks.bomb", TaskState.RUNNING, worker="w1", boot="b1", enqueued_at=NOW)


def wait_killed(worker: WorkerProcess) -> None:
    worker.process.wait(60)


@pytest.mark.parametrize(
    ("broker_url", "retries", "allowed"),
    [("embedded", 0, 2), ("embedded", 3, 3), ("redis", 1, 2), ("amqp", 1, 2)],
    indirect=["broker_url"],
)
def test_g18_a_task_that_ends_its_workers_is_given_up(
    app: Stem, spawn_worker: Spawn, tmp_path: Path, retries: int, allowed: int
) -> None:
    marks = tmp_path / "marks"
    result = app.send_task("inline.bomb", [str(marks)], max_retries=retries)
    for number in range(allowed):
        wait_killed(spawn_worker(f"w{number}", short_leases=True, ready=False))
    spawn_worker("last", short_leases=True)
    record = result.wait(timeout=60)
    assert record is not None and record.error is not None
    assert (record.state, record.error.type, record.attempt) == (TaskState.FAILED, "WorkerLost", 1)
    assert record.error.message.startswith(f"{allowed} workers ended while they ran this task: w0, w1")
    assert marks.read_text() == "x" * allowed
    assert app.send_task("inline.add", [1]).get(timeout=60) == 1


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g18_workers_that_are_stopped_do_not_count(app: Stem, spawn_worker: Spawn, gate: Gate) -> None:
    """A rolling deploy that kills what does not end in time: the worker was stopping, and the task is not to blame."""
    result = app.send_task("inline.deaf", [gate.path], max_retries=1)
    for number in range(3):
        worker = spawn_worker(f"w{number}", short_leases=True)
        gate.wait_reached()
        eventually(lambda number=number: (found := result.record) is not None and found.worker == f"w{number}")
        worker.process.terminate()
        eventually(lambda: (found := result.record) is not None and found.boot is None)
        worker.kill()
        (Path(gate.path) / "at-reached").unlink()
    gate.open()
    spawn_worker("last", short_leases=True)
    assert result.get(timeout=60) == "finished"


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g18_inspect_and_the_record_tell_of_the_workers_that_were_lost(
    app: Stem, spawn_worker: Spawn, control: ControlClient, gate: Gate
) -> None:
    result = app.send_task("inline.gated", [gate.path])
    spawn = spawn_worker("first", short_leases=True)
    gate.wait_reached()
    eventually(lambda: result.state is TaskState.RUNNING)
    spawn.kill()
    (Path(gate.path) / "at-reached").unlink()
    spawn_worker("second", short_leases=True)
    gate.wait_reached()
    (task,) = control.inspect().replies[0].payload["in_flight"]
    assert task["lost_workers"] == 1
    gate.open()
    result.get(timeout=60)
    assert result.record is not None
    assert [one.rpartition(" ")[0] for one in result.record.lost_workers] == ["first"]


def test_g18_an_id_that_is_sent_again_after_its_end_is_recorded_as_a_new_life(worker: Worker, app: Stem) -> None:
    assert app.send_task("inline.add", [1], task_id="again").get(timeout=60) == 1
    second = app.send_task("isolate.add", [2], task_id="again")
    assert second.wait(timeout=60) is not None
    eventually(lambda: (found := app.result("again").record) is not None and found.result == 2)


def test_g3_an_id_that_is_sent_again_while_it_is_revoked_stays_cancelled(
    worker: Worker, app: Stem, control: ControlClient
) -> None:
    control.revoke(["again"])
    for _ in range(2):
        record = app.send_task("inline.add", [1], task_id="again").wait(timeout=60)
        assert record is not None
        eventually(lambda: app.result("again").state is TaskState.CANCELLED)
    assert worker.totals.snapshot()["started"] == 0


def test_g10_a_client_whose_clock_is_behind_starts_a_new_life_all_the_same(app: Stem) -> None:
    assert app.backend is not None
    ahead = SYSTEM.utcnow() + timedelta(days=1)
    app.backend.record([TaskRecord("again", "inline.add", TaskState.SUCCEEDED, enqueued_at=ahead)])
    result = app.send_task("inline.add", [1], task_id="again")
    assert result.record is not None
    assert (result.record.state, result.record.enqueued_at) == (TaskState.QUEUED, ahead + timedelta(microseconds=1))


# -- who is lost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "lost"),
    [
        (None, ()),
        (RUNNING, ("w1 b1",)),
        (replace(RUNNING, boot=None), ()),  # stopping, or of Stem 0.1.0
        (replace(RUNNING, lost_workers=("w0 b0",)), ("w0 b0", "w1 b1")),
        (replace(RUNNING, lost_workers=("w1 b1",)), ("w1 b1",)),
        (replace(RUNNING, state=TaskState.RETRYING, lost_workers=("w0 b0",)), ("w0 b0",)),
        (replace(RUNNING, enqueued_at=NOW - timedelta(seconds=1)), ()),  # of another life
    ],
)
def test_who_had_an_attempt_and_never_said_how_it_ended(record: TaskRecord | None, lost: tuple[str, ...]) -> None:
    assert lost_with(MESSAGE, record) == lost


def beat(worker: str, boot: str, **fields: Any) -> Heartbeat:
    plain = {"interval": 10.0, "hostname": "elsewhere", "pid": 1, "version": "0", "timestamp": NOW, **fields}
    return Heartbeat("stem", worker, boot, f"stem-inbox-{worker}", **plain)


def judged(*beats: Heartbeat, away: bool = False, **options: int) -> tuple[LostWorkers, Delivery]:
    def view(_: str) -> RosterView:
        if away:
            raise StoreUnavailable("away")
        return RosterView(beats, NOW)

    roster: Any = SimpleNamespace(view=view)
    lost = LostWorkers(roster, "stem", "mine", **{"most": 3, "default_max_retries": 3, **options})
    task = Task("tasks.bomb", lambda ctx: None, TaskOptions())
    delivery = Delivery(1, MESSAGE, task, None, 1, True)
    delivery.lost = dict.fromkeys(["w1 b1", "w2 b2", "w3 b3"])
    return lost, delivery


def test_g18_workers_that_left_the_roster_or_started_anew_were_lost() -> None:
    lost, delivery = judged(beat("w1", "another"), beat("w2", "b2", timestamp=NOW - timedelta(seconds=31)))
    verdict = lost.judge(delivery)
    assert isinstance(verdict, TaskError)
    assert verdict == TaskError("WorkerLost", "3 workers ended while they ran this task: w1, w2, w3")


def test_g18_a_worker_that_may_live_is_waited_for_and_counts_for_nothing_once_it_beats() -> None:
    first, delivery = judged(beat("w1", "b1"))
    assert isinstance(first.judge(delivery), float)
    later, _ = judged(beat("w1", "b1", timestamp=NOW + timedelta(seconds=1)))
    assert later.judge(delivery) is None
    assert list(delivery.lost) == ["w2 b2", "w3 b3"]


def test_g18_a_worker_that_was_draining_and_this_one_count_for_nothing() -> None:
    for known in (beat("w1", "b1", state="draining"), beat("w1", "mine")):
        lost, delivery = judged(known)
        delivery.lost = dict.fromkeys([f"w1 {known.boot}", "w2 b2", "w3 b3"])
        assert lost.judge(delivery) is None


def test_g18_while_the_roster_is_away_nothing_is_given_up() -> None:
    lost, delivery = judged(away=True)
    assert isinstance(lost.judge(delivery), float)
    delivery.lost.popitem()
    assert lost.judge(delivery) is None


# -- the log of starts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StartLog]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    backend = MemoryBackend(str(tmp_path))

    def make(boot: str, states: MemoryBackend | None = backend) -> StartLog:
        return StartLog(states, "stem", f"worker-{boot}", boot, SYSTEM)

    return make


def died(log: StartLog) -> None:
    """As the system leaves it after SIGKILL."""
    assert log._descriptor is not None and log._map is not None
    log._map.close()
    os.close(log._descriptor)


def test_g18_what_a_dead_worker_had_begun_is_recorded_by_the_next_one(starts: Callable[..., StartLog]) -> None:
    dead, backend = starts("b1"), MemoryBackend(starts("x")._states.url.removeprefix("memory://"))  # type: ignore[union-attr]
    dead.start()
    for number in range(3000):
        dead.note(TaskMessage(f"t{number}", "tasks.bomb"))
    backend.record([TaskRecord("t2999", "tasks.bomb", TaskState.QUEUED, queue="q", enqueued_at=NOW)])
    backend.record([TaskRecord("t2998", "tasks.bomb", TaskState.SUCCEEDED)])
    died(dead)
    following = starts("b2")
    following.start()
    found = backend.get("t2999")
    assert found is not None
    assert (found.state, found.worker, found.boot, found.queue) == (TaskState.RUNNING, "worker-b1", "b1", "q")
    ended = backend.get("t2998")
    assert ended is not None and ended.state is TaskState.SUCCEEDED
    following.stop()


def test_g15_a_worker_that_stops_leaves_no_log_and_one_that_lives_keeps_its_own(
    starts: Callable[..., StartLog], tmp_path: Path
) -> None:
    one, two = starts("b1"), starts("b2")
    one.start()
    two.start()
    (folder,) = tmp_path.glob("stem-starts-*")
    assert len(list(folder.iterdir())) == 2
    one.stop()
    two.stop()
    two.note(MESSAGE)
    assert list(folder.iterdir()) == []


def test_starts_are_not_noted_where_there_is_no_backend_or_no_folder(
    starts: Callable[..., StartLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = starts("b1", None)
    alone.start()
    alone.note(MESSAGE)
    alone.stop()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not-there"))
    lost = starts("b2")
    lost.start()
    lost.note(MESSAGE)
    lost.stop()
    assert list(tmp_path.iterdir()) == []


def test_g15_what_a_dead_worker_of_another_fleet_left_is_deleted_in_the_end(
    starts: Callable[..., StartLog], tmp_path: Path
) -> None:
    one, other = starts("b1"), StartLog(MemoryBackend("other"), "stem", "w", "b2", SYSTEM)
    lives = StartLog(MemoryBackend("third"), "stem", "w", "b3", SYSTEM)
    other.start()
    lives.start()
    died(other)
    (folder,) = tmp_path.glob("stem-starts-*")
    for path in folder.iterdir():
        os.utime(path, (1.0, 1.0))
    one.start()
    assert sorted(path.name.rpartition("-")[2] for path in folder.iterdir()) == ["b1", "b3"]
    one.stop()
    lives.stop()


def test_g3_a_revoke_while_the_start_of_a_next_attempt_is_recorded_keeps_its_handler_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Stem("late", broker=f"sqlite:///{tmp_path / 'broker.db'}", backend=f"sqlite:///{tmp_path / 'state.db'}")
    runs: list[int] = []

    @app.task("flaky", max_retries=1, retry_backoff=0.01)
    def flaky(ctx: TaskContext) -> None:
        runs.append(ctx.attempt)
        raise ValueError("once more")

    backend = app.backend
    assert backend is not None
    asked, answer = threading.Event(), threading.Event()
    record = backend.record

    def slow(records: Sequence[TaskRecord]) -> list[TaskRecord]:
        if any(one.state is TaskState.RUNNING and one.attempt == 2 for one in records):
            asked.set()
            assert answer.wait(60)
        return record(records)

    monkeypatch.setattr(backend, "record", slow)
    with Worker(app, concurrency=1, name="w"):
        app.send_task("flaky", task_id="t")
        assert asked.wait(60)
        with ControlClient(app.settings) as control:
            report = control.revoke(["t"], timeout=30.0)
        assert [reply.worker for reply in report.replies] == ["w"]
        answer.set()
        ended = backend.wait("t", 60)
    assert ended is not None
    assert (ended.state, ended.attempt, runs) == (TaskState.CANCELLED, 2, [1])
