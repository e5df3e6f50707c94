"""G33: shutdown is for this life. What runs is finished or requeued, nothing is lost, and it is answered until the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.shutdowns import ShutdownClient
from stem_kombu.control.protocol.messages import Shutdown, ShutdownMode
from stem_kombu.outcome import TaskState
from stem_kombu.testing.gates import Gate
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker, WorkerProcess

WARM, SOFT, HARD = ShutdownMode
embedded = pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)


@pytest.fixture
def fleet(control: ControlClient) -> ShutdownClient:
    return ShutdownClient(control)


def ordered(fleet: ShutdownClient, order: Shutdown, worker: str = "alpha") -> dict[str, object]:
    """What that worker answered."""
    report = fleet.order(order, [worker], 20)
    (reply,) = report.replies
    assert reply.error is None
    return dict(reply.payload)


def is_down(worker: Worker) -> None:
    eventually(lambda: worker.state == "stopped", 60)


def test_g33_a_warm_shutdown_finishes_what_runs_and_answers_until_the_end(
    make_worker: WorkerMaker, app: Stem, fleet: ShutdownClient, control: ControlClient, gate: Gate, mode: str
) -> None:
    worker = make_worker()
    runs = app.send_task(f"{mode}.gated", (gate.path,))
    gate.wait_reached()
    payload = ordered(fleet, Shutdown())
    assert payload == {"mode": "warm", "was": "running", "in_flight": 1, "exit_code": 0}
    eventually(lambda: [one.payload["state"] for one in control.ping(timeout=20).replies] == ["draining"], 30)
    waits = app.send_task(f"{mode}.add", (1,))
    assert ordered(fleet, Shutdown(), "alpha")["was"] == "warm"
    gate.open()
    is_down(worker)
    assert runs.get(timeout=30) == "opened"
    assert waits.state is TaskState.QUEUED
    make_worker("beta")
    assert waits.get(timeout=30) == 1


def test_g33_a_soft_shutdown_requeues_what_runs_and_its_attempt_does_not_count(
    make_worker: WorkerMaker, app: Stem, fleet: ShutdownClient, gate: Gate, mode: str
) -> None:
    worker = make_worker()
    runs = app.send_task(f"{mode}.leaves", (gate.path,))
    gate.wait_reached()
    assert ordered(fleet, Shutdown(SOFT, 0.0))["mode"] == "soft"
    gate.wait_reached("WorkerStopping-1")
    is_down(worker)
    assert runs.state is not TaskState.CANCELLED
    gate.open()
    make_worker("beta")
    assert runs.get(timeout=60) == "opened in attempt 1"


def test_g33_a_hard_shutdown_kills_what_does_not_leave_and_requeues_it(
    make_worker: WorkerMaker, app: Stem, fleet: ShutdownClient, gate: Gate
) -> None:
    worker = make_worker()
    runs = app.send_task("isolate.deaf", (gate.path,))
    child = gate.wait_reached()
    assert ordered(fleet, Shutdown(SOFT, 0.0)) == {"mode": "soft", "was": "running", "in_flight": 1, "exit_code": 0}
    assert ordered(fleet, Shutdown(HARD)) == {"mode": "hard", "was": "soft", "in_flight": 1, "exit_code": 0}
    is_down(worker)
    eventually(lambda: not Path(f"/proc/{child}").exists())
    assert runs.state is not TaskState.CANCELLED
    gate.open()
    make_worker("beta")
    assert runs.get(timeout=60) == "finished"


@embedded
def test_g33_a_warm_shutdown_escalates_when_its_grace_is_over(
    make_worker: WorkerMaker, app: Stem, fleet: ShutdownClient, gate: Gate
) -> None:
    worker = make_worker()
    app.send_task("isolate.deaf", (gate.path,))
    gate.wait_reached()
    assert ordered(fleet, Shutdown(WARM, 0.2, HARD))["mode"] == "warm"
    is_down(worker)


def test_g33_a_worker_that_starts_later_does_not_obey(
    make_worker: WorkerMaker, fleet: ShutdownClient, control: ControlClient
) -> None:
    """The order lies in the inbox of a worker that is not there, where the broker keeps it."""
    first = make_worker()
    inbox_has_it = fleet.order(Shutdown(), ["alpha"], 20)
    assert [reply.worker for reply in inbox_has_it.replies] == ["alpha"]
    is_down(first)
    assert fleet.order(Shutdown(HARD), ["alpha"], 1.0).replies == ()
    second = make_worker()
    for _ in range(3):
        (reply,) = control.ping(workers=["alpha"], timeout=20).replies
        assert reply.payload["state"] == "running"
    assert second.state == "running"


def test_g33_no_task_is_lost_while_workers_are_shut_down_under_load(
    make_worker: WorkerMaker, app: Stem, fleet: ShutdownClient, control: ControlClient
) -> None:
    make_worker("alpha")
    results = [app.send_task("inline.add" if n % 2 else "isolate.add", (n,)) for n in range(200)]
    for mode, name in ((WARM, "alpha"), (SOFT, "beta"), (HARD, "gamma")):
        following = {"alpha": "beta", "beta": "gamma", "gamma": "delta"}[name]
        make_worker(following)
        ordered(fleet, Shutdown(mode, 0.0), name)
    assert [result.get(timeout=60) for result in results] == list(range(200))


@embedded
def test_g33_the_process_ends_with_the_code_that_was_asked_for(
    spawn_worker: Callable[..., WorkerProcess], fleet: ShutdownClient, app: Stem
) -> None:
    worker = spawn_worker("alpha")
    found = fleet.found(["alpha"])
    assert ordered(fleet, Shutdown(exit_code=75))["exit_code"] == 75
    assert fleet.wait_gone(found, 60).left == ("alpha",)
    worker.process.wait(60)


@embedded
def test_a_worker_that_is_killed_has_vanished_and_has_not_left(
    spawn_worker: Callable[..., WorkerProcess], fleet: ShutdownClient, app: Stem
) -> None:
    worker = spawn_worker("alpha")
    found = eventually(lambda: fleet.found(["alpha"]))
    worker.kill()
    gone = fleet.wait_gone(found, 60)
    assert (gone.left, gone.vanished, gone.remaining) == ((), ("alpha",), ())


def test_a_worker_that_goes_on_remains(worker: Worker, fleet: ShutdownClient) -> None:
    found = eventually(lambda: fleet.found(["alpha"]))
    assert fleet.wait_gone(found, 0.3).remaining == ("alpha",)


def test_a_rolling_shutdown_goes_on_when_others_consume_the_queues(
    make_worker: WorkerMaker, fleet: ShutdownClient
) -> None:
    workers = {name: make_worker(name) for name in ("alpha", "beta")}
    made: list[str] = []

    def replace() -> None:
        for name, worker in workers.items():
            is_down(worker)
            assert made == sorted(made), "one after the other"
            made.append(f"{name}-2")
            make_worker(f"{name}-2")

    replacing = threading.Thread(target=replace)
    replacing.start()
    roll = fleet.roll(Shutdown(), fleet.found(), at_once=1, replacement_timeout=60)
    replacing.join(60)
    assert (roll.left, roll.not_replaced) == (("alpha", "beta"), None)
    assert made == ["alpha-2", "beta-2"]
    assert sorted(one.heartbeat.worker for one in fleet.found()) == made


@embedded
def test_a_rolling_shutdown_stops_at_the_first_that_is_not_replaced(
    make_worker: WorkerMaker, fleet: ShutdownClient
) -> None:
    workers = [make_worker(name) for name in ("alpha", "beta")]
    roll = fleet.roll(Shutdown(), fleet.found(), at_once=1, replacement_timeout=0.3)
    assert (roll.left, roll.not_replaced) == (("alpha",), "alpha")
    assert [worker.state for worker in workers] == ["stopped", "running"]
