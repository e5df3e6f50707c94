"""Failures that are tried again: pauses and lines for a server."""

from __future__ import annotations

import logging

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.transports import outages
from stem_kombu.transports.outages import Outage, server_of

REFUSED = ConnectionRefusedError("[Errno 111] Connection refused")


class Dial:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.now, self.utcnow, self.sleep = SYSTEM.now, SYSTEM.utcnow, SYSTEM.sleep

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Dial:
    monkeypatch.setattr(outages, "_servers", {})
    return Dial()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def test_ten_seconds_of_refused_connections_cost_a_dozen_tries_and_one_line(
    clock: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    several = [Outage(f"thing {n}", "redis://host:6379/0", clock) for n in range(5)]
    due, tries = dict.fromkeys(several, clock.time), 0
    while clock.time < 1010.0:
        for one in several:
            if clock.time < due[one]:
                continue
            if (wait := one.turn()) == 0.0:
                tries += 1
                wait = one.failed(REFUSED)
            due[one] = clock.time + wait
        clock.time += 0.01
    assert 5 <= tries <= 20
    assert lines(caplog) == [f"thing 0: {REFUSED}; trying again"]
    several[0].reached()
    assert [one.turn() for one in several] == [0.0] * 5  # as soon as one has reached it, all may
    for one in several:
        one.worked()
    assert lines(caplog)[1:] == [f"host:6379 works again, after {tries} failures in 10.0 s"]


def test_the_same_line_is_written_once_a_minute_with_a_count(clock: Dial, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("queues are not consumed", "amqp://guest:***@host:5672//", clock)
    for _ in range(130):
        outage.failed("(403) ACCESS_REFUSED")
        clock.time += 1.0
    assert len(lines(caplog)) == 3
    assert lines(caplog)[1].endswith("(60 failures since the last line about host:5672)")


def test_another_reason_is_news_after_a_while(clock: Dial, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("control is interrupted", "amqp://host:5672//", clock)
    outage.failed("connection was closed")
    clock.time += 5.0
    outage.failed(REFUSED)
    assert len(lines(caplog)) == 1
    clock.time += 10.0
    outage.failed(REFUSED)
    assert len(lines(caplog)) == 2


def test_pauses_grow_until_something_works_and_a_refusal_closes_no_server(clock: Dial) -> None:
    outage, other = (Outage(what, "redis://host:6379/0", clock) for what in ("one", "other"))
    waits = [outage.failed("OOM command not allowed") for _ in range(12)]
    assert waits[0] <= 0.1 and 2.5 <= waits[-1] <= 5.0
    assert outage.turn() == other.turn() == 0.0
    outage.worked()
    assert outage.trouble is None and outage.failed("OOM command not allowed") <= 0.1


def test_servers_are_told_apart_by_host_and_port() -> None:
    assert server_of("redis://:***@a:1/0") == server_of("amqp://guest:***@a:1//") == "a:1"
    assert server_of("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
