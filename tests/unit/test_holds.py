"""Deliveries that wait without a slot."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.task import Mode, Original, Task, TaskMessage, TaskOptions
from stem_kombu.worker.delayed import DelayedDeliveries, HoldRules
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.delivery_events import Event
from stem_kombu.worker.phase import Phase
from tests.waiting import eventually


class Due:
    """What fell due, in order."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def happened(self, delivery: Delivery, event: Event) -> None:
        assert event is Event.DUE
        self.deliveries.append(delivery)


@pytest.fixture
def due() -> Due:
    return Due()


@pytest.fixture
def holds(due: Due) -> DelayedDeliveries:
    """Holds whose thread does not run, so that nothing falls due by itself."""
    return DelayedDeliveries(due, HoldRules(), lambda: None, SYSTEM)


TABLE = InFlight(SYSTEM)


def delivery(task_id: str, mode: Mode, priority: int = 0) -> Delivery:
    task = Task("tasks.any", lambda ctx: None, TaskOptions(isolate=mode is Mode.ISOLATE))
    original = Original(b"", "application/json", "utf-8", {}, {"priority": priority})
    return TABLE.add(TaskMessage(task_id, task.name, original=original), task, object(), 1, False, Phase.HELD)


def test_the_first_that_was_deferred_for_a_kind_of_slot_is_the_first_to_get_it(holds: DelayedDeliveries) -> None:
    first, second = delivery("t1", Mode.ISOLATE), delivery("t2", Mode.ISOLATE)
    inline = delivery("t3", Mode.INLINE)
    for each, seconds in ((inline, 0.1), (first, 0.3), (second, 0.2)):
        holds.defer(each, SYSTEM.monotonic() + seconds)
    assert (holds.count, holds.deferred) == (3, 3)
    assert holds.take_deferred(Mode.ISOLATE) is first
    assert holds.take_deferred(Mode.ISOLATE) is second
    assert holds.take_deferred(Mode.ISOLATE) is None
    assert holds.release_all() == [inline]
    assert (holds.count, holds.deferred) == (0, 0)


def test_what_is_held_for_its_eta_gets_no_slot_before(holds: DelayedDeliveries) -> None:
    task = Task("tasks.any", lambda ctx: None, TaskOptions(isolate=True))
    message = TaskMessage("t1", task.name, eta=SYSTEM.utcnow() + timedelta(hours=1))
    holds.hold(TABLE.add(message, task, object(), 1, False, Phase.HELD), SYSTEM.utcnow())
    assert (holds.count, holds.deferred) == (1, 0)
    assert holds.take_deferred(Mode.ISOLATE) is None
    assert holds.count == 1


def test_what_was_deferred_and_got_no_slot_falls_due(holds: DelayedDeliveries, due: Due) -> None:
    waiting = delivery("t1", Mode.INLINE)
    holds.start()
    try:
        holds.defer(waiting, 0.0)
        eventually(lambda: due.deliveries == [waiting])
        assert holds.count == 0
    finally:
        holds.stop()


def test_releasing_some_of_many_holds_costs_a_look_up_each_and_leaves_the_others_in_order(
    holds: DelayedDeliveries,
) -> None:
    many = [delivery(f"many-{n}", Mode.INLINE) for n in range(20_000)]
    for number, each in enumerate(many):
        holds.defer(each, SYSTEM.monotonic() + 1000.0 + number)
    # By comparisons with every other hold this would be 2 * 10**8 of them, a minute; by token it is 19,900 look-ups.
    for each in reversed(many[100:]):
        assert holds.release(each.token) is each
        assert holds.release(each.token) is None
    assert (holds.count, holds.deferred) == (100, 100)
    assert len(holds) == 100
    assert holds.entries < 500  # what was released is not kept either
    assert holds.release_all() == many[:100]


def test_what_was_released_does_not_fall_due(holds: DelayedDeliveries, due: Due) -> None:
    gone, stays = delivery("gone", Mode.INLINE), delivery("stays", Mode.INLINE)
    holds.defer(gone, 0.0)
    holds.defer(stays, 0.0)
    assert holds.release(gone.token) is gone
    holds.start()
    try:
        eventually(lambda: due.deliveries == [stays])
    finally:
        holds.stop()


def test_what_was_deferred_together_falls_due_in_the_reverse_order_as_each_becomes_the_head_of_its_queue(
    holds: DelayedDeliveries, due: Due
) -> None:
    several = [delivery(f"several-{n}", Mode.ISOLATE) for n in range(5)]
    for each in several:
        holds.defer(each, 0.5)  # the same moment for all, as a look ends for all at once
    holds.start()
    try:
        eventually(lambda: due.deliveries == several[::-1])
    finally:
        holds.stop()


@pytest.mark.parametrize(("low_first", "order"), [(True, [0, 3, 3, 9]), (False, [9, 3, 3, 0])])
def test_the_most_urgent_that_was_deferred_gets_the_slot(low_first: bool, order: list[int]) -> None:
    holds = DelayedDeliveries(Due(), HoldRules(low_first=low_first), lambda: None, SYSTEM)
    several = [delivery(f"urgent-{n}", Mode.INLINE, priority) for n, priority in enumerate((3, 9, 0, 3))]
    for each in several:
        holds.defer(each, SYSTEM.monotonic() + 100.0)
    taken = [holds.take_deferred(Mode.INLINE) for _ in several]
    assert [each.message.original.properties["priority"] for each in taken if each and each.message.original] == order
    assert [each for each in taken if each in (several[0], several[3])] == [several[0], several[3]]


def test_what_is_to_be_looked_at_again_in_a_while_is_not_looked_at_before(holds: DelayedDeliveries, due: Due) -> None:
    """The seconds were taken for a point in time long ago, and the roster was asked again and again without a pause."""
    later, now = delivery("later", Mode.INLINE), delivery("now", Mode.INLINE)
    holds.hold_for(later, 3600.0)
    holds.hold_for(now, 0.0)
    holds.start()
    try:
        eventually(lambda: due.deliveries == [now])
        assert holds.count == 1
    finally:
        holds.stop()
