"""What only children can suffer: death, recycling, hard limits, orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency import threads
from stem_kombu.errors import ExecutionError
from stem_kombu.execution.base import Job, Stop
from stem_kombu.execution.pool import pool as pool_module
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.children import ChildWatch
from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.outcome import Ending
from stem_kombu.revocation import Revocation
from stem_kombu.testing.executors import JobMaker, Recording
from stem_kombu.testing.gates import Gate
from tests.execution.conftest import PoolMaker
from tests.execution.programs import run_program
from tests.waiting import eventually

TARGET = "tests.execution.handlers:app"
REVOCATION = Revocation("stem", "t", 1, SYSTEM.utcnow(), terminate=True)


def pids(pool: IsolatePool) -> set[int]:
    return {slot.pid for slot in pool.view() if slot.state != "starting"}


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # before it is opened, or before it is read
        return True


def test_g18_an_idle_child_that_is_killed_is_replaced_and_nothing_is_lost(
    make_pool: PoolMaker, observer: Recording, job: JobMaker
) -> None:
    pool = make_pool()
    for _ in range(20):
        victim = pool.view()[0].pid
        os.kill(victim, signal.SIGKILL)
        following = [job("echo", value=n) for n in range(4)]
        for one in following:
            pool.submit(one)
        ends = [observer.outcome(one) for one in following]
        # A job that was handed over but had not started goes to another child; one that had started is reported lost.
        assert {end.kind for end in ends} <= {Ending.SUCCEEDED, Ending.LOST}
        eventually(lambda victim=victim: len(pids(pool)) == 2 and victim not in pids(pool))
    final = job("echo", value="alive")
    pool.submit(final)
    assert observer.outcome(final).result == "alive"


def test_g18_a_busy_child_that_is_killed_reports_its_task_lost_and_the_other_child_never_notices(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, tmp_path: Path
) -> None:
    pool = make_pool()
    unharmed_gate = Gate(tmp_path / "unharmed")
    unharmed = job("without_checkpoint", unharmed_gate.path)
    pool.submit(unharmed)
    unharmed_pid = unharmed_gate.wait_reached()
    for round_ in range(10):
        gate = Gate(tmp_path / str(round_))
        victim = job("without_checkpoint", gate.path)
        pool.submit(victim)
        os.kill(gate.wait_reached(), signal.SIGKILL)
        outcome = observer.outcome(victim)
        assert outcome.kind is Ending.LOST
        assert outcome.error is not None and outcome.error.type == "ChildLost"
        eventually(lambda: len(pids(pool)) == 2)
    assert unharmed_pid in pids(pool)
    unharmed_gate.open()
    assert observer.outcome(unharmed).result == "finished"


def test_g8_the_child_that_was_told_to_stop_takes_the_next_job_itself(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, tmp_path: Path
) -> None:
    pool = make_pool(1)
    for round_ in range(20):
        gate = Gate(tmp_path / str(round_))
        stopped, following = job("at_checkpoint", gate.path, "check"), job("who")
        pool.submit(stopped)
        pool.submit(following)
        pid = gate.wait_reached()
        observer.wait_for("started", stopped)
        pool.stop_job(stopped.token, Stop.REVOKED, REVOCATION)
        pool.stop_job(stopped.token, Stop.REVOKED, REVOCATION)  # a repeated order is harmless
        assert observer.outcome(stopped).kind is Ending.CANCELLED
        assert observer.outcome(following).result["pid"] == pid


def test_g18_an_alarm_that_a_task_has_left_does_not_go_off_in_the_next_one(
    make_pool: PoolMaker, observer: Recording, job: JobMaker
) -> None:
    pool = make_pool(slots=1)
    first, second = job("sets_timers"), job("timers")
    pool.submit(first)
    child = observer.outcome(first).result
    assert pids(pool) == {child}
    pool.submit(second)
    assert observer.outcome(second).result == [0.0, 0.0, 0.0]
    assert pids(pool) == {child}


def test_the_hard_limit_kills_the_child_and_says_so(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    pool = make_pool(1)
    stuck, following = job("never_ends", gate.path, limits={"hard": 0.1}), job("echo", value=1)
    pool.submit(stuck)
    pool.submit(following)
    pid = gate.wait_reached()
    outcome = observer.outcome(stuck)
    assert outcome.kind is Ending.FAILED
    assert outcome.error is not None and outcome.error.type == "TimeLimitExceeded"
    assert observer.outcome(following).result == 1
    assert pid not in pids(pool)


def test_a_child_is_recycled_after_its_number_of_tasks(
    make_pool: PoolMaker, observer: Recording, job: JobMaker
) -> None:
    pool = make_pool(1, max_tasks_per_child=2)
    jobs = [job("who") for _ in range(6)]
    for one in jobs:
        pool.submit(one)
    seen = [observer.outcome(one).result["pid"] for one in jobs]
    assert [seen.count(pid) for pid in dict.fromkeys(seen)] == [2, 2, 2]
    eventually(lambda: all(is_gone(pid) for pid in set(seen) - pids(pool)))


def test_a_child_is_recycled_when_it_has_grown_too_large(
    make_pool: PoolMaker, observer: Recording, job: JobMaker
) -> None:
    pool = make_pool(1, max_rss_per_child=150 * 2**20)
    small, large, following = job("grows", 1), job("grows", 200), job("who")
    for one in (small, large, following):
        pool.submit(one)
    assert observer.outcome(small).result == observer.outcome(large).result
    assert observer.outcome(following).result["pid"] != observer.outcome(large).result


def test_large_arguments_and_results_pass_both_ways_at_once(
    make_pool: PoolMaker, observer: Recording, job: JobMaker
) -> None:
    pool = make_pool(2)
    text = "x" * (8 * 2**20)
    jobs = [job("echo", value=text) for _ in range(4)]
    for one in jobs:
        pool.submit(one)
    assert all(observer.outcome(one).result == text for one in jobs)


def test_a_suspended_child_does_not_hold_up_the_others(
    make_pool: PoolMaker, observer: Recording, job: JobMaker
) -> None:
    pool = make_pool(2)
    suspended = pool.view()[0].pid
    os.kill(suspended, signal.SIGSTOP)
    try:
        # Larger than any pipe's buffer: a blocking write to the suspended child would stop everything here.
        large = job("echo", value="x" * (4 * 2**20))
        others = [job("echo", value=n) for n in range(20)]
        pool.submit(large)
        for one in others:
            pool.submit(one)
        # At most one job is stuck with the suspended child; the other child runs all the rest.
        eventually(lambda: sum(one.token in observer.outcomes for one in [large, *others]) >= 20)
    finally:
        os.kill(suspended, signal.SIGCONT)
    assert observer.outcome(large).kind is Ending.SUCCEEDED


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_every_start_method_runs_jobs_and_replaces_children(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, start_method: str
) -> None:
    pool = make_pool(2, start_method=start_method)
    victim = pool.view()[0].pid
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in pids(pool) and len(pids(pool)) == 2)
    last = job("echo", value="ran")
    pool.submit(last)
    assert observer.outcome(last).result == "ran"


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_g18_how_a_child_ended_is_told_where_the_system_tells_it_and_no_number_is_made_up(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, start_method: str, gate: Gate
) -> None:
    pool = make_pool(1, start_method=start_method)

    def end_of(lost: Job, pid: int) -> str:
        outcome = observer.outcome(lost)
        assert outcome.kind is Ending.LOST
        assert outcome.error is not None
        expected = f"child {pid} ", f" while it ran task {lost.message.task_id}"
        assert outcome.error.message.startswith(expected[0])
        assert outcome.error.message.endswith(expected[1])
        return outcome.error.message[len(expected[0]) : -len(expected[1])]

    ends = []
    for status in (3, 255):
        leaving = job("leaves", status)
        pid = pool.view()[0].pid
        pool.submit(leaving)
        ends.append(end_of(leaving, pid))
        eventually(lambda pid=pid: pids(pool) not in (set(), {pid}))
    killed = job("without_checkpoint", gate.path)
    pool.submit(killed)
    pid = gate.wait_reached()
    os.kill(pid, signal.SIGKILL)
    ends.append(end_of(killed, pid))
    if start_method == "forkserver":
        assert ends == ["was killed or ended itself (the fork server keeps no exit status)"] * 3
    else:
        assert ends == ["left with status 3", "left with status 255", "was killed by signal 9 (SIGKILL)"]


def test_g18_a_task_that_no_child_lived_to_begin_is_told_to_have_never_begun(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    given_to: list[int] = []

    def may_start(job: Job) -> None:
        (pid,) = pids(pool)
        os.kill(pid, signal.SIGSTOP)  # it takes the job over, and begins nothing
        given_to.append(pid)

    monkeypatch.setattr(observer, "may_start", may_start)
    unlucky = job("echo")
    pool.submit(unlucky)
    for turn in range(4):
        eventually(lambda turn=turn: len(given_to) > turn and pool.view()[0].task_id == unlucky.message.task_id)
        os.kill(given_to[turn], signal.SIGKILL)
    outcome = observer.outcome(unlucky)
    assert outcome.kind is Ending.LOST
    assert outcome.error is not None
    told = (
        f"task {unlucky.message.task_id} never began: 4 children in a row ended with it, the last: child {given_to[3]} "
    )
    assert outcome.error.message.startswith(told)
    assert not [call for call in observer.calls if call[0] == "started"]


def test_an_application_that_children_cannot_load_is_an_error_at_the_start_and_leaves_no_child(
    observer: Recording,
) -> None:
    pool = IsolatePool(2, "tests.execution.no_such_module:app", observer)
    with pytest.raises(ExecutionError, match="no_such_module"):
        pool.start()
    assert pool.view() == []


ORPHANS = """
    import sys
    from stem_kombu.execution.pool.pool import IsolatePool
    from stem_kombu.testing.executors import JobMaker, Recording
    from stem_kombu.testing.gates import Gate
    from tests.execution.handlers import app

    if __name__ == "__main__":
        start_method, busy, checking = sys.argv[1:]
        pool = IsolatePool(3, "tests.execution.handlers:app", Recording(), start_method=start_method)
        pool.start()
        job = JobMaker(app.registry, "isolate")
        pool.submit(job("never_ends", busy))
        pool.submit(job("at_checkpoint", checking, "check"))
        Gate(busy).wait_reached()
        Gate(checking).wait_reached()
        print(*[slot.pid for slot in pool.view()], flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_g18_children_do_not_outlive_a_killed_worker_whether_idle_checking_or_stuck(
    tmp_path: Path, start_method: str
) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(textwrap.dedent(ORPHANS))
    worker = subprocess.Popen(
        [sys.executable, str(script), start_method, str(tmp_path / "busy"), str(tmp_path / "checking")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert worker.stdout is not None and worker.stdin is not None
    children = [int(pid) for pid in worker.stdout.readline().split()]
    assert len(children) == 3
    worker.kill()
    worker.wait()
    worker.stdin.close()
    worker.stdout.close()
    eventually(lambda: all(is_gone(pid) for pid in children), timeout=20)


SIGNALLED = """
    import logging, os, signal, sys, threading
    from stem_kombu.execution.pool.pool import IsolatePool
    from stem_kombu.testing.executors import JobMaker, Recording
    from stem_kombu.testing.gates import Gate
    from tests.execution.handlers import app
    from tests.waiting import eventually

    if __name__ == "__main__":
        os.setsid()
        logging.basicConfig()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        ended = threading.Event()

        def everybody_is_told():
            while not ended.wait(0.005):
                os.killpg(0, signal.SIGINT)
                os.killpg(0, signal.SIGTERM)

        threading.Thread(target=everybody_is_told, daemon=True).start()
        observer = Recording()
        pool = IsolatePool(2, "tests.execution.handlers:app", observer, start_method=sys.argv[1])
        pool.start()
        first = [slot.pid for slot in pool.view()]
        os.kill(first[0], signal.SIGKILL)
        eventually(lambda: [slot.pid for slot in pool.view() if slot.state == "idle" and slot.pid != first[0]][1:])
        print([slot.pid for slot in pool.view()][1] == first[1])
        job = JobMaker(app.registry, "isolate")("without_checkpoint", sys.argv[2])
        pool.submit(job)
        Gate(sys.argv[2]).wait_reached()
        Gate(sys.argv[2]).open()
        print(observer.outcome(job).result, flush=True)
        ended.set()
        pool.stop()
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_a_signal_to_the_whole_group_is_the_workers_to_obey_and_no_other_processs_at_any_moment(
    start_method: str, tmp_path: Path, gate: Gate
) -> None:
    """As a terminal sends Ctrl-C, and systemd SIGTERM: the process that forks children survives it like they do."""
    done = run_program(SIGNALLED, tmp_path, start_method, gate.path)
    assert done.stdout == "True\nfinished\n", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("WARNING:stem_kombu.execution.pool.losses:idle child ")


UNGUARDED = """
    import sys
    from stem_kombu.execution.pool.pool import IsolatePool
    from stem_kombu.testing.executors import JobMaker, Recording
    from tests.execution.handlers import app

    print("main runs", flush=True)
    observer = Recording()
    pool = IsolatePool(1, "tests.execution.handlers:app", observer, start_method=sys.argv[1])
    pool.start()
    job = JobMaker(app.registry, "isolate")("echo", value="ran")
    pool.submit(job)
    print(observer.outcome(job).result, flush=True)
    pool.stop()
"""


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_program_without_a_main_guard_runs_once_and_not_again_in_each_child(
    tmp_path: Path, start_method: str
) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(textwrap.dedent(UNGUARDED))
    done = subprocess.run(
        [sys.executable, str(script), start_method],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        check=False,
    )
    assert done.stdout.split("\n") == ["main runs", "ran", ""], done.stderr


WITHOUT_FORKSERVER = """
    import os, signal
    from pathlib import Path
    from stem_kombu.execution.pool.pool import IsolatePool
    from stem_kombu.testing.executors import JobMaker, Recording
    from tests.execution.handlers import app
    from tests.waiting import eventually

    observer = Recording()
    pool = IsolatePool(2, "tests.execution.handlers:app", observer)
    pool.start()
    children = {slot.pid for slot in pool.view()}
    (forkserver,) = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in children}
    for pid in (forkserver, *children):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len([s for s in pool.view() if s.state == "idle" and s.pid not in children]) == 2, 60)
    job = JobMaker(app.registry, "isolate")("echo", value="ran")
    pool.submit(job)
    print(observer.outcome(job).result)
    pool.stop(0.0)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="who forks the children is read from /proc")
def test_g18_lost_children_are_replaced_although_the_process_that_forks_them_was_lost_too(tmp_path: Path) -> None:
    """A fork that fails ends the fork server, and no other one is started."""
    done = run_program(WITHOUT_FORKSERVER, tmp_path)
    assert done.stdout == "ran\n", done.stderr


def test_a_supervisor_that_waits_already_when_children_are_begun_is_told_of_them(
    observer: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look for itself after a second, by which every start with children would be later."""
    waits = threading.Event()
    original = ChildWatch.wait

    def wait_long(watch: ChildWatch, seconds: float, rest: float) -> Iterator[ChildHandle | None]:
        waits.set()
        return original(watch, 1000.0)

    class Begun(threads.Thread):
        def start(self) -> None:
            super().start()
            assert waits.wait(30)

    monkeypatch.setattr(ChildWatch, "wait", wait_long)
    monkeypatch.setattr(pool_module.threads, "Thread", Begun)
    pool = IsolatePool(1, TARGET, observer)

    pool.start()

    pool.stop(0.0)
