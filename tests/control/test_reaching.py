"""Broadcasts reach every worker, targeted commands their targets, and each answers once (G12)."""

from __future__ import annotations

from tests.control.fleet import Fleet


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
