"""Leases that last long, renewed by threads that last as long as a renewal (G19)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stem_kombu.agent.leases import Leases
from stem_kombu.clock import SystemClock
from stem_kombu.errors import BrokerUnavailable


class Clock(SystemClock):
    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time


@dataclass(frozen=True)
class Message:
    token: str
    handle: str
    lease_lost: bool = False


class Messages:
    def __init__(self) -> None:
        self.held = [Message("a", "handle-a"), Message("b", "handle-b")]

    def all(self) -> Sequence[Message]:
        return list(self.held)

    def get(self, token: Any) -> Message | None:
        return next((one for one in self.held if one.token == token), None)


class Leasing:
    """A broker that can be away, and where the lease of ``b`` is lost."""

    lifetime = 3600.0

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.down = False
        self.closed = 0

    def renew(self, handles: Sequence[Any], seconds: float | None = None) -> list[bool]:
        self.asked.append(list(handles))
        if self.down:
            raise BrokerUnavailable("away")
        return [handle != "handle-b" for handle in handles]

    def close(self) -> None:
        self.closed += 1


def ended(leases: Leases[Message]) -> None:
    for thread in threading.enumerate():
        if thread.name == "stem-leases":
            thread.join(20)
            assert not thread.is_alive()


def test_g19_they_are_renewed_when_that_is_due_and_no_thread_stays() -> None:
    clock, leasing, lost = Clock(), Leasing(), []
    leases: Leases[Message] = Leases(leasing, Messages(), lost=lost.append, clock=clock)
    for _ in range(3):
        leases.renew_when_due()
    assert leasing.asked == []
    clock.time += 1200.0
    leases.renew_when_due()
    ended(leases)
    assert leasing.asked == [["handle-a", "handle-b"]] and [one.token for one in lost] == ["b"]
    clock.time += 1199.0
    leases.renew_when_due()
    ended(leases)
    assert len(leasing.asked) == 1
    clock.time += 1.0
    leases.renew_when_due()
    ended(leases)
    assert len(leasing.asked) == 2


def test_g19_a_renewal_that_fails_is_tried_until_it_is_done_or_stopped() -> None:
    clock, leasing = Clock(), Leasing()
    leases: Leases[Message] = Leases(leasing, Messages(), lost=lambda _: None, clock=clock)
    leases.renew_when_due()
    leasing.down = True
    clock.time += 1200.0
    leases.renew_when_due()
    while len(leasing.asked) < 2:
        threading.Event().wait(0.01)
    leases.renew_when_due()  # one is at it already
    leasing.down = False
    ended(leases)
    done = len(leasing.asked)
    leasing.down = True
    clock.time += 1200.0
    leases.renew_when_due()
    leases.stop()
    ended(leases)
    assert leasing.closed == 1 and done >= 3
