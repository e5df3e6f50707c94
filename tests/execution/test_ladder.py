"""The ladder on real processes: it hits its attempt and nothing else (G27), and nothing survives it (G28)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import billiard
import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.execution.base import Job, Stop
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.job_queue import ChildJobQueue
from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.ladder import Ladder
from stem_kombu.machine import processes, stat_of
from stem_kombu.outcome import EndedHow, Ending
from stem_kombu.revocation import Revocation
from stem_kombu.testing.executors import JobMaker, Recording
from stem_kombu.testing.gates import Gate
from tests.execution.conftest import PoolMaker
from tests.waiting import eventually

REVOCATION = Revocation("stem", "t", 1, SYSTEM.utcnow(), terminate=True)


def climb(pool: IsolatePool, job: Job, term: float | None, kill: float | None) -> bool:
    return pool.stop_job(job.token, Stop.REVOKED, REVOCATION, Ladder(term, kill))


def runs(pid: int) -> bool:
    found = stat_of(pid)
    return found is not None and found.state not in "ZX"


def program(gate: Gate) -> int:
    return int((Path(gate.path) / "program").read_text())


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_g27_sigterm_ends_the_program_that_a_task_waits_for_and_its_child_goes_on(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, gate: Gate, method: str
) -> None:
    pool = make_pool(1, start_method=method)
    waits = job("starts_a_program", gate.path)
    pool.submit(waits)
    child = gate.wait_reached()

    assert climb(pool, waits, 0.05, 60.0)

    outcome = observer.outcome(waits)
    assert outcome.kind is Ending.CANCELLED  # at the checkpoint after its program
    assert [step.how for step in outcome.steps] == [EndedHow.TERM]
    assert not runs(program(gate))
    following = job("who")
    pool.submit(following)
    assert observer.outcome(following).result["pid"] == child


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_g27_g28_sigkill_ends_the_group_and_the_slot_is_replaced(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, gate: Gate, method: str
) -> None:
    pool = make_pool(1, start_method=method)
    waits, following = job("starts_a_program", gate.path, deaf=True), job("who")
    pool.submit(waits)
    pool.submit(following)
    child = gate.wait_reached()

    assert climb(pool, waits, 0.05, 0.2)

    outcome = observer.outcome(waits)
    assert (outcome.kind, outcome.revocation) == (Ending.CANCELLED, REVOCATION)
    assert [step.how for step in outcome.steps] == [EndedHow.TERM, EndedHow.KILL]
    eventually(lambda: not runs(child) and not runs(program(gate)), 20)
    assert observer.outcome(following).result["pid"] != child
    assert stat_of(os.getpid()) is not None  # and this process, whose group it was not


def test_g27_the_shorter_ladder_wins_and_repeating_one_starts_nothing_anew(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    pool = make_pool(1)
    waits = job("without_checkpoint", gate.path)
    pool.submit(waits)
    gate.wait_reached()
    climb(pool, waits, None, 600.0)

    climb(pool, waits, None, 0.1)
    for _ in range(5):
        climb(pool, waits, None, 300.0)

    assert [step.how for step in observer.outcome(waits).steps] == [EndedHow.KILL]


def test_g27_a_task_that_stops_by_itself_gets_no_signal_and_its_child_lives(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, tmp_path: Path
) -> None:
    pool = make_pool(1)
    first = None
    for round_ in range(20):
        gate = Gate(tmp_path / str(round_))
        stopped, following = job("at_checkpoint", gate.path, "check"), job("who")
        pool.submit(stopped)
        pool.submit(following)
        pid = gate.wait_reached()
        first = first or pid
        assert climb(pool, stopped, 0.2, 0.3)
        assert observer.outcome(stopped).kind is Ending.CANCELLED
        assert observer.outcome(stopped).steps == ()
        assert observer.outcome(following).result["pid"] == first


@pytest.mark.parametrize("seed", range(2))
def test_g27_g28_hundreds_of_ladders_among_short_tasks_hit_no_other_attempt_and_leave_nothing(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, tmp_path: Path, seed: int
) -> None:
    """Short tasks lie ahead of children, begin by themselves, and end about when the signal is due."""
    dice = random.Random(seed)
    pool = make_pool(3)
    spared, climbing = [], []
    for _ in range(600):
        nap = job("naps", dice.choice((0.0, 0.001, 0.003, 0.01, 0.02)))
        pool.submit(nap)
        if dice.random() < 0.25:
            climbing.append(nap)
            kill = dice.choice((0.0005, 0.001, 0.003, 0.01))
            observer.wait_for("started", nap)
            climb(pool, nap, dice.choice((None, kill / 2)), kill)
        else:
            spared.append(nap)

    for nap in spared:
        outcome = observer.outcome(nap)
        assert (outcome.kind, outcome.steps) == (Ending.SUCCEEDED, ()), outcome
    ends = [observer.outcome(nap) for nap in climbing]
    assert {end.kind for end in ends} <= {Ending.SUCCEEDED, Ending.CANCELLED}
    for end in ends:
        assert end.kind is Ending.SUCCEEDED or end.steps[-1].how is EndedHow.KILL
    assert any(end.kind is Ending.CANCELLED for end in ends)
    children = {slot.pid for slot in pool.view()}
    pool.stop()
    eventually(lambda: not any(runs(pid) for pid in children), 20)
    groups = {one.group for one in processes() if one.parent == os.getpid() and one.pid == one.group}
    assert not groups & children


class _Process:
    """A real process in a group of its own, as billiard shows it."""

    def __init__(self, program: subprocess.Popen[bytes], sentinel: int) -> None:
        self.pid, self.sentinel = program.pid, sentinel
        self.exitcode: int | None = None

    def join(self, timeout: float | None = None) -> None:
        """Nothing to wait for: the system tells."""


def test_g27_no_signal_comes_while_the_child_has_begun_another_job_that_it_has_not_reported(job: JobMaker) -> None:
    """It took that job from its queue before the ladder was armed, so the one that climbs has ended."""
    program = subprocess.Popen(["sleep", "600"], start_new_session=True)
    ours, theirs = billiard.Pipe(duplex=True)
    reader, writer = os.pipe()
    child = ChildHandle(0, _Process(program, reader), ours, ChildJobQueue(SYSTEM), SYSTEM)
    try:
        climbing, begun = job("naps", 0.0), job("naps", 0.0)
        child.job = climbing
        child.queue.jobs[begun.token] = begun
        child.arm(REVOCATION, Ladder(None, 0.001))
        later = SYSTEM.monotonic() + 10

        child.take_step(later)

        assert program.poll() is None
        assert child.verdict is None
        assert child.climbs_at > later  # looked at again, and not at every turn
        # nor once the other one is what it is known to run
        child.job = begun
        child.queue.jobs.clear()
        child.take_step(later + 10)
        assert program.poll() is None
        # but while it has the very job
        child.job = climbing
        child.take_step(later + 20)
        assert program.wait(20) == -signal.SIGKILL
        assert child.verdict is not None
    finally:
        program.kill()
        program.wait()
        child.close()
        theirs.close()
        for descriptor in (reader, writer):
            os.close(descriptor)
