"""One command: which workers it waits for."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from stem_kombu import timeouts
from stem_kombu.backends.base import RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.command_request import CommandRequest, RequestTimes
from stem_kombu.control.protocol.messages import Ping

NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


class NoBroker:
    """A connection that sends nothing."""

    reply_to = "inbox"

    def send_to(self, *_: Any, **__: Any) -> None: ...

    def broadcast(self, *_: Any, **__: Any) -> None: ...


def view(*workers: str) -> RosterView:
    beats = (Heartbeat("ns", worker, "boot", "inbox", 60.0, "host", 1, "0.1.0", timestamp=NOON) for worker in workers)
    return RosterView(tuple(beats), NOON)


def test_g13_a_worker_that_came_later_is_waited_for_although_it_has_left_the_roster_again() -> None:
    request = CommandRequest("ns", [Ping()], None, RequestTimes(5.0, 0.0, 5.0, NOON), "me", clock=SYSTEM)
    connection: Any = NoBroker()
    request.expect(view())
    request.begin(connection)
    assert request.greet_newcomers(connection, view("beta"))
    request.expect(view())
    assert request.collector.silent == {"beta"}
    assert not request.waits_for_the_absent(timeouts.ABSENT_ANSWER)
