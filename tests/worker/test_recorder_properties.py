"""Whatever fails, in whatever order: recorded before acknowledged, published before that, and each delivery ends once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerUnavailable, ConfigurationError, StoreError, StoreUnavailable
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.task import Task, TaskMessage
from stem_kombu.transports import outages
from stem_kombu.worker import record_writer, retry_publisher
from stem_kombu.worker.ack_queue import AckQueue
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.outcome_places import OutcomePlaces
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.recorder import Recorder
from stem_kombu.worker.settlement import RESULT_NOT_STORABLE, MessageDisposition, Settlement
from tests.waiting import eventually
from tests.worker.facts import connected_facts

_numbers = itertools.count()
TASK = Task("tasks.render", lambda *_: None, context=True)

#: What a call of a place does: takes all, takes nothing, takes all and loses the answer, fails as no place should.
FATES = ("ok", "ok", "away", "answer lost", "bug")
#: What is the matter with a task: nothing, its record can never be held, never with its result, its retry can't be sent.
NATURES = ("plain", "plain", "plain", "unstorable", "result too large", "never sent")


@dataclass
class World:
    """A broker, a backend and what was seen, in order."""

    fates: list[str]
    natures: dict[str, str]
    backend: MemoryBackend
    seen: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fate(self) -> str:
        with self.lock:
            return self.fates.pop(0) if self.fates else "ok"

    def note(self, what: str, task_id: str) -> None:
        with self.lock:
            self.seen.append((what, task_id))

    def send(self, message: TaskMessage) -> None:
        if self.natures[message.task_id] == "never sent":
            raise ConfigurationError("it holds what JSON has not")
        fate = self.fate()
        if fate == "away":
            raise BrokerUnavailable("blocked by a resource alarm")
        if fate == "bug":
            raise TypeError("a driver's own")
        self.note("published", message.task_id)
        if fate == "answer lost":
            raise BrokerUnavailable("no confirm in time")

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        for record in records:
            nature = self.natures[record.task_id]
            if nature == "unstorable":
                raise UnicodeEncodeError("ascii", "задача", 0, 1, "ordinal not in range")
            if nature == "result too large" and record.result is not None:
                raise StoreUnavailable("the connection was closed in the middle of it")
        fate = self.fate()
        if fate == "away":
            raise StoreUnavailable("no answer in time")
        if fate == "bug":
            raise StoreError("a constraint of somebody's own")
        held = self.backend.record(records)
        for record in records:
            self.note(f"recorded {record.state.value}", record.task_id)
        if fate == "answer lost":
            raise StoreUnavailable("no answer in time")
        return held


class Acks(AckQueue):
    """Notes what is added."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def add(self, delivery: Delivery, then: MessageDisposition) -> None:
        self._world.note(then.value, delivery.task_id)


class States:
    """The backend as the recorder sees it."""

    url = "memory://here"

    def __init__(self, world: World) -> None:
        self.record = world.record

    def ping(self) -> None:
        """It answers whatever it refuses."""


def no_pauses(patch: pytest.MonkeyPatch) -> None:
    for module in (record_writer, retry_publisher, outages):
        patch.setattr(module, "backoff", lambda *_, **__: 0.001)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_g9_g18_each_outcome_is_recorded_before_its_only_end_whatever_fails(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    kinds = data.draw(st.lists(st.sampled_from(("succeeded", "retrying", "released")), min_size=count, max_size=count))
    natures = {f"t{n}": data.draw(st.sampled_from(NATURES)) for n in range(count)}
    world = World(
        data.draw(st.lists(st.sampled_from(FATES), max_size=30)), natures, MemoryBackend(f"any-{next(_numbers)}")
    )
    inflight = InFlight(SYSTEM)
    states: Any = States(world)
    recorder = Recorder(OutcomePlaces(states), inflight, Acks(world), connected_facts(world.backend), send=world.send)
    ends = {then.value for then in MessageDisposition}
    with pytest.MonkeyPatch.context() as patch:
        no_pauses(patch)
        recorder.start()
        try:
            for number, kind in enumerate(kinds):
                message = TaskMessage(f"t{number}", TASK.name)
                delivery = inflight.add(message, TASK, object(), 1, False, Phase.RESERVED)
                inflight.started(delivery.token, 1)
                recorder.running(delivery, TaskRecord(message.task_id, TASK.name, TaskState.RUNNING))
                inflight.ended(delivery.token)
                recorder.settle(delivery, outcome_of(message, kind))
            stuck = {f"t{n}" for n, kind in enumerate(kinds) if natures[f"t{n}"] == "unstorable" and kind != "released"}
            eventually(lambda: len({task for what, task in world.seen if what in ends}) >= count - len(stuck), 30)
            # What can't be recorded at all waits, unless its next attempt could not be sent for a driver's own fault.
            eventually(
                lambda: (
                    stuck
                    <= {delivery.task_id for delivery in inflight.waiting()}
                    | {task for what, task in world.seen if what in ends}
                ),
                30,
            )
        finally:
            recorder.stop(20.0)
    for number, kind in enumerate(kinds):
        task_id = f"t{number}"
        own = [what for what, task in world.seen if task == task_id]
        assert sum(what in ends for what in own) == 1, (task_id, own)
        end = own[-1]
        assert end in ends, (task_id, own)
        if kind == "released" or natures[task_id] == "unstorable":
            assert end == "requeue"
            continue
        if kind == "retrying" and end == "acknowledge" and natures[task_id] != "never sent":
            assert own.index("published") < own.index("recorded retrying")
        if end == "acknowledge":
            record = world.backend.get(task_id)
            assert record is not None and f"recorded {record.state.value}" in own
            assert record.state is not TaskState.RUNNING
            if natures[task_id] == "result too large" and kind == "succeeded":
                assert record.error is not None and record.error.type == RESULT_NOT_STORABLE
    world.backend.close()


def outcome_of(message: TaskMessage, kind: str) -> Settlement:
    record = TaskRecord(message.task_id, TASK.name, TaskState(kind) if kind != "released" else TaskState.QUEUED)
    if kind == "released":
        return Settlement(None, MessageDisposition.REQUEUE)
    if kind == "retrying":
        return Settlement(record, MessageDisposition.ACKNOWLEDGE, "retried", retry=replace(message, attempt=2))
    return Settlement(replace(record, result={"ok": True}), MessageDisposition.ACKNOWLEDGE, "succeeded")
