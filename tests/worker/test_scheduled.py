"""A revocation means the same for a scheduled task on every broker: it is cancelled while a worker is up (G3)."""

from __future__ import annotations

import pytest

from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.outcome import TaskState
from stem_kombu.testing.gates import Gate
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker


def test_g3_a_scheduled_task_is_cancelled_at_once_though_its_revocation_ends_before_it_is_due(
    app: Stem, make_worker: WorkerMaker, control: ControlClient
) -> None:
    worker = make_worker()
    kept = [app.send_task("inline.add", [1], countdown=3600) for _ in range(3)]
    stopped = [app.send_task("inline.add", [1], countdown=3600) for _ in range(3)]
    ids = [result.id for result in stopped]
    report = control.revoke(ids, reason="not these", expires_in=60.0)
    assert report.complete
    records = [result.wait(timeout=60) for result in stopped]
    assert [record.state for record in records if record is not None] == [TaskState.CANCELLED] * 3
    assert [record.revocation.reason for record in records if record and record.revocation] == ["not these"] * 3
    # One that is scheduled while its revocation holds
    again = app.send_task("inline.add", [1], countdown=3600, task_id="late")
    control.revoke(["late", "later"], expires_in=60.0)
    later = app.send_task("inline.add", [1], countdown=3600, task_id="later")
    for result in (again, later):
        record = result.wait(timeout=60)
        assert record is not None
        assert record.state is TaskState.CANCELLED
    assert all(result.state is TaskState.QUEUED for result in kept)
    eventually(lambda: worker.inflight.running_count == 0)


def test_g3_it_is_cancelled_while_every_slot_is_busy_and_by_a_worker_that_starts_later(
    app: Stem, make_worker: WorkerMaker, control: ControlClient, gate: Gate
) -> None:
    make_worker(concurrency=1, inline_slots=1)
    running = app.send_task("inline.gated", [gate.path])
    gate.wait_reached()
    scheduled = app.send_task("inline.add", [1], countdown=3600)
    control.revoke([scheduled.id], expires_in=60.0)
    record = scheduled.wait(timeout=60)
    assert record is not None
    assert record.state is TaskState.CANCELLED
    gate.open()
    assert running.get(timeout=60) == "opened"


def test_g3_what_was_revoked_while_no_worker_was_up_is_cancelled_by_the_first(
    app: Stem, make_worker: WorkerMaker, control: ControlClient
) -> None:
    scheduled = app.send_task("inline.add", [1], countdown=3600)
    control.revoke([scheduled.id], expires_in=600.0, timeout=0.2)
    make_worker()
    record = scheduled.wait(timeout=60)
    assert record is not None
    assert record.state is TaskState.CANCELLED


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_a_scheduled_task_that_nobody_revoked_stays_at_the_embedded_broker_until_it_is_due(
    app: Stem, make_worker: WorkerMaker, control: ControlClient
) -> None:
    worker = make_worker()
    results = [app.send_task("inline.add", [n], countdown=1.0) for n in range(3)]
    control.revoke(["another"], expires_in=60.0)
    assert worker.inflight.waiting_count == 0
    assert [result.get(timeout=60) for result in results] == [0, 1, 2]
