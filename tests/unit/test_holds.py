"""Deliveries that wait without a slot."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.task import Mode, Original, Task, TaskMessage, TaskOptions
from stem_kombu.worker.delayed import DelayedDeliveries
from stem_kombu.worker.deliveries import Delivery, InFlight, Phase
from tests.waiting import eventually


@pytest.fixture
def given_back() -> list[Delivery]:
    return []


@pytest.fixture
def holds(given_back: list[Delivery]) -> DelayedDeliveries:
    """Holds whose thread does not run, so that nothing falls due by itself."""
    return DelayedDeliveries(
        due=lambda delivery: None,
        repark=lambda delivery: None,
        give_back=given_back.append,
        changed=lambda: None,
        longest=None,
        clock=SYSTEM,
    )


TABLE = InFlight(SYSTEM)


def delivery(task_id: str, mode: Mode, priority: int = 0) -> Delivery:
    task = Task("tasks.any", lambda ctx: None, TaskOptions(isolate=mode is Mode.ISOLATE))
    original = Original(b"", "application/json", "utf-8", {}, {"priority": priority})
    return TABLE.add(TaskMessage(task_id, task.name, original=original), task, object(), 1, False, Phase.HELD)


def test_the_first_that_was_set_aside_for_a_kind_of_slot_is_the_first_to_get_it(holds: DelayedDeliveries) -> None:
    first, second = delivery("t1", Mode.ISOLATE), delivery("t2", Mode.ISOLATE)
    inline = delivery("t3", Mode.INLINE)
    for each, seconds in ((inline, 0.1), (first, 0.3), (second, 0.2)):
        holds.set_aside(each, SYSTEM.monotonic() + seconds)
    assert (holds.count, holds.aside) == (3, 3)
    assert holds.take_aside(Mode.ISOLATE) is first
    assert holds.take_aside(Mode.ISOLATE) is second
    assert holds.take_aside(Mode.ISOLATE) is None
    assert holds.release_all() == [inline]
    assert (holds.count, holds.aside) == (0, 0)


def test_what_is_held_for_its_eta_gets_no_slot_before(holds: DelayedDeliveries) -> None:
    task = Task("tasks.any", lambda ctx: None, TaskOptions(isolate=True))
    message = TaskMessage("t1", task.name, eta=SYSTEM.utcnow() + timedelta(hours=1))
    holds.hold(TABLE.add(message, task, object(), 1, False, Phase.HELD))
    assert (holds.count, holds.aside) == (1, 0)
    assert holds.take_aside(Mode.ISOLATE) is None
    assert holds.count == 1


def test_what_was_set_aside_and_got_no_slot_is_given_back(holds: DelayedDeliveries, given_back: list[Delivery]) -> None:
    waiting = delivery("t1", Mode.INLINE)
    holds.start()
    try:
        holds.set_aside(waiting, 0.0)
        eventually(lambda: given_back == [waiting])
        assert holds.count == 0
    finally:
        holds.stop()


def test_releasing_some_of_many_holds_costs_a_look_up_each_and_leaves_the_others_in_order(
    holds: DelayedDeliveries,
) -> None:
    many = [delivery(f"many-{n}", Mode.INLINE) for n in range(20_000)]
    for number, each in enumerate(many):
        holds.set_aside(each, SYSTEM.monotonic() + 1000.0 + number)
    # By comparisons with every other hold this would be 2 * 10**8 of them, a minute; by token it is 19,900 look-ups.
    for each in reversed(many[100:]):
        assert holds.release(each.token) is each
        assert holds.release(each.token) is None
    assert (holds.count, holds.aside) == (100, 100)
    assert len(holds) == 100
    assert holds.entries < 500  # what was released is not kept either
    assert holds.release_all() == many[:100]


def test_what_was_released_does_not_fall_due(holds: DelayedDeliveries, given_back: list[Delivery]) -> None:
    gone, stays = delivery("gone", Mode.INLINE), delivery("stays", Mode.INLINE)
    holds.set_aside(gone, 0.0)
    holds.set_aside(stays, 0.0)
    assert holds.release(gone.token) is gone
    holds.start()
    try:
        eventually(lambda: given_back == [stays])
    finally:
        holds.stop()


def test_what_is_given_back_together_goes_in_the_reverse_order_as_each_becomes_the_head_of_its_queue(
    holds: DelayedDeliveries, given_back: list[Delivery]
) -> None:
    several = [delivery(f"several-{n}", Mode.ISOLATE) for n in range(5)]
    for each in several:
        holds.set_aside(each, 0.5)  # the same moment for all, as a look ends for all at once
    holds.start()
    try:
        eventually(lambda: given_back == several[::-1])
    finally:
        holds.stop()


@pytest.mark.parametrize(("low_first", "order"), [(True, [0, 3, 3, 9]), (False, [9, 3, 3, 0])])
def test_the_most_urgent_that_was_set_aside_gets_the_slot(low_first: bool, order: list[int]) -> None:
    nothing = {"due": lambda _: None, "repark": lambda _: None, "give_back": lambda _: None}
    holds = DelayedDeliveries(**nothing, changed=lambda: None, longest=None, clock=SYSTEM, low_first=low_first)
    several = [delivery(f"urgent-{n}", Mode.INLINE, priority) for n, priority in enumerate((3, 9, 0, 3))]
    for each in several:
        holds.set_aside(each, SYSTEM.monotonic() + 100.0)
    taken = [holds.take_aside(Mode.INLINE) for _ in several]
    assert [each.message.original.properties["priority"] for each in taken if each and each.message.original] == order
    assert [each for each in taken if each in (several[0], several[3])] == [several[0], several[3]]
