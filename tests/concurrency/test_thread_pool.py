"""One pool of threads serves commands and inline tasks."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from stem_kombu.concurrency.thread_pool import ThreadPool
from tests.waiting import eventually


def test_everything_runs_at_once_again_and_again_with_as_few_threads() -> None:
    barrier = threading.Barrier(17)
    pool = ThreadPool("threads")
    for _ in range(20):
        for _ in range(16):
            pool.run(lambda: barrier.wait(30))
        barrier.wait(30)  # all sixteen are in it, though one thread at a time was woken
        eventually(lambda: pool._idle == len(pool))
    assert len(pool) <= 17
    assert pool.stop(30)
    eventually(lambda: len(pool) == 0)


def test_nothing_is_forgotten_in_a_stream_from_several_threads() -> None:
    done: list[int] = []
    pool = ThreadPool("threads")

    def give(first: int) -> None:
        for number in range(first, first + 2000):
            pool.run(lambda number=number: done.append(number))

    givers = [threading.Thread(target=give, args=(start,)) for start in (0, 2000, 4000)]
    for giver in givers:
        giver.start()
    for giver in givers:
        giver.join()
    eventually(lambda: len(done) == 6000, 60)
    assert sorted(done) == list(range(6000))
    pool.stop()
    eventually(lambda: len(pool) == 0)


def test_threads_without_work_end_and_new_work_gets_new_ones() -> None:
    gate, done = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        gate.wait(60)
        done.release()

    pool = ThreadPool("threads", idle=0.05)
    for _ in range(3):  # and again, after all have gone
        gate.clear()
        for _ in range(8):
            pool.run(work)
        assert len(pool) == 8
        gate.set()
        assert all(done.acquire(timeout=60) for _ in range(8))
        eventually(lambda: len(pool) == 0, message="threads stay that have nothing to do")
    pool.stop()


def test_a_pool_of_two_threads_runs_two_at_once_in_order_and_refuses_what_is_too_much() -> None:
    gate, running, order = threading.Event(), threading.Semaphore(0), []
    pool = ThreadPool("threads", 2, backlog=3)

    def work(number: int) -> int:
        order.append(number)
        running.release()
        gate.wait(60)
        return number

    begun = [pool.submit(lambda number=number: work(number)) for number in range(2)]
    assert all(running.acquire(timeout=60) for _ in range(2))
    waiting = [pool.submit(lambda number=number: work(number)) for number in range(2, 5)]
    assert pool.submit(lambda: work(5)) is None
    assert len(pool) == 2
    gate.set()
    assert [future and future.result(60) for future in (*begun, *waiting)] == [0, 1, 2, 3, 4]
    assert sorted(order[:2]) == [0, 1]
    assert pool.stop(60)


def test_a_stop_cancels_what_waits_says_what_still_runs_and_the_pool_opens_again() -> None:
    gate, running = threading.Event(), threading.Event()
    pool = ThreadPool("threads", 1)

    def work() -> str:
        running.set()
        gate.wait(60)
        return "done"

    runs, waits = pool.submit(work), pool.submit(work)
    assert running.wait(60)
    assert runs is not None
    assert waits is not None
    assert not pool.stop(0.01)
    with pytest.raises(CancelledError):
        waits.result(60)
    assert pool.submit(work) is None
    gate.set()
    assert runs.result(60) == "done"
    assert pool.stop(60)
    pool.open()
    again = pool.submit(work)
    assert again is not None
    assert again.result(60) == "done"
    pool.stop()


def test_an_error_ends_neither_the_thread_nor_the_next_function(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    pool = ThreadPool("threads", 1)

    def fail() -> None:
        raise SystemExit("no")

    pool.run(fail)
    pool.run(done.set)
    assert done.wait(60)
    assert "threads goes on after an unexpected error" in caplog.text
    failed = pool.submit(fail)
    assert failed is not None
    assert isinstance(failed.exception(60), SystemExit)
    pool.stop()


def test_a_system_without_threads_is_told_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = ThreadPool("threads", 1)
    done = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.run(done.set)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(done.set)
    assert len(pool) == 0
    again = pool.submit(lambda: "works again")
    assert again is not None
    assert again.result(60) == "works again"
    assert not done.is_set(), "a function ran that the caller was told is not taken"
    pool.stop()
