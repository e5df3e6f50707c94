"""A command is obeyed while it is fresh, and once (G14)."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.control.protocol.codec import encode_command
from stem_kombu.control.protocol.messages import Call
from stem_kombu.control.server.replay_guard import LONGEST_LIFE
from stem_kombu.control.server.worker_view import WorkerView
from tests.control.fleet import Fleet
from tests.control.wire import Wire, revoke_order
from tests.waiting import eventually


def test_g14_a_command_that_has_expired_is_ignored(fleet: Fleet, wire: Wire) -> None:
    (alpha,) = fleet.start("alpha")
    long_ago = SYSTEM.utcnow() - timedelta(minutes=5)
    stale = wire.tell("alpha", revoke_order("t1"), now=long_ago)
    wire.ping("alpha")
    assert alpha.worker.applied == []
    assert wire.replies_to(stale) == []
    assert alpha.listener.admission.dropped == {"stale": 1}


def test_g14_a_broadcast_that_has_expired_is_ignored_by_everyone(fleet: Fleet, wire: Wire) -> None:
    stations = fleet.start("alpha", "bravo")
    wire.shout(encode_command(wire.command(revoke_order("t1"), now=SYSTEM.utcnow() - timedelta(hours=1))))
    for station in stations:
        eventually(lambda station=station: station.listener.admission.dropped == {"stale": 1})  # type: ignore[misc]
        assert station.worker.applied == []


def test_g14_a_command_is_judged_by_the_clock_of_the_roster_and_not_by_the_workers_own(
    fleet: Fleet, wire: Wire
) -> None:
    # given a worker whose host is a day ahead of the roster, and knows it
    a_day_ahead = SYSTEM.now() - 86_400
    alpha = fleet.add("alpha", roster_now=lambda: a_day_ahead)
    yesterday = SYSTEM.utcnow() - timedelta(days=1)
    # when it is told something that is fresh by the roster, and something that is not
    fresh = wire.tell("alpha", revoke_order("t1"), now=yesterday)
    wire.reply(fresh)
    wire.tell("alpha", revoke_order("t2"), now=yesterday - timedelta(minutes=5))
    wire.reply(wire.tell("alpha", revoke_order("t3"), now=yesterday))
    # then it obeys the fresh one
    assert alpha.worker.revoked == {"t1", "t3"}


def test_g14_a_command_is_applied_once_and_its_answer_repeated(fleet: Fleet, wire: Wire) -> None:
    (alpha,) = fleet.start("alpha")
    command = wire.tell("alpha", revoke_order("t1"))
    first = wire.reply(command)
    # when the same bytes come again, by both ways: the sender's reply got lost
    wire.put("alpha", encode_command(command))
    wire.until(lambda: len(wire.replies_to(command)) == 2)
    wire.shout(encode_command(command))
    wire.until(lambda: len(wire.replies_to(command)) == 3)
    # then nothing is done again and the sender gets the answer that was given
    assert alpha.worker.applied == [("t1",)]
    assert wire.replies_to(command) == [first] * 3
    assert first.payload["applied"] == ["t1"]


def test_g14_a_command_that_comes_again_while_it_is_carried_out_is_not_carried_out_twice(
    fleet: Fleet, wire: Wire
) -> None:
    calls, gate, called = [], threading.Event(), threading.Event()

    def slow(view: WorkerView) -> str:
        calls.append(1)
        called.set()
        gate.wait(10)
        return "done"

    fleet.add("alpha", commands={"slow": slow})
    command = wire.tell("alpha", Call("slow"))
    assert called.wait(10)
    wire.put("alpha", encode_command(command))
    wire.ping("alpha")  # it has met the second one
    assert wire.replies_to(command) == []
    gate.set()
    assert wire.reply(command).payload == {"result": "done"}
    wire.ping("alpha")
    assert (len(calls), len(wire.replies_to(command))) == (1, 1)


def test_g14_each_part_of_a_command_is_applied_once(fleet: Fleet, wire: Wire) -> None:
    (alpha,) = fleet.start("alpha")
    first = wire.tell("alpha", revoke_order("t1"), request_id="r", part=0, parts=2)
    second = wire.tell("alpha", revoke_order("t2"), request_id="r", part=1, parts=2)
    assert wire.reply(first).payload["applied"] == ["t1"]
    assert wire.reply(second).payload["applied"] == ["t2"]
    wire.put("alpha", encode_command(first))
    wire.until(lambda: len(wire.replies_to(first)) == 2)
    assert alpha.worker.applied == [("t1",), ("t2",)]


@pytest.mark.parametrize(
    ("issued_in", "lives", "reason"),
    [
        (LONGEST_LIFE + timedelta(hours=1), timedelta(seconds=5), "stale"),
        (timedelta(days=365 * 5000), timedelta(seconds=5), "stale"),
        (timedelta(0), LONGEST_LIFE + timedelta(seconds=1), "bad-message"),
        (timedelta(days=-1000), timedelta(days=2000), "bad-message"),
    ],
    ids=["from tomorrow", "from the year 7000", "lives two days", "lives for years"],
)
def test_g14_a_command_of_a_clock_that_nobody_can_rely_on_is_not_obeyed(
    redis_fleet: Fleet, issued_in: timedelta, lives: timedelta, reason: str
) -> None:
    (alpha,) = redis_fleet.start("alpha")
    issued_at = SYSTEM.utcnow() + issued_in
    with Wire(redis_fleet.url) as wire:
        odd = wire.tell("alpha", revoke_order("t1"), issued_at=issued_at, expires_at=issued_at + lives)
        wire.ping("alpha")
        assert alpha.worker.applied == []
        assert wire.replies_to(odd) == []
        assert alpha.listener.admission.dropped == {reason: 1}


def test_g14_a_sender_whose_clock_is_a_little_off_is_still_heard(redis_fleet: Fleet) -> None:
    (alpha,) = redis_fleet.start("alpha")
    with Wire(redis_fleet.url) as wire:
        just_expired = SYSTEM.utcnow() - timedelta(seconds=timeouts.COMMAND_CLOCK_TOLERANCE / 4)
        wire.reply(wire.tell("alpha", revoke_order("t1"), expires_at=just_expired))
        wire.reply(wire.tell("alpha", revoke_order("t2"), now=SYSTEM.utcnow() + timedelta(minutes=10)))
    assert alpha.worker.revoked == {"t1", "t2"}


def test_g14_a_command_that_expires_while_it_waits_for_its_turn_is_not_carried_out(redis_fleet: Fleet) -> None:
    # given a worker whose every thread for an application's commands is taken
    later, gate, started, late = [0.0], threading.Event(), threading.Semaphore(0), []

    def slow(view: WorkerView) -> None:
        started.release()
        gate.wait(10)

    alpha = redis_fleet.add(
        "alpha",
        commands={"slow": slow, "late": lambda view: late.append(1)},
        roster_now=lambda: SYSTEM.now() + later[0],
    )
    with Wire(redis_fleet.url) as wire:
        slow_ones = [wire.tell("alpha", Call("slow")) for _ in range(8)]
        for _ in slow_ones:
            assert started.acquire(timeout=10)
        # when a further one waits until it has expired
        too_late = wire.tell("alpha", Call("late"))
        wire.ping("alpha")
        later[0] = 60.0
        gate.set()
        # then it is dropped, and those that were begun in time are answered
        eventually(lambda: alpha.listener.admission.dropped == {"stale": 1})
        for command in slow_ones:
            wire.reply(command)
        assert (late, wire.replies_to(too_late)) == ([], [])
