"""How many threads a worker has."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker

#: The main thread among them.
MOST = 8


def test_an_idle_worker_has_at_most_eight_threads(app: Stem, make_worker: WorkerMaker) -> None:
    """It consumes, listens to commands and to Celery's monitors, replies, sends heartbeats, reads the revoke store, watches its
    children, and keeps what it holds at the embedded broker."""
    before = set(threading.enumerate())

    worker = make_worker()

    def own() -> list[str]:
        return [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("stem-")]

    assert worker.consumer.consuming
    eventually(lambda: {"stem-consumer", "stem-control", "stem-control-outbox", "stem-heartbeats"} <= set(own()))
    eventually(lambda: len(own()) + 1 <= MOST, 30)  # what connects, or looks what to warn of, ends


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_threads_for_leases_etas_and_records_begin_when_there_is_something_to_do(
    app: Stem, make_worker: WorkerMaker
) -> None:
    def names() -> set[str]:
        return {thread.name for thread in set(threading.enumerate()) - before}

    before = set(threading.enumerate())
    worker = make_worker()

    app.send_task("inline.add", [1], eta=SYSTEM.utcnow() + timedelta(hours=1))
    eventually(lambda: worker.holds.count == 1)
    eventually(lambda: {"stem-leases", "stem-holds"} <= names())
    assert "stem-records" not in names()

    app.send_task("inline.add", [1])
    eventually(lambda: worker.totals.snapshot()["succeeded"] == 1)
    assert "stem-records" in names()
