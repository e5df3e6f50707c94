"""What the memory backend does beyond the contract."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest

from stem_kombu import timeouts
from stem_kombu.backends import memory
from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.testing.roster_contract import heartbeat, workers

_numbers = itertools.count()


@dataclass
class Hands:
    """A clock that is set by hand."""

    seconds: float = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds

    def utcnow(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def name() -> str:
    return f"memory-{next(_numbers)}"


def task(task_id: str, state: TaskState = TaskState.SUCCEEDED) -> TaskRecord:
    return TaskRecord(task_id, "tasks.render", state)


def test_backends_of_one_name_share_what_they_hold_and_others_do_not(name: str) -> None:
    one, same, other = MemoryBackend(name), MemoryBackend(name), MemoryBackend(f"{name}-other")

    one.record([task("t")])
    one.beat(heartbeat("w"))
    one.close()

    assert same.get("t") == task("t")
    assert workers(same) == ["w"]
    assert other.get("t") is None
    assert workers(other) == []


def test_records_are_kept_for_their_time_and_unfinished_ones_longer(name: str) -> None:
    clock = Hands()
    backend = MemoryBackend(name, result_ttl=60, clock=clock)
    backend.record([task("ended"), task("waits", TaskState.QUEUED)])

    clock.sleep(59.9)
    assert backend.get("ended") is not None
    clock.sleep(0.1)
    assert backend.get("ended") is None
    clock.sleep(timeouts.UNFINISHED_TTL - 61)
    assert backend.get("waits") is not None
    clock.sleep(1)
    assert backend.get("waits") is None


def test_memory_is_bounded_by_what_has_not_expired(name: str) -> None:
    clock = Hands()
    backend = MemoryBackend(name, result_ttl=10, clock=clock)

    for number in range(2000):
        backend.record([task(f"t{number}")])
        clock.sleep(0.1)

    assert len(memory._SHARED[name].ended) <= 101


def test_a_worker_that_stops_beating_goes_stale_then_dead_then_vanishes(name: str) -> None:
    clock = Hands()
    backend = MemoryBackend(name, clock=clock)
    backend.beat(heartbeat("w", interval=10.0))
    seen = []

    for _ in range(14):
        view = backend.view("stem")
        seen.append([beat.liveness(view.now).value for beat in view.heartbeats])
        clock.sleep(10)

    assert seen == [["live"]] * 4 + [["stale"]] * 3 + [["dead"]] * 5 + [[]] * 2
    assert memory._SHARED[name].beats == {}


def test_a_wait_looks_often_at_first_and_never_sleeps_past_its_deadline(name: str) -> None:
    clock = Hands()
    backend = MemoryBackend(name, clock=clock)
    pauses: list[float] = []

    class Counting(Hands):
        def sleep(self, seconds: float) -> None:
            pauses.append(seconds)
            super().sleep(seconds)

    assert backend.wait("t", 1.0, clock=Counting()) is None
    assert pauses[0] == 0.005
    assert max(pauses) == pytest.approx(0.1)
    assert sum(pauses) == pytest.approx(1.0)
