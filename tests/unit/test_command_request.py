"""One command: which workers it waits for, and when each of its messages is made."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from stem_kombu import timeouts
from stem_kombu.backends.base import RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client import command_request
from stem_kombu.control.client.command_request import CommandRequest, RequestTimes
from stem_kombu.control.protocol.messages import Command, Ping

NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


class NoBroker:
    """A connection that sends nothing."""

    reply_to = "inbox"

    def __init__(self) -> None:
        self.said: list[bytes] = []

    def send_to(self, *_: Any, **__: Any) -> None: ...

    def broadcast(self, body: bytes, *_: Any, **__: Any) -> None:
        self.said.append(body)


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


def test_a_message_is_encoded_when_its_turn_comes_so_that_workers_are_at_the_first_meanwhile() -> None:
    encoded: list[int] = []

    def encode(command: Command, *_: object) -> bytes:
        encoded.append(command.part)
        return b"%d" % command.part

    orders = [Ping(), Ping(), Ping()]
    request = CommandRequest("ns", orders, None, RequestTimes(5.0, 0.0, 5.0, NOON), "me", clock=SYSTEM)
    connection: Any = NoBroker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_request, "encode_command", encode)
        request.begin(connection)
        assert (encoded, connection.said) == ([0], [b"0"])
        request.send_next(connection)
        request.send_next(connection)
    assert (encoded, connection.said, request.sent) == ([0, 1, 2], [b"0", b"1", b"2"], 3)
