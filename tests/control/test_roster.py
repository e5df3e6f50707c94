"""A command has one deadline, however slow the roster is (G13)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from stem_kombu.backends.base import RosterView
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.roster import RosterReader
from stem_kombu.errors import StoreUnavailable
from stem_kombu.settings import Settings
from stem_kombu.testing.proxy import TcpProxy
from tests.control.fleet import Fleet, answered_by
from tests.servers.redis import RedisServer

A_DAY_AGO = datetime.now(timezone.utc) - timedelta(days=1)


class Roster:
    """A roster of a day ago that answers when it is let, or fails."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.failure: StoreUnavailable | None = None

    def look(self) -> RosterView:
        assert self.answers.wait(30)
        if self.failure is not None:
            raise self.failure
        return RosterView((), A_DAY_AGO)


def test_g13_a_roster_that_does_not_answer_is_not_waited_for() -> None:
    roster, notes = Roster(), list[str]()
    lookout = RosterReader(roster.look, SYSTEM)
    roster.answers.clear()
    assert lookout.view(0.0, notes) is None
    assert [note.rpartition(": ")[2] for note in notes] == ["the roster does not answer"]
    roster.answers.set()
    assert lookout.view(30.0, notes) == RosterView((), A_DAY_AGO)
    lookout.close()


def test_a_roster_that_fails_is_told_of_in_a_note() -> None:
    roster, notes = Roster(), list[str]()
    roster.failure = StoreUnavailable("gone fishing")
    lookout = RosterReader(roster.look, SYSTEM)
    assert lookout.view(30.0, notes) is None
    assert [note.rpartition(": ")[2] for note in notes] == ["gone fishing"]
    lookout.close()


def test_g16_workers_answer_while_the_roster_hangs(
    redis_fleet: Fleet, redis_url: str, redis_server: RedisServer, proxy_for: Callable[[str, int], TcpProxy]
) -> None:
    proxy = proxy_for("127.0.0.1", redis_server.port)
    behind = redis_url.replace(f":{redis_server.port}", f":{proxy.port}")
    redis_fleet.start("alpha")
    # given a client that has read the roster over a connection on which nothing comes any more
    settings = Settings.from_env({}, broker=redis_url, backend=behind, revoke_store="memory://", timeout=4.0)
    with ControlClient(settings) as client:
        assert client.ping(timeout=30).notes == ()
        proxy.stall()
        # then it asks everyone all the same, and says what it could not know
        report = answered_by(client, "alpha")
        assert [note[:24] for note in report.notes] == ["live workers are unknown"]
        proxy.resume()


def test_g37_entries_that_can_not_be_read_are_named_in_every_report() -> None:
    aside = tuple(f"w{number}" for number in range(12))
    lookout = RosterReader(lambda: RosterView((), SYSTEM.utcnow(), len(aside), aside), SYSTEM)
    notes: list[str] = []
    try:
        assert lookout.view(30.0, notes) is not None
    finally:
        lookout.close()

    assert notes == [f"12 roster entries can't be read and are set aside: {', '.join(aside[:10])}, …"]
