"""Next attempts are dated by the store's clock where a worker's own is wrong (ADR 0007): another worker may run them."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from stem_kombu.agent.fleet_clock import FleetClock
from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM, SystemClock
from stem_kombu.outcome import TaskState
from stem_kombu.revocation_cache import RevocationCache
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker

HOUR = 3600.0


class Wrong(SystemClock):
    """A wall clock that is ``seconds`` ahead."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self) -> float:  # type: ignore[override]
        return SYSTEM.now() + self.seconds

    def utcnow(self) -> datetime:
        return SYSTEM.utcnow() + timedelta(seconds=self.seconds)


@pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)  # whose workers may be on several hosts
@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_next_attempt_is_due_by_the_stores_clock_for_whichever_worker_runs_it(
    app: Stem, make_worker: WorkerMaker, ahead: float
) -> None:
    wrong = make_worker("wrong", clock=Wrong(ahead))
    result = app.send_task("inline.retried_in", [30.0])
    eventually(lambda: result.state is TaskState.RETRYING)
    record = result.record
    assert record is not None
    assert record.retry_at is not None
    assert abs(record.retry_at - SYSTEM.utcnow()) < timedelta(minutes=5)
    wrong.stop(10.0)
    # One whose clock is right, and one that is as wrong as the first, run a next attempt that is due at once
    for name, clock in (("right", SYSTEM), ("again", Wrong(ahead))):
        worker = make_worker(name, clock=clock)
        assert app.send_task("inline.retried_in", [0.0]).get(timeout=60) == 2
        worker.stop(10.0)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_with_a_store_whose_clock_is_wrong_senders_etas_and_next_attempts_keep_their_time(
    app: Stem, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    worker = make_worker("right")
    worker.cache.set_store_time(SYSTEM.utcnow() + timedelta(seconds=ahead))
    later, now = app.send_task("inline.add", [1], countdown=HOUR / 2), app.send_task("inline.add", [2], countdown=0.01)
    assert now.get(timeout=60) == 2
    assert app.send_task("inline.retried_in", [0.0]).get(timeout=60) == 2
    waits = app.send_task("inline.retried_in", [HOUR / 2])
    eventually(lambda: waits.state is TaskState.RETRYING)
    assert later.state is TaskState.QUEUED


@pytest.mark.parametrize("seconds", [0.0, 1.5, -1.5, 2.5, -2.5, HOUR, -HOUR])
def test_a_host_whose_clock_is_right_within_two_seconds_goes_by_its_own(seconds: float) -> None:
    host, cache = Wrong(seconds), RevocationCache("ns", clock=SYSTEM)
    clock = FleetClock(host, cache)
    assert abs(clock.utcnow() - host.utcnow()) < timedelta(seconds=0.5)
    cache.set_store_time(SYSTEM.utcnow())
    off = (clock.utcnow() - SYSTEM.utcnow()) / timedelta(seconds=1)
    assert abs(off - (seconds if abs(seconds) < 2 else 0.0)) < 0.5


def test_a_host_that_was_suspended_or_set_reads_the_stores_clock_at_its_next_look(
    app: Stem, make_worker: WorkerMaker
) -> None:
    host = Wrong(0.0)
    worker = make_worker("set", clock=host)
    eventually(lambda: worker.hydration.facts().clock_ahead is not None)
    host.seconds = HOUR
    eventually(lambda: (worker.hydration.facts().clock_ahead or 0.0) < -HOUR / 2)
