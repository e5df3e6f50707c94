"""Children that come and go while the pool runs (G25): nothing is stopped, lost, doubled or delayed by that."""

from __future__ import annotations

import os
import signal

from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.outcome import Ending
from stem_kombu.testing.executors import JobMaker, Recording
from stem_kombu.testing.gates import Gate
from tests.execution.conftest import PoolMaker, start_all
from tests.waiting import eventually


def idle(pool: IsolatePool) -> int:
    return sum(slot.state == "idle" for slot in pool.view())


def test_new_children_appear_at_once_and_idle_ones_go(make_pool: PoolMaker) -> None:
    pool = make_pool(1)
    (first,) = (slot.pid for slot in pool.view())
    pool.resize(4)
    eventually(lambda: idle(pool) == 4, 60)
    assert [slot.slot for slot in pool.view()] == [0, 1, 2, 3]
    pool.resize(1)
    eventually(lambda: len(pool.view()) == 1, 60)
    assert [slot.pid for slot in pool.view()] == [first]


def test_g25_a_child_that_is_too_many_goes_after_its_task(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    pool = make_pool(3)
    running = [job("at_checkpoint", gate.path, "check") for _ in range(3)]
    start_all(pool, observer, running)
    pool.resize(1)
    assert pool.retiring == 2
    # What comes meanwhile waits for the one child that stays.
    later = [job("echo", number) for number in range(5)]
    for one in later:
        pool.submit(one)
    assert [len(pool.view()), observer.outcomes] == [3, {}]
    gate.open()
    for one in running + later:
        assert observer.outcome(one).kind is Ending.SUCCEEDED
    eventually(lambda: len(pool.view()) == 1 and pool.retiring == 0, 60)


def test_a_child_that_was_too_many_stays_when_it_is_wanted_again(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    pool = make_pool(2)
    running = [job("at_checkpoint", gate.path, "check") for _ in range(2)]
    start_all(pool, observer, running)
    pids = {slot.pid for slot in pool.view()}
    pool.resize(1)
    pool.resize(2)
    gate.open()
    for one in running:
        assert observer.outcome(one).kind is Ending.SUCCEEDED
    eventually(lambda: idle(pool) == 2, 60)
    assert {slot.pid for slot in pool.view()} == pids


def test_g25_from_two_to_four_and_back_under_load_nothing_is_lost_stopped_or_doubled(
    make_pool: PoolMaker, observer: Recording, job: JobMaker
) -> None:
    pool = make_pool(2, max_tasks_per_child=7)
    jobs = [job("echo", number) for number in range(600)]
    for number, one in enumerate(jobs):
        pool.submit(one)
        if number % 20 == 0:
            pool.resize(4 if number % 40 else 1)
            observer.outcome(jobs[max(0, number - 15)])
    pool.resize(2)
    for one in jobs:
        assert observer.outcome(one).kind is Ending.SUCCEEDED
    assert {len(outcomes) for outcomes in observer.outcomes.values()} == {1}
    assert sum(kind == "started" for kind, _, _ in observer.calls) == len(jobs)
    eventually(lambda: idle(pool) == 2 and len(pool.view()) == 2, 60)


def test_a_child_that_is_too_many_and_dies_is_not_replaced(
    make_pool: PoolMaker, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    pool = make_pool(2)
    running = [job("at_checkpoint", gate.path, "check") for _ in range(2)]
    start_all(pool, observer, running)
    pool.resize(1)
    (victim,) = (slot for slot in pool.view() if slot.slot == 1)
    os.kill(victim.pid, signal.SIGKILL)
    lost, kept = sorted(running, key=lambda one: one.message.task_id != victim.task_id)
    assert observer.outcome(lost).kind is Ending.LOST
    gate.open()
    assert observer.outcome(kept).kind is Ending.SUCCEEDED
    eventually(lambda: [slot.state for slot in pool.view()] == ["idle"], 60)


def test_a_size_that_is_set_before_the_start_counts(observer: Recording) -> None:
    pool = IsolatePool(1, "tests.execution.handlers:app", observer)
    pool.resize(2)
    try:
        pool.start()
        assert len(pool.view()) == 2
    finally:
        pool.stop(0.0)
