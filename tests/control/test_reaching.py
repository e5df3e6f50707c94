"""Broadcasts reach every worker, targeted commands their targets, and each answers once (G12)."""

from __future__ import annotations

from stem_kombu.backends.heartbeat import Liveness
from tests.control.fleet import Fleet
from tests.waiting import eventually


def test_g12_every_worker_answers_a_broadcast_exactly_once(fleet: Fleet) -> None:
    fleet.start("alpha", "bravo", "charlie")
    with fleet.client() as client:
        for _ in range(3):
            report = client.ping()
            assert report.complete
            assert [reply.worker for reply in report.replies] == ["alpha", "bravo", "charlie"]
            assert report.expected == ("alpha", "bravo", "charlie")
            assert report.elapsed < report.timeout


def test_g12_a_named_worker_obeys_alone(fleet: Fleet) -> None:
    fleet.start("alpha", "bravo", "charlie")
    with fleet.client() as client:
        report = client.revoke(["t1"], workers=["bravo"])
        assert report.complete
        assert report.expected == ("bravo",)
        client.ping()  # whoever was sent the command has handled it by the time it answers this
    assert {name: station.worker.revoked for name, station in fleet.stations.items()} == {
        "alpha": set(),
        "bravo": {"t1"},
        "charlie": set(),
    }


def test_g12_a_glob_reaches_whom_it_matches(fleet: Fleet) -> None:
    fleet.start("render-1", "render-2", "mail-1")
    with fleet.client() as client:
        report = client.revoke(["t1"], workers=["render-*"])
        assert report.complete
        assert [reply.worker for reply in report.replies] == ["render-1", "render-2"]
        client.ping()
    assert {name for name, station in fleet.stations.items() if station.worker.revoked} == {"render-1", "render-2"}


def test_g13_a_named_worker_that_nobody_has_is_not_waited_for(fleet: Fleet) -> None:
    fleet.start("alpha")
    with fleet.client(timeout=60.0) as client:
        for asked in (client.ping, client.inspect):
            report = asked(workers=["nobody"])
            assert (report.expected, report.silent, report.unknown) == (("nobody",), ("nobody",), ("nobody",))
            assert report.elapsed < 30
            assert report.notes == ()
        report = client.ping(workers=["alpha", "nobody"])
        assert [reply.worker for reply in report.replies] == ["alpha"]
        assert report.silent == ("nobody",)
        assert report.elapsed < 30


def test_g13_a_named_worker_that_died_long_ago_is_not_waited_for(fleet: Fleet) -> None:
    fleet.roster.beat(fleet.beat("dead", interval=0.001))
    eventually(
        lambda: (
            [b.liveness(v.now) for v in [fleet.roster.view(fleet.namespace)] for b in v.heartbeats] == [Liveness.DEAD]
        )
    )
    with fleet.client(timeout=60.0) as client:
        report = client.ping(workers=["dead"])
    assert report.silent == ("dead",)
    assert report.elapsed < 30


def test_g12_a_named_worker_that_is_not_on_the_roster_but_there_is_reached_through_its_inbox(fleet: Fleet) -> None:
    fleet.add("hidden", on_roster=False)
    with fleet.client(timeout=60.0) as client:
        report = client.ping(workers=["hidden"])
    assert report.complete
    assert report.elapsed < 30
