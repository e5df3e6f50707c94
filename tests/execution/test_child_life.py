"""What runs in a child behaves as in a process of its own, and nothing of it outlives the child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stem_kombu import machine
from stem_kombu.clock import SYSTEM
from stem_kombu.execution.base import Job
from stem_kombu.execution.leftovers import VARIABLE, LeftoverReaper, Mark
from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.outcome import Ending
from stem_kombu.task import TaskMessage
from stem_kombu.testing.executors import Recording
from stem_kombu.testing.gates import Gate
from tests.execution.children_app import app
from tests.waiting import eventually

PoolMaker = Callable[..., IsolatePool]
METHODS = ["forkserver", "spawn", "fork"]
ROOT = Path(__file__).resolve().parents[2]
_tokens = iter(range(1, 1_000_000))


@pytest.fixture
def make_pool(observer: Recording) -> Iterator[PoolMaker]:
    pools = []

    def make(slots: int = 1, **options: object) -> IsolatePool:
        pool = IsolatePool(slots, "tests.execution.children_app:app", observer, **options)  # type: ignore[arg-type]
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        pool.stop(0.0)


def job(name: str, limit: float | None = None, **kwargs: object) -> Job:
    token = next(_tokens)
    return Job(token, app.registry.get(name), TaskMessage(f"t{token}", name, (), kwargs), time_limit=limit)


def run(pool: IsolatePool, observer: Recording, name: str, **kwargs: object) -> object:
    one = job(name, **kwargs)  # type: ignore[arg-type]
    pool.submit(one)
    outcome = observer.outcome(one, timeout=60)
    assert outcome.kind is Ending.SUCCEEDED, outcome.error
    return outcome.result


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def noted(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.parametrize("method", METHODS)
def test_a_program_of_a_task_ends_by_the_signals_it_is_sent_and_inherits_no_odd_disposition(
    make_pool: PoolMaker, observer: Recording, method: str
) -> None:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # as a host may that starts a worker
    try:
        pool = make_pool(start_method=method)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert run(pool, observer, "ends_by", number=int(number)) == -number
    found = run(pool, observer, "signals_of_a_program")
    assert isinstance(found, dict)
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        assert not int(found["SigIgn"], 16) & (1 << (ignored - 1)), (ignored, found)
    assert int(found["SigBlk"], 16) == 0
    assert run(pool, observer, "stacks") == "went on"


@pytest.mark.parametrize("method", METHODS)
def test_a_child_has_its_workers_arguments_and_folder_a_name_of_its_own_and_nothing_to_read(
    make_pool: PoolMaker, observer: Recording, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--option"])
    pool = make_pool(start_method=method)
    assert run(pool, observer, "itself") == [["program", "--option"], str(Path.cwd()), "stem-child-0", True, ""]


@pytest.mark.parametrize("library", ["multiprocessing", "billiard"])
def test_a_task_may_have_processes_and_end_them(make_pool: PoolMaker, observer: Recording, library: str) -> None:
    pool = make_pool()
    assert run(pool, observer, "terminates_processes", library=library) == [-signal.SIGTERM, [1, 4, 9]]
    assert run(pool, observer, "uses_an_executor") == [1, 4, 9]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["hard limit", "killed", "recycled", "stopped"])
def test_g28_nothing_that_a_task_has_started_outlives_its_child(
    make_pool: PoolMaker, observer: Recording, tmp_path: Path, gate: Gate, method: str, how: str
) -> None:
    pool = make_pool(start_method=method, max_tasks_per_child=1 if how == "recycled" else None)
    limit = 1.0 if how == "hard limit" else None
    one = job("starts_programs", limit, folder=str(tmp_path), gate=gate.path, forks=how in ("killed", "hard limit"))
    pool.submit(one)
    child = gate.wait_reached()
    eventually(lambda: len(noted(tmp_path)) == (3 if how in ("killed", "hard limit") else 2))
    if how == "killed":
        os.kill(child, signal.SIGKILL)
    elif how != "hard limit":
        gate.open()
    outcome = observer.outcome(one, timeout=30)
    expected = {"killed": Ending.LOST, "hard limit": Ending.FAILED}.get(how, Ending.SUCCEEDED)
    assert outcome.kind is expected, outcome
    if how == "stopped":
        pool.stop()
    left = [int(pid) for pid in noted(tmp_path)]
    eventually(lambda: not any(runs(pid) for pid in (child, *left)), 20)


KILLED = """
    import sys
    from stem_kombu.execution.base import Job
    from stem_kombu.execution.pool.pool import IsolatePool
    from stem_kombu.task import TaskMessage
    from stem_kombu.testing.executors import Recording
    from stem_kombu.testing.gates import Gate
    from tests.execution.children_app import app

    if __name__ == "__main__":
        method, folder, gate = sys.argv[1:]
        pool = IsolatePool(1, "tests.execution.children_app:app", Recording(), start_method=method)
        pool.start()
        message = TaskMessage("t", "starts_programs", (), {"folder": folder, "gate": gate, "forks": True})
        pool.submit(Job(1, app.registry.get("starts_programs"), message))
        Gate(gate).wait_reached()
        print("ready", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("method", METHODS)
def test_g28_nothing_that_a_task_has_started_outlives_a_killed_worker(tmp_path: Path, gate: Gate, method: str) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    worker = subprocess.Popen(
        [sys.executable, str(script), method, str(tmp_path), gate.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert worker.stdout is not None
    assert worker.stdin is not None
    assert worker.stdout.readline() == "ready\n"
    eventually(lambda: len(noted(tmp_path)) == 3)
    worker.kill()
    worker.wait()
    worker.stdin.close()
    worker.stdout.close()
    eventually(lambda: not any(runs(int(pid)) for pid in noted(tmp_path)), 20)


@pytest.mark.parametrize("method", METHODS)
def test_g28_each_child_leads_a_group_of_its_own(make_pool: PoolMaker, observer: Recording, method: str) -> None:
    found = run(make_pool(start_method=method), observer, "blocks_signals")
    assert isinstance(found, list)
    assert found[0] == found[1] != os.getpgrp()


@pytest.mark.parametrize("how", ["recycled", "stopped"])
def test_hooks_and_atexit_functions_run_where_a_child_ends_in_order(
    make_pool: PoolMaker, observer: Recording, tmp_path: Path, how: str
) -> None:
    pool = make_pool(max_tasks_per_child=1 if how == "recycled" else None)
    run(pool, observer, "registers_at_exit", folder=str(tmp_path))
    if how == "stopped":
        pool.stop()
    eventually(lambda: noted(tmp_path) == ["child_stop", "atexit"], message=lambda: str(noted(tmp_path)))


def test_a_child_whose_end_hangs_is_ended_in_bounded_time(
    make_pool: PoolMaker, observer: Recording, tmp_path: Path
) -> None:
    pool = make_pool(max_tasks_per_child=1)
    pid = run(pool, observer, "registers_at_exit", folder=str(tmp_path), hangs=True)
    assert isinstance(pid, int)
    eventually(lambda: not runs(pid), 30)


def test_coroutine_tasks_of_a_child_share_one_event_loop(make_pool: PoolMaker, observer: Recording) -> None:
    pool = make_pool()
    found = [run(pool, observer, "loop") for _ in range(3)]
    assert [loops for _, loops in found] == [1, 1, 1]  # type: ignore[attr-defined]


def test_g28_what_a_worker_killed_together_with_its_child_has_left_is_ended_by_the_next_one(
    make_pool: PoolMaker, tmp_path: Path, gate: Gate
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    worker = subprocess.Popen(
        [sys.executable, str(script), "forkserver", str(tmp_path), gate.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert worker.stdout is not None
    assert worker.stdin is not None
    assert worker.stdout.readline() == "ready\n"
    eventually(lambda: len(noted(tmp_path)) == 3)
    left, child = [int(pid) for pid in noted(tmp_path)], gate.wait_reached()
    strangers = subprocess.Popen(["sleep", "600"])  # of this process, which is alive
    try:
        for pid in (child, worker.pid):  # neither may see the other's end
            os.kill(pid, signal.SIGSTOP)
        for pid in (child, worker.pid):
            os.kill(pid, signal.SIGKILL)
        worker.wait()
        assert all(runs(pid) for pid in left)
        make_pool()  # or another worker on this host: one of another test may be the next
        eventually(lambda: not any(runs(pid) for pid in left), 20)
        assert strangers.poll() is None
    finally:
        strangers.kill()
        strangers.wait()
        worker.stdin.close()
        worker.stdout.close()
        for pid in left:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)


def test_g28_a_worker_tells_what_it_has_ended_of_a_killed_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "boot_id", lambda: "of-this-test")  # so that no other worker on this host ends it
    here, dead = Mark.here(), subprocess.Popen(["true"])
    dead.wait()
    assert here is not None
    marks = [f"{VARIABLE}={str(mark).removesuffix(':0')}:$$" for mark in (replace(here, worker=dead.pid), here)]
    script = "".join(f"env {mark} sleep 600 & echo $!\n" for mark in marks) + "wait"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    try:
        left, strangers = int(child.stdout.readline()), int(child.stdout.readline())
        eventually(lambda: all(VARIABLE.encode() in (machine.environment_of(pid) or b"") for pid in (left, strangers)))
        LeftoverReaper(SYSTEM).begin()
        eventually(lambda: not runs(left))
        assert runs(strangers)  # of a worker that is alive
        told = "ended 1 processes that tasks of a killed worker on this host had left running"
        assert [one.getMessage() for one in caplog.records] == [f"{told}: {left}"]
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("how", ["killed", "recycled"])
def test_what_has_left_the_group_of_its_child_is_left_alone_and_counted(
    make_pool: PoolMaker, observer: Recording, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(max_tasks_per_child=1 if how == "recycled" else None)
    child = pool.view()[0].pid
    program = run(pool, observer, "starts_a_session")
    assert isinstance(program, int)
    try:
        if how == "killed":
            os.kill(child, signal.SIGKILL)
            told = f"1 processes that tasks of child {child} had started left its process group and go on: {program}"
            eventually(lambda: told in caplog.text)
        eventually(lambda: not runs(child))
        pool.stop()
        assert runs(program)
    finally:
        os.kill(program, signal.SIGKILL)
