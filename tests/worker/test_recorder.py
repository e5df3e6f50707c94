"""What becomes of an outcome when its record or its retry can't be written."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterator
from dataclasses import replace

import pytest

from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerUnavailable, StoreUnavailable
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.task import Task, TaskMessage
from stem_kombu.worker.ack_queue import AckQueue
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.outcome_places import OutcomePlaces
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.recorder import Recorder
from stem_kombu.worker.settlement import MessageDisposition, Settlement
from tests.worker.facts import connected_facts

MESSAGE = TaskMessage("t1", "tasks.render")
RETRY = replace(MESSAGE, attempt=2)
_numbers = itertools.count()
RETRYING = TaskRecord("t1", "tasks.render", TaskState.RETRYING, 1)


class Broker:
    """Publishes what a recorder sends unless it has a failure left to raise."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.sent: list[TaskMessage] = []

    def send(self, message: TaskMessage) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(message)


class Acks(AckQueue):
    """Lets a test wait for what is added."""

    def __init__(self, finished: queue.SimpleQueue[tuple[Delivery, MessageDisposition]]) -> None:
        super().__init__()
        self._finished = finished

    def add(self, delivery: Delivery, then: MessageDisposition) -> None:
        self._finished.put((delivery, then))


class Bench:
    """A recorder with one delivery that has ended."""

    def __init__(self, broker: Broker) -> None:
        self.backend = MemoryBackend(f"recorder-{next(_numbers)}")
        self.inflight = InFlight(SYSTEM)
        self.finished: queue.SimpleQueue[tuple[Delivery, MessageDisposition]] = queue.SimpleQueue()
        facts, acks = connected_facts(self.backend), Acks(self.finished)
        self.ownership = facts.ownership
        self.recorder = Recorder(OutcomePlaces(self.backend), self.inflight, acks, facts, send=broker.send)
        task = Task("tasks.render", lambda *_: None, context=True)
        self.delivery = self.inflight.add(MESSAGE, task, object(), 1, False, Phase.RESERVED)
        self.inflight.ended(self.delivery.token)
        self.recorder.start()


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    benches: list[Bench] = []
    yield benches
    for bench in benches:
        bench.recorder.stop(5.0)
        bench.backend.close()


def test_g18_a_retry_is_published_as_soon_as_the_broker_is_back_and_only_then_acknowledged(made: list[Bench]) -> None:
    broker = Broker(BrokerUnavailable("away"), BrokerUnavailable("still away"))
    made.append(bench := Bench(broker))
    bench.recorder.settle(bench.delivery, Settlement(RETRYING, MessageDisposition.ACKNOWLEDGE, retry=RETRY))
    assert bench.finished.get(timeout=30) == (bench.delivery, MessageDisposition.ACKNOWLEDGE)
    assert broker.sent == [RETRY]
    record = bench.backend.get("t1")
    assert record is not None and record.state is TaskState.RETRYING


def test_g18_a_retry_that_can_never_be_published_sends_the_attempt_back_and_holds_nobody_up(
    made: list[Bench],
) -> None:
    broker = Broker(*(TypeError("a driver's own bug") for _ in range(3)))
    made.append(bench := Bench(broker))
    other = bench.inflight.add(replace(MESSAGE, task_id="t2"), bench.delivery.task, object(), 1, False, Phase.RESERVED)
    bench.inflight.ended(other.token)
    bench.recorder.settle(bench.delivery, Settlement(RETRYING, MessageDisposition.ACKNOWLEDGE, retry=RETRY))
    bench.recorder.settle(
        other, Settlement(replace(RETRYING, task_id="t2", state=TaskState.FAILED), MessageDisposition.ACKNOWLEDGE)
    )
    assert bench.finished.get(timeout=30) == (other, MessageDisposition.ACKNOWLEDGE)
    assert bench.finished.get(timeout=30) == (bench.delivery, MessageDisposition.REQUEUE)
    assert broker.failures == []
    assert bench.backend.get("t1") is None
    record = bench.backend.get("t2")
    assert record is not None and record.state is TaskState.FAILED


CANCELLED = Settlement(replace(RETRYING, state=TaskState.CANCELLED), MessageDisposition.ACKNOWLEDGE)


@pytest.mark.parametrize(
    ("lease_lost", "then"), [(False, MessageDisposition.REQUEUE), (True, MessageDisposition.LEAVE)]
)
def test_g9_what_was_refused_here_and_is_given_to_somebody_else_is_that_ones_to_decide(
    made: list[Bench], monkeypatch: pytest.MonkeyPatch, lease_lost: bool, then: MessageDisposition
) -> None:
    """Found by the simulation: a revocation expired while the backend was away, and the task succeeded elsewhere.

    And (G18): "elsewhere" can be here, over the next connection. The message then takes this one's place, and was held for
    ever when it was only let go of.
    """
    made.append(bench := Bench(Broker()))
    record, tries = bench.backend.record, []

    def away_at_first(records: list[TaskRecord]) -> object:
        tries.append(records)
        if len(tries) == 1:
            bench.ownership.disconnected()  # while this waits for the backend
            bench.delivery.lease_lost = lease_lost
            raise StoreUnavailable("away")
        return record(records)

    monkeypatch.setattr(bench.backend, "record", away_at_first)
    bench.recorder.settle(bench.delivery, CANCELLED)
    assert bench.finished.get(timeout=30) == (bench.delivery, then)
    assert bench.backend.get("t1") is None
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("settlement", "then"),
    [
        (CANCELLED, MessageDisposition.ACKNOWLEDGE),
        (Settlement(None, MessageDisposition.REQUEUE), MessageDisposition.REQUEUE),
        (Settlement(None, MessageDisposition.LEAVE), MessageDisposition.REQUEUE),
    ],
)
def test_g9_what_follows_a_run_is_finished_after_it_and_as_it_is(
    made: list[Bench], settlement: Settlement, then: MessageDisposition
) -> None:
    made.append(bench := Bench(Broker()))
    runs, again = (
        bench.inflight.add(replace(MESSAGE, task_id="t2"), bench.delivery.task, object(), 1, False, Phase.RESERVED)
        for _ in range(2)
    )
    bench.inflight.started(runs.token, 1)
    bench.inflight.ended(again.token)
    assert bench.inflight.follow(again)
    bench.inflight.ended(runs.token)
    bench.recorder.settle(runs, settlement)
    assert [bench.finished.get(timeout=30) for _ in range(2)] == [(runs, settlement.then), (again, then)]
