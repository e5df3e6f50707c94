"""A worker as a whole, on each broker: what it runs, stops, honours and gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from stem_kombu import timeouts
from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.protocol.messages import Revoke
from stem_kombu.control.server.handlers.revoke import settled, take
from stem_kombu.errors import ConfigurationError, TaskFailed
from stem_kombu.outcome import TaskState
from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.base import RevokeStore
from stem_kombu.testing.gates import Gate
from stem_kombu.worker import task_log
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.delivery_events import Facts
from stem_kombu.worker.delivery_facts import DeliveryFacts
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker


def test_tasks_run_and_their_results_come_back(worker: Worker, app: Stem, mode: str) -> None:
    assert app.send_task(f"{mode}.add", [1], {"b": 2}).get(timeout=30) == 3
    eventually(lambda: len(worker.inflight) == 0)
    assert worker.totals.snapshot()["succeeded"] == 1


@pytest.mark.parametrize("name", ["inline.gated", "isolate.gated", "inline.waits", "isolate.waits"])
def test_g7_g9_a_terminate_stops_what_runs_and_is_recorded_with_when_why_and_by_whom(
    worker: Worker, app: Stem, control: ControlClient, gate: Gate, name: str
) -> None:
    result = app.send_task(name, [gate.path])
    gate.wait_reached()
    eventually(lambda: worker.inflight.running_count == 1)
    report = control.revoke([result.id], terminate=True, reason="wrong data", requested_by="ada@ops")
    (reply,) = report.replies
    assert reply.payload["terminated"] == [result.id]
    # The reply waits for the record: whoever reads it next finds the task cancelled.
    record = result.record
    assert record is not None and record.revocation is not None
    assert record.state is TaskState.CANCELLED
    assert (record.revocation.reason, record.revocation.requested_by) == ("wrong data", "ada@ops")
    assert record.ended_at is not None and record.started_at is not None
    assert gate.reached("finally") is not None
    eventually(lambda: len(worker.inflight) == 0)
    assert worker.totals.snapshot() == {**worker.totals.snapshot(), "cancelled": 1, "failed": 0, "retried": 0}


def test_g9_whoever_revoked_hears_what_was_stopped_though_a_sync_was_quicker_than_the_broadcast(
    worker: Worker, app: Stem, store: RevokeStore, gate: Gate
) -> None:
    result = app.send_task("isolate.gated", [gate.path])
    gate.wait_reached()
    eventually(lambda: worker.inflight.running_count == 1)

    def revoked() -> Mapping[str, Any]:
        stored = store.save(app.settings.namespace, [RevocationDraft(result.id, True)])
        assert worker.hydration.sync()
        eventually(lambda: len(worker.inflight) == 0)
        return settled(take(Revoke(tuple(stored), 1.0), worker.view), worker.view, 1.0)

    # when the worker's look into the store falls between the client's save and its broadcast
    answer = revoked()
    assert (answer["in_flight"], answer["terminated"]) == ([result.id], [result.id])
    # then a later revoke of the same task is told that nothing ran
    later = revoked()
    assert (later["in_flight"], later["terminated"]) == ([], [])


def test_g7_a_handler_without_checkpoints_finishes_and_the_reply_says_that_it_is_pending(
    worker: Worker, app: Stem, control: ControlClient, gate: Gate, mode: str
) -> None:
    result = app.send_task(f"{mode}.deaf", [gate.path])
    gate.wait_reached()
    eventually(lambda: worker.inflight.running_count == 1)
    # The reply waits for the task during half of the timeout. On a busy machine it may then be late, so it is asked for again.
    (reply,) = eventually(lambda: control.revoke([result.id], terminate=True, timeout=3.0).replies, 60)
    assert (reply.payload["pending"], reply.payload["terminated"]) == ([result.id], [])
    (task,) = control.inspect().replies[0].payload["in_flight"]
    assert task["terminate_requested_s_ago"] is not None
    gate.open()
    assert result.get(timeout=30) == "finished"


def test_g7_a_terminate_that_comes_while_a_start_is_decided_about_stops_it(
    make_worker: WorkerMaker, app: Stem, control: ControlClient, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.configure(replace(app.settings, sync_interval=600.0))  # a sync would stop it as well, if later
    make_worker()
    look, reports = DeliveryFacts.of_started, list[Any]()

    def slowly(facts: DeliveryFacts, delivery: Delivery) -> Facts:
        found = look(facts, delivery)
        if delivery.task_id == "late":
            reports.append(control.revoke(["late"], terminate=True, timeout=2.0))
        return found

    monkeypatch.setattr(DeliveryFacts, "of_started", slowly)
    result = app.send_task("inline.gated", [gate.path], task_id="late")
    eventually(lambda: result.record is not None and result.record.state is TaskState.CANCELLED, 60)
    assert len(reports) == 1


def test_g3_a_revoked_task_never_starts_wherever_and_however_often_it_is_delivered(
    worker: Worker, app: Stem, control: ControlClient, gate: Gate, mode: str
) -> None:
    control.revoke(["doomed"], reason="not this one")
    for _ in range(3):
        app.send_task(f"{mode}.gated", [gate.path], task_id="doomed")
    follower = app.send_task("inline.add", [1])
    follower.get(timeout=30)
    eventually(lambda: worker.totals.snapshot()["cancelled"] == 3)
    record = app.result("doomed").record
    assert record is not None and record.state is TaskState.CANCELLED and record.started_at is None
    assert gate.reached() is None


def test_a_worker_that_stops_logs_how_many_tasks_were_cancelled_without_a_line(
    worker: Worker,
    app: Stem,
    control: ControlClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(timeouts, "TASK_LOG_SPAN", 3600.0)  # nothing else is to log the count
    caplog.set_level("INFO", task_log.__name__)
    control.revoke([f"doomed-{n}" for n in range(task_log.MOST_LINES + 5)])
    for n in range(task_log.MOST_LINES + 5):
        app.send_task("inline.add", [1], task_id=f"doomed-{n}")
    eventually(lambda: worker.totals.snapshot()["cancelled"] == task_log.MOST_LINES + 5)
    worker.stop(30.0)
    assert "5 more tasks cancelled" in caplog.text


def test_g3_a_task_that_was_revoked_while_it_ran_is_not_retried(
    worker: Worker, app: Stem, control: ControlClient, gate: Gate, mode: str
) -> None:
    result = app.send_task(f"{mode}.fails_when_open", [gate.path], max_retries=5)
    gate.wait_reached("attempt-1")
    control.revoke([result.id])
    gate.open()
    record = result.wait(timeout=30)
    assert record is not None and record.state is TaskState.CANCELLED
    assert gate.reached("attempt-2") is None
    assert worker.totals.snapshot()["retried"] == 0


def test_g2_a_worker_that_starts_later_honours_what_was_revoked_before(
    app: Stem, control: ControlClient, make_worker: WorkerMaker, gate: Gate
) -> None:
    result = app.send_task("isolate.gated", [gate.path])
    control.revoke([result.id], timeout=0.2)
    late = make_worker()
    record = result.wait(timeout=30)
    assert record is not None and record.state is TaskState.CANCELLED
    assert gate.reached() is None
    assert late.totals.snapshot()["started"] == 0


def test_g2_a_revocation_whose_broadcast_was_lost_is_found_at_the_next_sync(
    worker: Worker, app: Stem, store: RevokeStore, gate: Gate, mode: str
) -> None:
    result = app.send_task(f"{mode}.gated", [gate.path])
    gate.wait_reached()
    store.save(app.settings.namespace, [RevocationDraft(result.id, terminate=True)])  # nothing is broadcast
    record = result.wait(timeout=30)
    assert record is not None and record.state is TaskState.CANCELLED


def test_a_failing_task_is_tried_again_until_its_retries_are_used_up(
    worker: Worker, app: Stem, gate: Gate, mode: str
) -> None:
    result = app.send_task(f"{mode}.fails", [gate.path], max_retries=2)
    with pytest.raises(TaskFailed, match="attempt 3"):
        result.get(timeout=30)
    assert all(gate.reached(f"attempt-{attempt}") for attempt in (1, 2, 3))
    assert gate.reached("attempt-4") is None
    record = result.record
    assert record is not None and record.attempt == 3


def test_g20_stopping_waits_for_what_runs_and_sends_back_what_waits(
    app: Stem, make_worker: WorkerMaker, gate: Gate, mode: str
) -> None:
    first = make_worker(concurrency=1, inline_slots=1)
    running = app.send_task(f"{mode}.deaf", [gate.path])
    gate.wait_reached()
    later = app.send_task("inline.add", [1], countdown=3600)
    if first.transport == "redis":  # the others keep it until it is due
        eventually(lambda: first.inflight.waiting_count == 1)
    gate.open()
    first.stop()
    assert running.get(timeout=30) == "finished"
    assert later.state is TaskState.QUEUED
    assert len(first.inflight) == 0


def test_g20_what_still_runs_when_the_time_is_up_goes_back_and_runs_elsewhere_and_is_never_cancelled(
    app: Stem, make_worker: WorkerMaker, gate: Gate, mode: str
) -> None:
    first = make_worker("first", concurrency=1)
    result = app.send_task(f"{mode}.gated", [gate.path])
    gate.wait_reached()
    eventually(lambda: first.inflight.running_count == 1)
    first.stop(0.0)
    assert result.state is TaskState.RUNNING
    gate.open()
    make_worker("second", concurrency=1)
    assert result.get(timeout=60) == "opened"
    record = result.record
    assert record is not None and record.worker == "second"


def test_a_task_with_an_eta_waits_for_it_and_takes_no_slot(worker: Worker, app: Stem) -> None:
    sent = SYSTEM.utcnow()
    later = app.send_task("inline.add", [1], countdown=1.0)
    assert app.send_task("inline.add", [2]).get(timeout=30) == 2
    assert later.get(timeout=30) == 1
    record = later.record
    assert record is not None and record.started_at is not None
    assert (record.started_at - sent).total_seconds() >= 1.0


def test_g3_a_task_that_waits_for_its_eta_is_cancelled_when_it_is_revoked_if_this_worker_holds_it(
    worker: Worker, app: Stem, control: ControlClient
) -> None:
    result = app.send_task("inline.add", [1], countdown=2.0)
    control.revoke([result.id])
    record = result.wait(timeout=30)
    assert record is not None and record.state is TaskState.CANCELLED and record.started_at is None


def test_an_expired_message_does_not_start(worker: Worker, app: Stem, gate: Gate) -> None:
    result = app.send_task("inline.gated", [gate.path], expires=0.0)
    record = result.wait(timeout=30)
    assert record is not None and record.error is not None
    assert (record.state, record.error.type) == (TaskState.CANCELLED, "Expired")
    assert gate.reached() is None


@pytest.mark.parametrize(
    ("name", "error"), [("nobody.knows", "TaskNotRegistered"), ("isolate.no_json", "ResultNotSerializable")]
)
def test_what_can_not_be_run_or_kept_fails_with_a_clear_error_and_nothing_else_is_lost(
    worker: Worker, app: Stem, name: str, error: str
) -> None:
    bad = app.send_task(name)
    good = app.send_task("isolate.add", [1])
    with pytest.raises(TaskFailed) as caught:
        bad.get(timeout=30)
    assert caught.value.error_type == error
    assert good.get(timeout=30) == 1


def test_g16_control_is_answered_while_every_slot_is_busy_with_cpu_bound_work(
    app: Stem, make_worker: WorkerMaker, control: ControlClient, tmp_path: object
) -> None:
    busy = make_worker(concurrency=1, inline_slots=1)
    gates = [Gate(f"{tmp_path}/{name}") for name in ("inline", "isolate")]
    results = [app.send_task(f"{gate.path.rsplit('/', 1)[1]}.burns", [gate.path]) for gate in gates]
    for gate in gates:
        gate.wait_reached()
    eventually(lambda: busy.inflight.running_count == 2)
    report = control.ping()
    assert report.complete
    assert report.replies[0].payload["in_flight"] == 2
    for gate in gates:
        gate.open()
    for result in results:
        assert result.get(timeout=30) > 0


def test_g16_a_draining_worker_answers_and_a_task_that_holds_it_up_can_be_revoked(
    app: Stem, make_worker: WorkerMaker, control: ControlClient, gate: Gate
) -> None:
    import threading

    draining = make_worker()
    result = app.send_task("isolate.gated", [gate.path])
    gate.wait_reached()
    eventually(lambda: draining.inflight.running_count == 1)
    stopping = threading.Thread(target=draining.stop)
    stopping.start()
    report = eventually(
        lambda: next((r for r in [control.ping()] if r.replies and r.replies[0].payload["state"] == "draining"), None)
    )
    assert report.replies[0].payload["consuming"] is False
    control.revoke([result.id], terminate=True)
    stopping.join(30)
    assert not stopping.is_alive()
    assert result.state is TaskState.CANCELLED


def test_isolates_are_shared_between_workers_and_inline_tasks_are_found_behind_busy_children(
    app: Stem, make_worker: WorkerMaker, tmp_path: object
) -> None:
    workers = [make_worker(name, concurrency=1) for name in ("alpha", "bravo")]
    gates = [Gate(f"{tmp_path}/{n}") for n in range(3)]
    renders = [app.send_task("isolate.gated", [gate.path]) for gate in gates[:2]]
    for gate in gates[:2]:
        gate.wait_reached()
    # The gate is reached in the child; its worker hears of the start a moment later.
    eventually(lambda: [len(worker.inflight.running()) for worker in workers] == [1, 1])
    waiting = app.send_task("isolate.gated", [gates[2].path])
    assert app.send_task("inline.add", [1]).get(timeout=30) == 1
    for gate in gates:
        gate.open()
    assert {result.get(timeout=30) for result in (*renders, waiting)} == {"opened"}


def test_a_custom_control_command_answers_and_its_error_is_told(worker: Worker, control: ControlClient) -> None:
    assert control.call("double", {"number": 21}).replies[0].payload == {"doubled": 42}
    (reply,) = control.call("double", {"nonsense": 1}).replies
    assert reply.error is not None and "nonsense" in reply.error.message


def test_stats_count_what_happened_and_show_queues_pool_and_bounds(
    worker: Worker, app: Stem, control: ControlClient
) -> None:
    app.send_task("isolate.add", [1]).get(timeout=30)
    eventually(lambda: len(worker.inflight) == 0)
    facts = control.stats().replies[0].payload
    assert facts["totals"]["succeeded"] == 1
    assert facts["queues"] == {"default": {"depth": 0, "consuming": True}}
    assert sum(slot["tasks_done"] for slot in facts["pool"] if slot["pid"] != worker.identity.pid) == 1
    assert facts["bounds"]["sync_interval_s"] == 0.3


def test_a_second_live_worker_of_the_same_name_is_refused(worker: Worker, app: Stem) -> None:
    import dataclasses

    # On another host, where nobody can look whether the process still lives.
    twin = Worker(app, name="alpha", concurrency=1)
    twin.identity = dataclasses.replace(twin.identity, hostname="elsewhere")
    twin.view.identity = twin.identity
    with pytest.raises(ConfigurationError, match="alpha"):
        twin.start()


def test_starting_twice_stopping_twice_and_stopping_before_the_start_are_fine(
    app: Stem, make_worker: WorkerMaker
) -> None:
    unborn = Worker(app, name="unborn", concurrency=1)
    unborn.stop()
    unborn.stop()
    with pytest.raises(ConfigurationError):
        unborn.start()
    living = make_worker("living", concurrency=1)
    assert living.start() is living
    living.stop()
    living.stop()
