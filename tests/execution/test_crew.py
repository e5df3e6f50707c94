"""Threads that stay for the next jobs."""

from __future__ import annotations

import threading

from stem_kombu.execution.crew import Crew
from tests.waiting import eventually


def test_all_that_is_given_is_worked_on_at_once_again_and_again() -> None:
    barrier = threading.Barrier(17)
    crew: Crew[int] = Crew(lambda _: barrier.wait(30) and None)
    crew.open()
    for _ in range(20):
        for number in range(16):
            crew.give(number, f"crew-{number}")
        barrier.wait(30)  # all sixteen are in it, though one thread at a time was woken
        eventually(lambda: crew._idle == len(crew._threads))
    assert len(crew._threads) <= 17
    crew.close()
    eventually(lambda: not crew._threads)


def test_nothing_is_forgotten_in_a_stream_from_several_threads() -> None:
    done: list[int] = []
    crew: Crew[int] = Crew(done.append)
    crew.open()

    def give(first: int) -> None:
        for number in range(first, first + 2000):
            crew.give(number, "crew")

    givers = [threading.Thread(target=give, args=(start,)) for start in (0, 2000, 4000)]
    for giver in givers:
        giver.start()
    for giver in givers:
        giver.join()
    eventually(lambda: len(done) == 6000)
    assert sorted(done) == list(range(6000))
    crew.close()
    eventually(lambda: not crew._threads)


def test_threads_without_work_end_and_new_work_gets_new_ones() -> None:
    gate, done = threading.Event(), threading.Semaphore(0)

    def work(number: int) -> None:
        gate.wait(60)
        done.release()

    crew: Crew[int] = Crew(work, idle=0.05)
    crew.open()
    for _ in range(3):  # and again, after all have gone
        gate.clear()
        for number in range(8):
            crew.give(number, f"crew-{number}")
        assert len(crew) == 8
        gate.set()
        assert all(done.acquire(timeout=60) for _ in range(8))
        eventually(lambda: len(crew) == 0, message="threads stay that have nothing to do")
    crew.close()
