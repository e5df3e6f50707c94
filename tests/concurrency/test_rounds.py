"""One thread looks again: after a while, or when it is woken."""

from __future__ import annotations

import queue
import threading

from stem_kombu.concurrency.rounds import Rounds


def test_it_looks_at_once_after_a_look_that_returned_0_and_else_when_it_is_woken() -> None:
    looks: queue.Queue[int] = queue.Queue()
    answers = iter([0.0, None, 0.001, None])

    def look() -> float | None:
        looks.put(1)
        return next(answers)

    rounds = Rounds(look, "stem-looks")
    rounds.start()
    assert [looks.get(timeout=30) for _ in range(2)] == [1, 1]
    rounds.wake()
    assert [looks.get(timeout=30) for _ in range(2)] == [1, 1]
    rounds.stop()
    assert looks.empty()


def test_a_wake_during_a_look_is_not_missed() -> None:
    begun, again, gate = threading.Event(), threading.Event(), threading.Event()

    def look() -> float | None:
        (again if begun.is_set() else begun).set()
        gate.wait(30)
        return None

    rounds = Rounds(look, "stem-looks")
    rounds.start()
    assert begun.wait(30)
    rounds.wake()
    gate.set()
    assert again.wait(30)
    rounds.stop()


def test_it_stops_during_a_look_and_can_be_started_again() -> None:
    looks = threading.Semaphore(0)

    def look() -> float | None:
        looks.release()
        return None

    rounds = Rounds(look, "stem-looks")
    rounds.stop()
    for _ in range(3):
        rounds.start()
        assert looks.acquire(timeout=30)
        rounds.stop()
    assert not looks.acquire(blocking=False)
