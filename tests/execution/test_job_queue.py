"""Jobs that children have ahead: each runs once, wherever, or can be taken back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import billiard
import billiard.connection
import pytest

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency.calls import call_each
from stem_kombu.concurrency.pulse import Pulse
from stem_kombu.execution.base import Job, Stop
from stem_kombu.execution.child.pipe import ChildPipe
from stem_kombu.execution.frames import Declined, Finished, FrameReader, Run, StopJob, encode
from stem_kombu.execution.pool import job_queue
from stem_kombu.execution.pool.children import ChildWatch
from stem_kombu.execution.pool.job_queue import MOST, ChildJobQueue, JobQueueReader
from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.execution.pool.scheduler import JobScheduler
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.testing.executors import JobMaker, Recording
from stem_kombu.testing.gates import Gate
from tests.waiting import eventually

REVOCATION = Revocation("stem", "t", 1, SYSTEM.utcnow(), terminate=True)
#: Tasks before which a child has nothing ahead, as nobody knows how long its tasks take.
FIRST = 2


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, its tasks count as short, and what lies ahead is left there."""
    monkeypatch.setattr(timeouts, "JOB_GOOD_FOR", 3600.0)
    monkeypatch.setattr(timeouts, "JOB_STUCK", 3600.0)
    monkeypatch.setattr(timeouts, "JOB_QUEUE_WORK", 3600.0)


class Fleet:
    """A pool whose children have each run something."""

    def __init__(self, slots: int, observer: Recording, job: JobMaker, **options: Any) -> None:
        self.observer, self.job = observer, job
        self.pool = IsolatePool(slots, "tests.execution.handlers:app", observer, **options)
        self.pool.start()
        while min(slot.tasks_done for slot in self.pool.view()) < 1:
            self.run([job("echo") for _ in range(FIRST * slots)])

    def run(self, jobs: list[Job]) -> list[Outcome]:
        self.submit(jobs)
        return [self.observer.outcome(one) for one in jobs]

    def submit(self, jobs: list[Job]) -> None:
        for one in jobs:
            self.pool.submit(one)

    def behind(self, first: Job, gate: Gate, others: list[Job], *, at_least: int = 1) -> int:
        """Have the others lie ahead of a child that runs ``first``, and return its pid."""
        self.pool.submit(first)
        pid = gate.wait_reached()
        self.observer.wait_for("started", first)
        if others:
            self.lay_ahead(pid, others, at_least=at_least)
        return pid

    def lay_ahead(self, pid: int, jobs: list[Job], *, at_least: int = 1) -> None:
        self.submit(jobs)
        self.pool._pipe.wake()  # nobody is free, so that nobody was woken
        eventually(lambda: len(self.held(pid)) >= at_least)

    def held(self, pid: int) -> list[int]:
        with self.pool._lock:
            return next((list(one.queue.jobs) for one in self.pool._children.values() if one.pid == pid), [])


FleetMaker = Callable[..., Fleet]


@pytest.fixture
def fleet(observer: Recording, job: JobMaker) -> Iterator[FleetMaker]:
    made: list[Fleet] = []

    def make(slots: int, **options: Any) -> Fleet:
        made.append(Fleet(slots, observer, job, **options))
        return made[-1]

    yield make
    for one in made:
        one.pool.stop(0.0)


def test_g18_many_short_jobs_each_run_once_and_in_their_order(
    fleet: FleetMaker, observer: Recording, job: JobMaker
) -> None:
    one = fleet(1)
    jobs = [job("echo", value=n) for n in range(300)]
    assert [end.result for end in one.run(jobs)] == list(range(300))
    assert [token for kind, token, _ in observer.calls if kind == "started"][-300:] == [each.token for each in jobs]
    assert all(len(observer.outcomes[each.token]) == 1 for each in jobs)


def test_a_child_has_no_more_ahead_than_it_may_run_in_its_life(fleet: FleetMaker, job: JobMaker, gate: Gate) -> None:
    one = fleet(1, max_tasks_per_child=1000)
    pool = one.pool
    before = pool.view()[0].tasks_done
    pool._scheduler._most_tasks = pool._max_tasks = before + 4
    jobs = [job("who") for _ in range(6)]
    pid = one.behind(job("without_checkpoint", gate.path), gate, jobs, at_least=3)
    assert len(one.held(pid)) == 3
    gate.open()
    assert [one.observer.outcome(each).result["pid"] == pid for each in jobs] == [True] * 3 + [False] * 3


