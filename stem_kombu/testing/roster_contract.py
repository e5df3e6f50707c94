"""What every roster promises, as tests: derive from :class:`RosterContract` and say where the roster is.

As :mod:`stem_kombu.testing.backend_contract`, for :class:`stem_kombu.backends.base.Roster`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from stem_kombu.backends.base import Roster
from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.backends.registry import open_roster
from stem_kombu.clock import SYSTEM
from stem_kombu.testing.parallel import PATIENCE, in_processes


class RosterContract:
    """The promises of :class:`stem_kombu.backends.base.Roster`."""

    #: False for a roster that other processes don't see; what needs them is skipped.
    shared_between_processes = True

    @pytest.fixture
    def url(self) -> str:
        """Where an empty roster is. Override it."""
        raise NotImplementedError("override the fixture url: it gives the URL of an empty roster")

    @pytest.fixture
    def open_another_roster(self, url: str) -> Iterator[Callable[[], Roster]]:
        """Opens one more roster at the URL, closed at the end of the test."""
        opened: list[Roster] = []

        def open_another() -> Roster:
            opened.append(open_roster(url))
            return opened[-1]

        yield open_another
        for roster in opened:
            roster.close()

    @pytest.fixture
    def roster(self, open_another_roster: Callable[[], Roster]) -> Roster:
        return open_another_roster()

    # Beats.

    def test_nobody_is_there_at_first(self, roster: Roster) -> None:
        view = roster.view("stem")

        assert view.heartbeats == ()
        assert view.now.utcoffset() == timedelta(0)

    def test_a_beat_is_seen_by_others_with_all_it_says_and_the_rosters_time(
        self, roster: Roster, open_another_roster: Callable[[], Roster]
    ) -> None:
        beat = heartbeat("wörker-1", state="draining", in_flight=3, rss_bytes=2**40, totals={"received": 7, "ünï": 0})

        now = roster.beat(beat)

        view = open_another_roster().view("stem")
        assert view.heartbeats == (replace(beat, timestamp=now),)
        assert view.now >= now
        assert now.utcoffset() == timedelta(0)
        assert view.heartbeats[0].liveness(view.now) is Liveness.DRAINING
        assert view.unreadable == 0

    def test_the_rosters_clock_never_follows_the_workers(self, roster: Roster) -> None:
        now = roster.beat(replace(heartbeat("w"), timestamp=SYSTEM.utcnow() + timedelta(days=400)))

        assert roster.view("stem").heartbeats[0].timestamp == now
        assert abs((now - SYSTEM.utcnow()).total_seconds()) < 3600

    def test_a_later_beat_replaces_the_one_before(self, roster: Roster) -> None:
        first = roster.beat(heartbeat("w", in_flight=1))
        second = roster.beat(heartbeat("w", in_flight=2))

        assert first <= second
        assert [(beat.in_flight, beat.timestamp) for beat in roster.view("stem").heartbeats] == [(2, second)]

    def test_namespaces_do_not_meet(self, roster: Roster) -> None:
        roster.beat(heartbeat("w", namespace="shop"))
        roster.beat(heartbeat("w", namespace="stem"))
        roster.leave("shop", "w", "boot-w")

        assert roster.view("shop").heartbeats == ()
        assert workers(roster) == ["w"]

    def test_the_view_is_sorted_by_worker_id(self, roster: Roster) -> None:
        ids = ["b", "a", "B", "ä", "a-2", "a-10", "_", "é@host.example-1", "🦆"]

        for worker in ids:
            roster.beat(heartbeat(worker))

        assert workers(roster) == sorted(ids)

    def test_a_thousand_workers_are_seen_at_once(self, roster: Roster) -> None:
        ids = [f"worker-{number:04}" for number in range(1000)]

        for worker in random.Random(3).sample(ids, len(ids)):
            roster.beat(heartbeat(worker))

        assert workers(roster) == ids

    # Leaving.

    def test_a_worker_that_leaves_is_gone_at_once(self, roster: Roster) -> None:
        roster.beat(heartbeat("w"))
        roster.beat(heartbeat("other"))

        roster.leave("stem", "w", "boot-w")

        assert workers(roster) == ["other"]

    def test_a_worker_cannot_make_its_successor_leave(self, roster: Roster) -> None:
        roster.beat(heartbeat("w", boot="old"))
        roster.beat(heartbeat("w", boot="new"))

        roster.leave("stem", "w", "old")

        assert [beat.boot for beat in roster.view("stem").heartbeats] == ["new"]

    def test_to_leave_where_one_never_was_is_harmless(self, roster: Roster) -> None:
        roster.leave("stem", "nobody", "boot")

        assert workers(roster) == []

    # Claiming an id.

    def test_an_id_that_nobody_has_is_given(self, roster: Roster) -> None:
        assert roster.claim(heartbeat("w")) is None

        assert workers(roster) == ["w"]

    @pytest.mark.parametrize("state", ["running", "draining"])
    def test_an_id_that_a_live_worker_has_is_refused_and_its_holder_told(self, roster: Roster, state: str) -> None:
        now = roster.beat(heartbeat("w", boot="first", state=state))

        assert roster.claim(heartbeat("w", boot="second")) == replace(
            heartbeat("w", boot="first", state=state), timestamp=now
        )
        assert [beat.boot for beat in roster.view("stem").heartbeats] == ["first"]

    def test_a_worker_may_claim_its_own_id_again(self, roster: Roster) -> None:
        roster.claim(heartbeat("w"))

        assert roster.claim(heartbeat("w", in_flight=1)) is None
        assert roster.view("stem").heartbeats[0].in_flight == 1

    def test_the_id_of_a_worker_gone_stale_or_left_is_given(self, roster: Roster) -> None:
        roster.beat(heartbeat("stale", boot="first", interval=0.01))
        roster.beat(heartbeat("left", boot="first"))
        roster.leave("stem", "left", "first")

        assert roster.claim(heartbeat("left", boot="second")) is None
        _eventually(lambda: roster.claim(heartbeat("stale", boot="second")) is None)
        assert {beat.boot for beat in roster.view("stem").heartbeats} == {"second"}

    def test_of_many_processes_that_claim_one_id_exactly_one_gets_it(self, roster: Roster, url: str) -> None:
        if not self.shared_between_processes:
            pytest.skip("other processes do not see this roster")

        holders = in_processes(20, _claim, url)

        winner = [place for place, holder in enumerate(holders) if holder is None]
        assert len(winner) == 1
        assert {holder for holder in holders if holder is not None} == {f"boot-{winner[0]}"}
        assert [beat.boot for beat in roster.view("stem").heartbeats] == [f"boot-{winner[0]}"]

    def test_of_threads_that_claim_one_id_exactly_one_gets_it(self, roster: Roster) -> None:
        holders: list[Heartbeat | None] = []
        gate = threading.Barrier(6)

        def claim(place: int) -> None:
            gate.wait(PATIENCE)
            holders.append(roster.claim(heartbeat("w", boot=f"boot-{place}")))

        threads = [threading.Thread(target=claim, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert len(holders) == 6
        assert holders.count(None) == 1

    def test_the_id_of_a_worker_known_to_be_dead_is_given_while_its_entry_is_as_it_was_seen(
        self, roster: Roster
    ) -> None:
        roster.beat(heartbeat("w", boot="first"))
        (seen,) = roster.view("stem").heartbeats
        roster.beat(heartbeat("w", boot="first"))
        (renewed,) = roster.view("stem").heartbeats

        now, holder = roster.offer(heartbeat("w", boot="second"), dead=seen)
        assert holder == renewed, "it has beaten since"
        assert now >= (renewed.timestamp or now)
        assert roster.offer(heartbeat("w", boot="second"), dead=replace(renewed, boot="other"))[1] == renewed

        now, holder = roster.offer(heartbeat("w", boot="second"), dead=renewed)
        assert holder is None
        (held,) = roster.view("stem").heartbeats
        assert (held.boot, held.timestamp) == ("second", now)

    def test_of_threads_that_succeed_one_dead_worker_exactly_one_gets_its_id(self, roster: Roster) -> None:
        roster.beat(heartbeat("w", boot="dead"))
        (dead,) = roster.view("stem").heartbeats
        holders: list[Heartbeat | None] = []
        gate = threading.Barrier(6)

        def succeed(place: int) -> None:
            gate.wait(PATIENCE)
            holders.append(roster.offer(heartbeat("w", boot=f"boot-{place}"), dead=dead)[1])

        threads = [threading.Thread(target=succeed, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert len(holders) == 6
        assert holders.count(None) == 1

    # Connections.

    def test_it_answers_a_ping_and_can_be_used_after_close(self, roster: Roster) -> None:
        roster.ping()
        roster.beat(heartbeat("w"))
        roster.close()
        roster.close()

        assert workers(roster) == ["w"]
        roster.ping()


def heartbeat(worker: str, **fields: Any) -> Heartbeat:
    given: dict[str, Any] = {
        "namespace": "stem",
        "boot": f"boot-{worker}",
        "inbox": f"stem.inbox.{worker}",
        "interval": 10.0,
        "hostname": "höst-1",
        "pid": 4711,
        "version": "1.0",
        "concurrency": 4,
        "queues": ("default", "prïority"),
        "load_avg": 0.25,
        "uptime": 12.5,
        "totals": {"received": 3},
        **fields,
    }
    return Heartbeat(worker=worker, **given)


def workers(roster: Roster, namespace: str = "stem") -> list[str]:
    return [beat.worker for beat in roster.view(namespace).heartbeats]


def _eventually(condition: Callable[[], object]) -> None:
    deadline = SYSTEM.monotonic() + PATIENCE
    while not condition():
        assert SYSTEM.monotonic() < deadline, "it did not happen in time"
        SYSTEM.sleep(0.005)


def _claim(place: int, url: str) -> str | None:
    roster = open_roster(url)
    holder = roster.claim(heartbeat("w", boot=f"boot-{place}"))
    roster.close()
    return None if holder is None else holder.boot
