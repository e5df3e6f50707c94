"""One command in many messages: it reaches everyone whole, whoever is silent, and others are heard in between."""

from __future__ import annotations

import threading

import pytest

from stem_kombu.control.client.command_request import CHUNK
from stem_kombu.control.client.command_sender import WINDOW
from stem_kombu.revocation_cache import Applied
from tests.control.fleet import Fleet
from tests.control.wire import Wire

IDS = [f"t{n}" for n in range(CHUNK * (WINDOW + 4))]


def test_g12_revocations_in_many_messages_are_answered_as_one(fleet: Fleet) -> None:
    alpha, bravo = fleet.start("alpha", "bravo")
    sent: list[tuple[int, int]] = []
    with fleet.client(timeout=20.0) as client:
        report = client.revoke(IDS, progress=lambda n, of: sent.append((n, of)))
    assert report.complete
    assert report.broadcast
    for reply in report.replies:
        assert sorted(reply.payload["applied"]) == sorted(IDS)
    for station in (alpha, bravo):
        assert [task_id for part in station.worker.applied for task_id in part] == IDS
    assert sent == [(n, WINDOW + 4) for n in range(1, WINDOW + 5)]


def test_g13_a_silent_worker_keeps_no_revocation_from_the_others(fleet: Fleet) -> None:
    (alpha,) = fleet.start("alpha")
    fleet.add("mute", start=False)  # on the roster, and never answers
    with fleet.client(timeout=2.0) as client:
        report = client.revoke(IDS)
    assert report.silent == ("mute",)
    assert alpha.worker.revoked == set(IDS)


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_g16_a_worker_that_is_slow_to_take_many_revocations_answers_a_ping_in_between(fleet: Fleet, wire: Wire) -> None:
    # given a worker that takes the first message of many only when the test lets it
    (alpha,) = fleet.start("alpha")
    taking, go_on, taken = threading.Event(), threading.Event(), alpha.worker.apply

    def slow(revocations):  # type: ignore[no-untyped-def]
        taking.set()
        assert go_on.wait(20)
        applied: Applied = taken(revocations)
        return applied

    alpha.worker.apply = slow  # type: ignore[method-assign]
    reports = []
    with fleet.client(timeout=20.0) as client:
        operator = threading.Thread(target=lambda: reports.append(client.revoke(IDS)))
        operator.start()
        assert taking.wait(20)
        # then it is pinged, and all of it arrives in the end
        assert wire.ping("alpha").payload["state"] == "running"
        go_on.set()
        operator.join()
    assert reports[0].complete
    assert alpha.worker.revoked == set(IDS)
