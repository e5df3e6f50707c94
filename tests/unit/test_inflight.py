"""The table of what a worker holds."""

from __future__ import annotations

import threading

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.revocation import Revocation
from stem_kombu.task import Task, TaskMessage, TaskOptions
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.prefetch_policy import Load
from stem_kombu.worker.settlement import Waiting

TASK = Task("tasks.render", lambda ctx: None)
REVOCATION = Revocation("stem", "t1", 1, SYSTEM.utcnow(), terminate=True)


@pytest.fixture
def inflight() -> InFlight:
    return InFlight(SYSTEM)


def receive(inflight: InFlight, task_id: str = "t1", attempt: int = 1) -> Delivery:
    return inflight.add(TaskMessage(task_id, TASK.name, attempt=attempt), TASK, object(), 1, False, Phase.RESERVED)


def test_a_delivery_is_reserved_then_running_then_settling_then_gone(inflight: InFlight) -> None:
    delivery = receive(inflight)
    assert (inflight.waiting_count, inflight.running_count, len(inflight)) == (1, 0, 1)
    inflight.started(delivery.token, 42)
    assert (inflight.waiting_count, inflight.running_count) == (0, 1)
    assert inflight.running() == [delivery]
    inflight.ended(delivery.token)
    assert (inflight.running_count, len(inflight)) == (0, 1)
    inflight.remove(delivery.token)
    assert len(inflight) == 0


def test_what_is_held_is_counted_by_its_kind_until_it_is_out_of_its_handler(inflight: InFlight) -> None:
    isolate = Task("tasks.render", lambda ctx: None, TaskOptions(isolate=True))
    inline = receive(inflight)
    held = [inflight.add(TaskMessage(f"i{n}", isolate.name), isolate, None, 1, False, Phase.HELD) for n in range(2)]
    assert (inflight.load(), inflight.room(3), inflight.waiting_count) == (Load(isolates=0, inline=1), 0, 3)
    inflight.waits(held[0].token, Phase.RESERVED)
    inflight.started(inline.token, 42)
    inflight.started(inline.token, 42)
    assert (inflight.load(), inflight.room(3), inflight.waiting_count) == (Load(isolates=1, inline=1), 0, 2)
    inflight.started(held[0].token, 43)
    inflight.ended(held[0].token)
    inflight.ended(inline.token)
    assert (inflight.load(), inflight.room(3), inflight.running_count) == (Load(isolates=0, inline=0), 2, 0)
    for delivery in (inline, *held):
        inflight.remove(delivery.token)
        inflight.remove(delivery.token)
    assert (inflight.load(), inflight.room(3), inflight.waiting_count) == (Load(isolates=0, inline=0), 3, 0)


def test_no_message_may_come_while_too_many_outcomes_wait_to_be_recorded(inflight: InFlight) -> None:
    ended = [receive(inflight, f"t{number}") for number in range(67)]
    for delivery in ended:
        inflight.ended(delivery.token)
    assert inflight.room(3) == 3
    more = receive(inflight, "more")
    assert inflight.room(3) == 2
    inflight.ended(more.token)
    assert inflight.room(3) == 0
    inflight.set_aside(more.token, Waiting("record", 0.0, 1, "down"))
    assert inflight.room(3) == 3


def test_g8_two_deliveries_of_one_task_are_told_apart_by_their_tokens(inflight: InFlight) -> None:
    first, second = receive(inflight), receive(inflight)
    inflight.started(first.token, 1)
    inflight.ended(first.token)
    inflight.remove(first.token)
    assert inflight.of_tasks(["t1"]) == [second]
    assert inflight.ended(first.token) is None


def test_an_end_is_reported_once_however_often_it_is_told(inflight: InFlight) -> None:
    delivery = receive(inflight)
    inflight.started(delivery.token, 1)
    assert inflight.ended(delivery.token) == (delivery, Phase.RUNNING)
    assert inflight.ended(delivery.token) is None
    assert inflight.started(delivery.token, 1) is None
    assert inflight.running_count == 0