def test_g3_a_job_that_lies_ahead_is_withdrawn_and_does_not_start(
    fleet: FleetMaker, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    one = fleet(1)
    jobs = [job("echo", value=n) for n in range(5)]
    one.behind(job("without_checkpoint", gate.path), gate, jobs, at_least=5)
    assert one.pool.withdraw(jobs[2].token)
    assert observer.outcome(jobs[2]).kind is Ending.RELEASED
    assert not one.pool.stop_job(jobs[3].token, Stop.REVOKED, REVOCATION)  # it doesn't run
    gate.open()
    assert [observer.outcome(each).result for each in jobs if each is not jobs[2]] == [0, 1, 3, 4]
    assert len(observer.outcomes[jobs[2].token]) == 1
    assert not one.pool.withdraw(jobs[4].token)


def test_g8_a_terminate_stops_the_job_that_runs_and_none_that_lies_ahead(
    fleet: FleetMaker, observer: Recording, job: JobMaker, tmp_path: Path
) -> None:
    one = fleet(1)
    for round_ in range(20):
        gate = Gate(tmp_path / str(round_))
        stopped, following = job("at_checkpoint", gate.path, "check"), [job("who") for _ in range(3)]
        pid = one.behind(stopped, gate, following)
        assert one.pool.stop_job(stopped.token, Stop.REVOKED, REVOCATION)
        one.pool.stop_job(stopped.token, Stop.REVOKED, REVOCATION)
        assert observer.outcome(stopped).kind is Ending.CANCELLED
        assert [observer.outcome(each).result["pid"] for each in following] == [pid] * 3


def test_what_lies_ahead_of_a_long_job_runs_in_the_child_that_is_free_first(
    fleet: FleetMaker, observer: Recording, job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fleet(2)
    monkeypatch.setattr(timeouts, "JOB_STUCK", 1.0)
    long, other = Gate(tmp_path / "long"), Gate(tmp_path / "other")
    one.pool.submit(job("without_checkpoint", other.path))
    other_pid = other.wait_reached()
    jobs = [job("who") for _ in range(6)]
    last = job("without_checkpoint", long.path)
    pid = one.behind(last, long, jobs, at_least=2)
    other.open()
    assert {observer.outcome(each).result["pid"] for each in jobs} == {other_pid}
    assert pid != other_pid
    assert last.token not in observer.outcomes
    long.open()
    assert observer.outcome(last).result == "finished"


def test_the_supervisor_wakes_in_time_to_take_back_what_it_has_just_given(
    fleet: FleetMaker, job: JobMaker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fleet(1)
    monkeypatch.setattr(timeouts, "JOB_STUCK", 0.5)
    pid = one.behind(job("without_checkpoint", gate.path), gate, [job("echo")])
    with one.pool._lock:
        assert one.held(pid)
        assert one.pool._next_wait() <= 0.5
    gate.open()


def test_what_lies_ahead_for_long_waits_in_the_pool_again(
    fleet: FleetMaker, job: JobMaker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fleet(1)
    jobs = [job("echo", value=n) for n in range(3)]
    pid = one.behind(job("without_checkpoint", gate.path), gate, jobs)
    monkeypatch.undo()
    with one.pool._lock:
        one.pool._children[0].queue.due = 0.0
    one.pool._pipe.wake()
    eventually(lambda: one.held(pid) == [])
    gate.open()
    assert [one.observer.outcome(each).result for each in jobs] == [0, 1, 2]


def test_g18_what_lies_ahead_of_a_child_that_is_killed_runs_in_another(
    fleet: FleetMaker, observer: Recording, job: JobMaker, tmp_path: Path
) -> None:
    one = fleet(1)
    for round_ in range(5):
        gate = Gate(tmp_path / str(round_))
        victim, jobs = job("without_checkpoint", gate.path), [job("echo", value=n) for n in range(4)]
        pid = one.behind(victim, gate, jobs)
        os.kill(pid, signal.SIGKILL)
        assert observer.outcome(victim).kind is Ending.LOST
        assert [observer.outcome(each).result for each in jobs] == [0, 1, 2, 3]
        assert all(len(observer.outcomes[each.token]) == 1 for each in jobs)
        one.run([job("echo")])


def test_g18_children_that_are_killed_in_the_middle_of_many_short_jobs_lose_one_each_at_most(
    fleet: FleetMaker, observer: Recording, job: JobMaker
) -> None:
    one = fleet(2)
    kills = 10
    jobs = [job("echo", value=n) for n in range(2000)]
    for number in range(kills):
        one.submit(jobs[number * 200 : (number + 1) * 200])
        observer.outcome(jobs[number * 200 + 50])
        os.kill(one.pool.view()[number % 2].pid, signal.SIGKILL)
        eventually(lambda: all(slot.state != "starting" for slot in one.pool.view()) and len(one.pool.view()) == 2)
    ends = [observer.outcome(each) for each in jobs]
    assert sum(end.kind is Ending.LOST for end in ends) <= kills
    assert {end.kind for end in ends} <= {Ending.SUCCEEDED, Ending.LOST}
    assert all(len(observer.outcomes[each.token]) == 1 for each in jobs)


def test_g20_what_lies_ahead_is_released_when_the_pool_stops(
    fleet: FleetMaker, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    one = fleet(1)
    running, jobs = job("without_checkpoint", gate.path), [job("echo", value=n) for n in range(4)]
    one.behind(running, gate, jobs)
    one.pool.stop(0.0)
    assert [observer.outcome(each).kind for each in (running, *jobs)] == [Ending.RELEASED] * 5


def test_g20_a_job_that_has_just_begun_ahead_when_the_time_is_up_is_told_to_stop_as_others_are(
    fleet: FleetMaker, observer: Recording, job: JobMaker, tmp_path: Path
) -> None:
    one = fleet(1)
    first, second = Gate(tmp_path / "first"), Gate(tmp_path / "second")
    running, ahead_of_it = job("without_checkpoint", first.path), job("at_checkpoint", second.path, "check")
    never = job("echo")
    one.behind(running, first, [ahead_of_it, never], at_least=2)
    with one.pool._lock:  # the supervisor hears of nothing
        first.open()
        second.wait_reached()
        one.pool._stopping, one.pool._release_at = True, SYSTEM.monotonic()
        one.pool._tend()
    one.pool.stop(0.0)
    assert observer.outcome(running).result == "finished"
    assert observer.outcome(ahead_of_it).kind is Ending.RELEASED
    assert second.reached("finally") is not None  # it was not killed
    assert observer.outcome(never).kind is Ending.RELEASED
    assert all(len(observer.outcomes[each.token]) == 1 for each in (running, ahead_of_it, never))


def test_large_jobs_wait_for_a_child_that_is_free(
    fleet: FleetMaker, observer: Recording, job: JobMaker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fleet(1)
    small, large = [job("echo", value=n) for n in range(3)], job("echo", value="x" * 100_000)
    asked: list[int] = []
    may_start = observer.may_start
    monkeypatch.setattr(observer, "may_start", lambda job: asked.append(job.token) or may_start(job))
    one.behind(job("at_checkpoint", gate.path, "heartbeat"), gate, [small[0], large, *small[1:]])
    heard = len(observer.calls)
    eventually(lambda: len(observer.calls) >= heard + 5)
    assert asked.count(large.token) == 1  # neither asked about nor encoded at each word of a child
    gate.open()
    assert observer.outcome(large).result == "x" * 100_000
    assert [observer.outcome(each).result for each in small] == [0, 1, 2]


def test_g19_what_a_child_finds_too_late_is_looked_at_again_before_it_starts(
    fleet: FleetMaker, observer: Recording, job: JobMaker, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after its worker was suspended: the task may have been revoked, or run elsewhere meanwhile."""
    one = fleet(1)
    jobs = [job("echo", value=n) for n in range(5)]
    pid = one.behind(job("without_checkpoint", gate.path), gate, [])
    monkeypatch.setattr(timeouts, "JOB_GOOD_FOR", -1.0)
    one.lay_ahead(pid, jobs, at_least=5)
    observer.revoked[jobs[3].message.task_id] = REVOCATION
    gate.open()
    assert [observer.outcome(each).kind for each in jobs] == [
        Ending.CANCELLED if each is jobs[3] else Ending.SUCCEEDED for each in jobs
    ]


# -- a stream of short jobs ---------------------------------------------------------------------------------------------


def test_reports_of_a_stream_of_short_jobs_are_taken_together_while_no_child_lacks_one(job: JobMaker) -> None:
    ahead = {n: job("echo", value=n) for n in range(MOST)}
    child: Any = SimpleNamespace(queue=SimpleNamespace(jobs=ahead))
    scheduler = JobScheduler({0: child}, None)
    for n in range(7):
        scheduler.finished(ahead[n], 10.0 + n / 10_000)
        assert not scheduler.rest(10.001), "a few may be all there are"
    scheduler.finished(ahead[7], 10.001)
    assert 0 < scheduler.rest(10.001) <= 0.001
    assert not scheduler.rest(10.1), "the stream has ended"
    scheduler.append(job("echo"))
    assert scheduler.rest(10.001)
    child.queue.jobs = {n: ahead[n] for n in range(3)}
    assert not scheduler.rest(10.001), "it could be given what waits"


def test_while_reports_gather_nothing_is_looked_at_and_nothing_is_registered_twice() -> None:
    wake, other = os.pipe(), os.pipe()
    slept: list[float] = []
    watch = ChildWatch(wake[0], Pulse("pool"), cast("Clock", SimpleNamespace(sleep=slept.append)))
    child: Any = SimpleNamespace(descriptor=other[0], sentinels=(), unsent=b"")
    watch.follow([child])
    os.write(other[1], b"x")
    assert watch.wait(60.0) == [child]
    assert slept == []
    assert watch.wait(60.0, 0.0005) == [child]
    assert watch.wait(0.0001, 0.0005) == [child]
    assert slept == [0.0005, 0.0001]
    registered: list[int] = []
    watch._selector.register = lambda *given: registered.append(1)  # type: ignore[method-assign, assignment]
    watch.follow([child])
    assert registered == []
    watch.close()
    for descriptor in (*wake, *other):
        os.close(descriptor)


def test_each_is_told_of_its_end_also_after_one_whose_observer_fails() -> None:
    told: list[int] = []

    def tell(number: int) -> None:
        told.append(number)
        if number in (1, 3):
            raise LookupError(number)

    with pytest.raises(LookupError, match="3"):
        call_each(iter([partial(tell, number) for number in range(5)]))
    assert told == [0, 1, 2, 3, 4]


# -- both ends, in one process ------------------------------------------------------------------------------------------


class Ends:
    def __init__(self) -> None:
        self.given = ChildJobQueue(SYSTEM)
        self.workers, self._childs = billiard.Pipe(duplex=True)
        self._taken = billiard.connection.Connection(self.given.childs_end(), writable=False)
        self.child = ChildPipe(self._childs.fileno(), JobQueueReader(self._taken))

    def said(self) -> list[Any]:
        return list(FrameReader().feed(os.read(self.workers.fileno(), 65_536)))

    def close(self) -> None:
        self.given.close()
        for each in (self.workers, self._childs, self._taken):
            each.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    both = Ends()
    yield both
    both.close()


def test_a_job_is_the_childs_or_is_taken_back_and_never_both(ends: Ends, job: JobMaker) -> None:
    jobs = [job("echo", value=n) for n in range(4)]
    assert all(ends.given.give(each) for each in jobs)
    order = ends.child.next_order()
    assert isinstance(order, Run)
    assert order.message == jobs[0].message
    assert ends.given.take_back() == jobs[1:]
    assert list(ends.given.jobs) == [jobs[0].token]
    assert ends.given.take_back() == []


def test_a_large_job_is_the_childs_or_is_taken_back_whole(ends: Ends, job: JobMaker) -> None:
    jobs = [job("echo", value=letter * 100_000) for letter in "ab"]
    assert all(ends.given.give(each) for each in jobs)
    order = ends.child.next_order()
    assert isinstance(order, Run)
    assert order.message == jobs[0].message
    assert ends.given.take_back() == jobs[1:]
    assert not ends.given.give(job("echo", value="c" * job_queue.LARGEST))


def test_what_has_ended_is_told_with_what_begins_next_and_before_any_wait(ends: Ends, job: JobMaker) -> None:
    ends.given.give(job("echo"))
    ends.child.send_soon(Finished(1, Outcome(Ending.SUCCEEDED), None))
    assert isinstance(ends.child.next_order(), Run)
    os.set_blocking(ends.workers.fileno(), False)
    with pytest.raises(BlockingIOError):
        ends.said()
    os.write(ends.workers.fileno(), encode(StopJob(9, Stop.REVOKED)))
    assert isinstance(ends.child.next_order(), StopJob)
    assert [type(frame) for frame in ends.said()] == [Finished]


def test_what_is_found_too_late_is_declined_and_the_next_is_taken(
    ends: Ends, job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, good = [job("echo") for _ in range(2)], job("echo")
    monkeypatch.setattr(timeouts, "JOB_GOOD_FOR", -1.0)
    for each in late:
        ends.given.give(each)
    monkeypatch.setattr(timeouts, "JOB_GOOD_FOR", 3600.0)
    ends.given.give(good)
    order = ends.child.next_order()
    assert isinstance(order, Run)
    assert order.token == good.token
    ends.child.send(Finished(good.token, Outcome(Ending.SUCCEEDED), None))
    assert [(type(frame), frame.token) for frame in ends.said()] == [
        *((Declined, each.token) for each in late),
        (Finished, good.token),
    ]


def test_a_full_queue_takes_no_more_and_loses_nothing(ends: Ends, job: JobMaker) -> None:
    jobs = []
    while ends.given.give(one := job("echo", value="x" * 20_000)):
        jobs.append(one)
        assert len(jobs) < 10_000
    assert ends.given.take_back() == jobs
    assert not ends.given.give(job("echo", value="x" * job_queue.LARGEST))
    assert ends.given.jobs == {}


def test_while_nothing_waits_no_child_is_asked_whether_it_is_free() -> None:
    """Each turn of the pool asks for the next job, and in a pool of many most turns find none."""
    # A double that has no more than what waits for it, so that another question would be an error.
    busy: dict[int, Any] = {slot: SimpleNamespace(queue=SimpleNamespace(jobs={})) for slot in range(64)}
    assert JobScheduler(busy, None).next_turn() is None