def test_a_redelivery_takes_the_place_of_the_delivery_whose_connection_was_lost(inflight: InFlight) -> None:
    delivery = receive(inflight)
    handle = object()
    assert inflight.same_attempt(TaskMessage("t1", TASK.name), 2, leased=False) is delivery
    assert inflight.adopt(delivery, handle, 2)
    assert (delivery.handle, delivery.generation) == (handle, 2)
    assert inflight.same_attempt(TaskMessage("t1", TASK.name, attempt=2), 2, leased=False) is None
    inflight.remove(delivery.token)
    assert not inflight.adopt(delivery, handle, 3)


def test_a_delivery_whose_lease_is_lost_is_not_recognised_again(inflight: InFlight) -> None:
    receive(inflight).lease_lost = True
    assert inflight.same_attempt(TaskMessage("t1", TASK.name), 2, leased=True) is None


def test_g18_two_messages_of_one_task_that_come_again_take_the_places_of_both(inflight: InFlight) -> None:
    deliveries = [receive(inflight), receive(inflight)]
    for handle in ("first", "second"):
        found = inflight.same_attempt(TaskMessage("t1", TASK.name), 2, leased=False)
        assert found is not None
        assert inflight.adopt(found, handle, 2)
    assert [delivery.handle for delivery in deliveries] == ["first", "second"]


def test_without_leases_nothing_that_this_connection_holds_can_come_again(inflight: InFlight) -> None:
    delivery = receive(inflight)
    assert inflight.same_attempt(TaskMessage("t1", TASK.name), 1, leased=False) is None
    # A lease may have been lost and won again over the same connection.
    assert inflight.same_attempt(TaskMessage("t1", TASK.name), 1, leased=True) is delivery


def test_g9_what_is_not_to_run_follows_the_run_of_its_attempt_until_that_is_settled(inflight: InFlight) -> None:
    runs, again, next_attempt = receive(inflight), receive(inflight), receive(inflight, attempt=2)
    assert not inflight.follow(again)  # nothing runs yet
    inflight.started(runs.token, 1)
    assert not inflight.follow(next_attempt)
    assert inflight.follow(again)
    inflight.ended(runs.token)
    assert inflight.settled(runs.token, "succeeded") == [again]
    assert not inflight.follow(receive(inflight))  # too late: its end is told


def test_g26_what_is_not_to_run_follows_a_run_that_has_lost_its_lease_as_well(inflight: InFlight) -> None:
    """Found by the simulation: a worker that was suspended got its own message again, and recorded it as cancelled while its
    code ran."""
    runs, again = receive(inflight), receive(inflight)
    inflight.started(runs.token, 1)
    runs.lease_lost = True
    assert inflight.follow(again)
    inflight.ended(runs.token)
    assert inflight.settled(runs.token, "released") == [again]


def test_who_waits_for_an_end_is_woken_when_it_is_recorded_and_told_how_it_ended(inflight: InFlight) -> None:
    delivery = receive(inflight)
    inflight.started(delivery.token, 1)
    ended: dict[str, str] = {}
    waiter = threading.Thread(target=lambda: ended.update(inflight.wait_ended(["t1"], 30.0)))
    waiter.start()
    inflight.ended(delivery.token)
    # Recorded before the waiter looked, or after: told the same.
    while waiter.is_alive():
        inflight.settled(delivery.token, "cancelled")
        waiter.join(0.01)
    assert ended == {"t1": "cancelled"}


def test_waiting_gives_up_at_its_bound_and_says_who_is_out_already(inflight: InFlight) -> None:
    running, out = receive(inflight, "t1"), receive(inflight, "t2")
    inflight.started(running.token, 1)
    inflight.started(out.token, 1)
    inflight.ended(out.token)
    assert inflight.wait_ended(["t1", "t2", "t3"], 0.01) == {"t2": "settling", "t3": "settling"}


def test_only_the_first_order_to_stop_is_dated(inflight: InFlight) -> None:
    delivery = receive(inflight)
    inflight.started(delivery.token, 1)
    inflight.stopping(delivery.token, REVOCATION)
    assert (delivery.phase, inflight.running_count, inflight.running()) == (Phase.STOPPING, 1, [delivery])
    first = delivery.terminate_mono
    inflight.stopping(delivery.token, REVOCATION)
    assert delivery.terminate_mono == first
    assert delivery.terminate is REVOCATION
