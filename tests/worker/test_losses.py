"""Nothing is lost, and nothing runs twice without need: killed workers, killed children, cut connections (G18, G19)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from stem_kombu import timeouts
from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.errors import StoreUnavailable, TaskFailed
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.revocation import RevocationDraft
from stem_kombu.settings import Settings
from stem_kombu.stores.base import Glance, RevokeStore
from stem_kombu.task import TaskMessage
from stem_kombu.testing.gates import Gate
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.registry import open_transport
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.settlement import MessageDisposition
from stem_kombu.worker.worker import Worker
from tests.servers.redis import RedisServer
from tests.suspension import suspend
from tests.waiting import consistently, eventually
from tests.worker.conftest import WorkerMaker, WorkerProcess
from tests.worker.process import SHORT_LEASES

Spawn = Callable[..., WorkerProcess]

on_amqp = pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
over_tcp = pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)
with_leases = pytest.mark.parametrize("broker_url", ["embedded", "redis"], indirect=True)


def relayed_by(proxy_for: Callable[[str, int], TcpProxy], broker_url: str) -> tuple[TcpProxy, str]:
    """A proxy in front of the broker, and the URL through it."""
    parts = urlsplit(broker_url)
    proxy = proxy_for(parts.hostname or "127.0.0.1", parts.port or 0)
    at = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return proxy, urlunsplit(parts._replace(netloc=f"{at}{proxy.host}:{proxy.port}"))


def nothing_is_left(control: ControlClient) -> bool:
    """Whether no worker holds a message and none waits in the queue."""
    replies = control.stats().replies
    return bool(replies) and all(
        reply.payload["in_flight"] == reply.payload["reserved"] == 0
        and all(queue["depth"] == 0 for queue in reply.payload["queues"].values())
        for reply in replies
    )


def test_g18_what_a_killed_worker_held_runs_elsewhere(
    app: Stem, spawn_worker: Spawn, make_worker: WorkerMaker, broker_url: str, gate: Gate, mode: str
) -> None:
    first = spawn_worker("first", short_leases=True)
    result = app.send_task(f"{mode}.gated", [gate.path])
    gate.wait_reached()
    eventually(lambda: result.state is TaskState.RUNNING)
    first.kill()
    gate.open()
    make_worker("second", connection=open_connection(broker_url, options=SHORT_LEASES))
    assert result.get(timeout=60) == "opened"
    record = result.record
    assert record is not None and (record.worker, record.attempt) == ("second", 1)


def test_g18_a_killed_worker_is_replaced_under_its_name_at_once_and_still_honours_what_was_revoked(
    app: Stem, spawn_worker: Spawn, control: ControlClient, gate: Gate
) -> None:
    first = spawn_worker("alpha")
    assert control.revoke(["doomed"]).replies
    first.kill()
    spawn_worker("alpha")
    result = app.send_task("isolate.gated", [gate.path], task_id="doomed")
    record = result.wait(timeout=60)
    assert record is not None and record.state is TaskState.CANCELLED
    assert gate.reached() is None


def test_g18_the_task_of_a_killed_child_is_tried_again_in_a_new_child(worker: Worker, app: Stem, gate: Gate) -> None:
    result = app.send_task("isolate.gated", [gate.path], max_retries=1)
    killed = gate.wait_reached("attempt-1")
    os.kill(killed, signal.SIGKILL)
    assert gate.wait_reached("attempt-2") != killed
    gate.open()
    assert result.get(timeout=60) == "opened"
    eventually(lambda: len(worker.inflight) == 0)
    assert worker.totals.snapshot()["retried"] == 1


def test_g18_the_task_of_a_killed_child_is_failed_once_its_retries_are_used_up(
    worker: Worker, app: Stem, gate: Gate
) -> None:
    result = app.send_task("isolate.gated", [gate.path], max_retries=0)
    os.kill(gate.wait_reached("attempt-1"), signal.SIGKILL)
    with pytest.raises(TaskFailed) as caught:
        result.get(timeout=60)
    assert caught.value.error_type == "ChildLost"
    assert [app.send_task("isolate.add", [n]).get(timeout=60) for n in range(4)] == [0, 1, 2, 3]


@over_tcp
def test_g18_a_cut_connection_loses_nothing_and_makes_nothing_run_twice(
    broker_url: str,
    backend_url: str,
    app: Stem,
    make_worker: WorkerMaker,
    proxy_for: Callable[[str, int], TcpProxy],
    tmp_path: object,
) -> None:
    proxy, relayed = relayed_by(proxy_for, broker_url)
    worker = make_worker(connection=open_connection(relayed))
    gates = {name: Gate(f"{tmp_path}/{name}") for name in ("inline", "isolate")}
    results = [app.send_task(f"{name}.deaf", [gate.path]) for name, gate in gates.items()]
    for gate in gates.values():
        gate.wait_reached()
    generation = worker.ownership.generation
    proxy.cut()
    eventually(lambda: worker.ownership.generation > generation and worker.consumer.consuming, 30)
    # What comes back while it runs is recognised, and takes the place of the delivery whose connection is gone.
    assert app.send_task("inline.add", [1]).get(timeout=60) == 1
    for gate in gates.values():
        gate.open()
    assert [result.get(timeout=60) for result in results] == ["finished", "finished"]
    with ControlClient(app) as control:
        eventually(lambda: nothing_is_left(control), 30)
    totals = worker.totals.snapshot()
    assert (totals["started"], totals["succeeded"], totals["retried"]) == (3, 3, 0)


@on_amqp
def test_g19_what_waits_for_its_eta_when_the_connection_is_lost_runs_once(
    broker_url: str, app: Stem, make_worker: WorkerMaker, proxy_for: Callable[[str, int], TcpProxy]
) -> None:
    """Found by the simulation: the broker gave the message to somebody else, and its first worker ran it as well."""
    proxy, relayed = relayed_by(proxy_for, broker_url)
    first = make_worker("first", connection=open_connection(relayed))
    result = app.send_task("inline.add", [1], countdown=6.0)
    eventually(lambda: first.holds.count == 1)
    second = make_worker("second")
    proxy.stop()
    eventually(lambda: second.holds.count == 1, 30)
    eventually(lambda: first.holds.count == 0, 30)
    assert first.totals.snapshot()["started"] == 0
    assert result.get(timeout=60) == 1
    assert first.totals.snapshot()["started"] == 0


class HeldUpStore:
    """A revoke store that answers no worker's question for what is new for as long as it is told so."""

    def __init__(self, store: RevokeStore) -> None:
        self._store = store
        self.answers = threading.Event()
        self.answers.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def glance(self, namespace: str, task_ids: Sequence[str]) -> Glance:
        assert self.answers.wait(30)
        return self._store.glance(namespace, task_ids)


@on_amqp
@pytest.mark.parametrize(("mode", "countdown"), [("inline", None), ("isolate", 2.5)])
def test_g19_what_waits_for_a_look_at_the_store_while_its_connection_is_lost_runs_once(
    app: Stem,
    broker_url: str,
    make_worker: WorkerMaker,
    proxy_for: Callable[[str, int], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    countdown: float | None,
) -> None:
    """Found by the simulation: RabbitMQ gave the message to somebody else meanwhile, and it started here as well."""
    proxy, relayed = relayed_by(proxy_for, broker_url)
    held_up = HeldUpStore(app.open_revoke_store())
    with monkeypatch.context() as patch:
        patch.setattr(app, "open_revoke_store", lambda: held_up)
        first = make_worker("first", connection=open_connection(relayed))

    def fall_behind() -> None:
        held_up.answers.clear()
        eventually(lambda: (first.hydration.synced_ago or 0) > 1.0)

    if countdown is None:
        fall_behind()
        result = app.send_task(f"{mode}.add", [1])
        eventually(lambda: first.totals.snapshot()["received"] == 1)  # and no further
    else:
        result = app.send_task(f"{mode}.add", [1], countdown=countdown)
        eventually(lambda: first.holds.count == 1)
        fall_behind()
        eventually(lambda: first.holds.count == 0)  # but not started
    make_worker("second")
    proxy.stop()
    assert result.get(timeout=60) == 1
    held_up.answers.set()
    eventually(lambda: first.consumer.trouble is not None and first.inflight.waiting_count == 0, 30)
    assert first.totals.snapshot()["started"] == 0


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)  # the embedded broker keeps what a live process holds
def test_g19_what_waits_for_a_look_at_the_store_beyond_its_lease_runs_once(
    app: Stem, broker_url: str, make_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulation: nobody renews what is still being taken in."""
    held_up = HeldUpStore(app.open_revoke_store())
    with monkeypatch.context() as patch:
        patch.setattr(app, "open_revoke_store", lambda: held_up)
        first = make_worker("first", connection=open_connection(broker_url, options=SHORT_LEASES))
    held_up.answers.clear()
    eventually(lambda: (first.hydration.synced_ago or 0) > 1.0)
    result = app.send_task("inline.add", [1])
    eventually(lambda: first.totals.snapshot()["received"] == 1)  # and no further
    second = make_worker("second", connection=open_connection(broker_url, options=SHORT_LEASES))
    assert result.get(timeout=60) == 1
    second.stop()
    held_up.answers.set()
    assert app.send_task("inline.add", [2]).get(timeout=60) == 2  # so the first is through with the one before
    assert first.totals.snapshot()["started"] == 1


@on_amqp
def test_g18_two_messages_of_one_task_are_both_acknowledged_after_a_cut(
    broker_url: str, app: Stem, make_worker: WorkerMaker, proxy_for: Callable[[str, int], TcpProxy], gate: Gate
) -> None:
    """Found by the simulation: both took the place of the first, and the second stayed with the worker for good."""
    proxy, relayed = relayed_by(proxy_for, broker_url)
    worker = make_worker(connection=open_connection(relayed))
    for _ in range(2):
        app.send_task("inline.deaf", [gate.path], task_id="twin")
    eventually(lambda: worker.totals.snapshot()["started"] == 2)
    proxy.cut()
    eventually(lambda: worker.totals.snapshot()["redelivered"] == 2, 30)
    gate.open()
    eventually(lambda: len(worker.inflight) == 0, 30)
    worker.stop()
    depths = open_transport(open_connection(broker_url)).depths()
    assert depths.of(["default"]) == {"default": 0}
    depths.close()


def test_g9_a_second_message_of_a_run_that_was_revoked_ends_as_the_run_does(
    app: Stem, worker: Worker, control: ControlClient, gate: Gate, mode: str
) -> None:
    """Found by the simulation: the message was refused, and recorded as cancelled beside the run, which then succeeded."""
    result = app.send_task(f"{mode}.deaf", [gate.path], task_id="twin")
    gate.wait_reached()
    assert control.revoke(["twin"]).replies  # without terminate: what runs may end
    app.send_task(f"{mode}.deaf", [gate.path], task_id="twin")
    eventually(lambda: any(held.followers for held in worker.inflight.all()))
    gate.open()
    assert result.get(timeout=60) == "finished"
    eventually(lambda: nothing_is_left(control), 30)
    totals = worker.totals.snapshot()
    assert (totals["started"], totals["succeeded"], totals["cancelled"]) == (1, 1, 0)


@on_amqp
def test_g19_what_waits_to_be_taken_in_while_its_connection_is_lost_runs_once(
    app: Stem,
    broker_url: str,
    make_worker: WorkerMaker,
    proxy_for: Callable[[str, int], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by the simulation: it was fetched together with one whose look at the backend took its time."""
    proxy, relayed = relayed_by(proxy_for, broker_url)
    first = make_worker("first", connection=open_connection(relayed))
    receive, fetched, go_on = first.consumer._receive, threading.Event(), threading.Event()

    def receive_late(raw: Any, generation: int) -> None:
        fetched.set()
        assert go_on.wait(60)
        receive(raw, generation)

    monkeypatch.setattr(first.consumer, "_receive", receive_late)
    result = app.send_task("inline.add", [1])
    assert fetched.wait(30)
    make_worker("second")
    proxy.stop()
    assert result.get(timeout=60) == 1
    eventually(lambda: first.clock.monotonic() - first.ownership.fetched_at > 0.1)
    go_on.set()
    eventually(lambda: first.consumer.trouble is not None, 30)  # it has been through with what it had fetched
    assert first.totals.snapshot()["started"] == 0


@on_amqp
def test_g18_what_is_let_go_of_with_its_connection_and_comes_again_at_that_moment_is_not_kept_for_good(
    app: Stem,
    broker_url: str,
    make_worker: WorkerMaker,
    proxy_for: Callable[[str, int], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by the simulation: it took its own place over the new connection, and nobody ever told the broker about it."""
    proxy, relayed = relayed_by(proxy_for, broker_url)
    held_up = HeldUpStore(app.open_revoke_store())
    with monkeypatch.context() as patch:
        patch.setattr(app, "open_revoke_store", lambda: held_up)
        worker = make_worker(connection=open_connection(relayed))
    finish, let_go = worker.acks.add, []

    def finish_when_it_came_again(delivery: Delivery, then: MessageDisposition) -> None:
        if not let_go:
            let_go.append(then)
            proxy.start()
            eventually(lambda: delivery.generation > 1, 60)
        finish(delivery, then)

    monkeypatch.setattr(worker.acks, "add", finish_when_it_came_again)
    result = app.send_task("inline.add", [1], countdown=2.5)
    eventually(lambda: worker.holds.count == 1)
    held_up.answers.clear()
    eventually(lambda: (worker.hydration.synced_ago or 0) > 1.0)
    eventually(lambda: worker.holds.count == 0)  # but not started
    proxy.stop()
    eventually(lambda: worker.consumer.trouble is not None, 30)
    held_up.answers.set()
    assert result.get(timeout=60) == 1
    assert len(let_go) == 1
    eventually(lambda: len(worker.inflight) == 0)


@on_amqp
def test_g9_what_was_refused_and_not_recorded_when_its_connection_was_lost_is_decided_about_anew(
    broker_url: str,
    app: Stem,
    make_worker: WorkerMaker,
    proxy_for: Callable[[str, int], TcpProxy],
    start_redis: Callable[..., RedisServer],
) -> None:
    """Found by the simulation: the revocation had expired, another worker ran the task, and this one recorded it as cancelled."""
    server = start_redis()
    app.configure(
        Settings.from_env({}, broker=broker_url, backend=server.url, sync_interval=0.3, heartbeat_interval=0.5)
    )
    proxy, relayed = relayed_by(proxy_for, broker_url)
    worker = make_worker(connection=open_connection(relayed))
    with ControlClient(app) as control:
        assert control.revoke(["late"], expires_in=2.0).replies
    server.kill()
    result = app.send_task("inline.add", [1], task_id="late")
    eventually(lambda: worker.recorder.trouble is not None and worker.totals.snapshot()["cancelled"] == 1)
    eventually(lambda: worker.cache.get("late") is None, 30)
    proxy.cut()
    eventually(lambda: worker.totals.snapshot()["started"] == 1, 30)
    server.start()
    assert result.get(timeout=60) == 1


@over_tcp
def test_g26_what_was_cancelled_after_a_run_is_not_recorded_once_it_may_run_elsewhere(
    broker_url: str,
    app: Stem,
    make_worker: WorkerMaker,
    proxy_for: Callable[[str, int], TcpProxy],
    start_redis: Callable[..., RedisServer],
    tmp_path: Path,
    mode: str,
) -> None:
    """Found by the simulation in one of 70,000 schedules: the revocation had expired, the message was run again, and meanwhile
    the first run's end was recorded as cancelled."""
    server = start_redis()
    app.configure(
        Settings.from_env({}, broker=broker_url, backend=server.url, sync_interval=0.3, heartbeat_interval=0.5)
    )
    proxy, relayed = relayed_by(proxy_for, broker_url)
    first, again = Gate(tmp_path / "first"), Gate(tmp_path / "again")
    # given a task that failed on a worker after it was revoked, which can't be recorded
    cut_off = make_worker("first", connection=open_connection(relayed, options=SHORT_LEASES))
    result = app.send_task(f"{mode}.fails_then_waits", [first.path, again.path], task_id="late")
    first.wait_reached()
    make_worker("second", connection=open_connection(broker_url, options=SHORT_LEASES))
    with ControlClient(app) as control:
        assert control.revoke(["late"], expires_in=2.0).replies
    server.kill()
    first.open()
    eventually(lambda: cut_off.recorder.trouble is not None and cut_off.totals.snapshot()["cancelled"] == 1, 30)
    eventually(lambda: cut_off.cache.get("late") is None, 30)
    # when the worker loses its broker, and the message runs on another one
    proxy.stop()
    again.wait_reached()
    server.start()
    eventually(lambda: cut_off.inflight.endings(["late"]), 60)
    # then it says nothing of the task
    again.open()
    assert result.get(timeout=60) == "ran again"


def test_g10_a_message_that_comes_again_after_its_outcome_was_recorded_is_acknowledged_and_not_run_again(
    app: Stem, make_worker: WorkerMaker, broker_url: str, control: ControlClient, gate: Gate
) -> None:
    result = app.send_task("inline.gated", [gate.path])
    # given a worker that died between recording and acknowledging
    lost = open_connection(broker_url, options=SHORT_LEASES)
    queue = lost.SimpleQueue("default")
    message = queue.get(block=True, timeout=30)
    assert app.backend is not None
    app.backend.record([TaskRecord(result.id, "inline.gated", TaskState.SUCCEEDED, 1, "default", result="before")])
    message.requeue()
    queue.close()
    lost.release()
    # when another one gets the message
    worker = make_worker(connection=open_connection(broker_url, options=SHORT_LEASES))
    eventually(lambda: worker.totals.snapshot()["redelivered"] == 1)
    eventually(lambda: nothing_is_left(control), 30)
    assert gate.reached() is None
    assert result.get(timeout=1) == "before"
    assert worker.totals.snapshot()["started"] == 0


def test_g19_an_attempt_that_waits_here_for_a_slot_does_not_start_once_the_task_has_ended_by_another_message(
    app: Stem, make_worker: WorkerMaker, control: ControlClient, tmp_path: Path, mode: str
) -> None:
    worker = make_worker(concurrency=1, inline_slots=1, prefetch_multiplier=4)
    before, again = Gate(f"{tmp_path}/before"), Gate(f"{tmp_path}/again")
    running = app.send_task(f"{mode}.gated", [before.path])
    before.wait_reached()
    # given a second attempt of which nothing is recorded when it comes, behind a long task
    app.producer.send(TaskMessage("twice", f"{mode}.gated", (again.path,), queue="default", attempt=2))
    eventually(lambda: worker.inflight.of_tasks(["twice"]))
    (waiting,) = worker.inflight.of_tasks(["twice"])
    eventually(
        lambda: (
            waiting.history_checked_at is not None
            and SYSTEM.monotonic() - waiting.history_checked_at > timeouts.HISTORY_CHECKED
        )
    )
    # when the task ends by another message of it, at another worker
    assert app.backend is not None
    app.backend.record([TaskRecord("twice", f"{mode}.gated", TaskState.SUCCEEDED, 2, "default", result="elsewhere")])
    before.open()
    # then it is acknowledged and does not run
    assert running.get(timeout=60) == "opened"
    eventually(lambda: nothing_is_left(control), 30)
    assert again.reached() is None
    assert app.result("twice").get(timeout=1) == "elsewhere"
    assert worker.totals.snapshot()["started"] == 1


@with_leases
def test_g19_a_task_longer_than_the_visibility_timeout_is_not_redelivered_while_its_worker_lives(
    app: Stem, make_worker: WorkerMaker, broker_url: str, gate: Gate, mode: str
) -> None:
    first = make_worker("first", connection=open_connection(broker_url, options=SHORT_LEASES))
    result = app.send_task(f"{mode}.deaf", [gate.path])
    gate.wait_reached()
    second = make_worker("second", connection=open_connection(broker_url, options=SHORT_LEASES))
    consistently(lambda: second.totals.snapshot()["received"] == 0, 2.5 * SHORT_LEASES["visibility_timeout"])
    gate.open()
    assert result.get(timeout=60) == "finished"
    assert first.totals.snapshot()["started"] == 1


def test_g9_nothing_is_acknowledged_before_it_is_recorded_however_long_the_backend_is_away(
    embedded_url: str, start_redis: Callable[..., RedisServer], make_worker: WorkerMaker, app: Stem, gate: Gate
) -> None:
    server = start_redis(options=["--appendonly", "yes", "--appendfsync", "always"])
    app.configure(
        Settings.from_env({}, broker=embedded_url, backend=server.url, sync_interval=0.3, heartbeat_interval=0.5)
    )
    worker = make_worker()
    result = app.send_task("inline.deaf", [gate.path])
    gate.wait_reached()
    eventually(lambda: result.state is TaskState.RUNNING)
    server.kill()
    gate.open()
    eventually(lambda: worker.recorder.trouble is not None)
    assert len(worker.inflight) == 1
    server.start()
    eventually(lambda: len(worker.inflight) == 0, 30)
    assert result.get(timeout=10) == "finished"


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g18_a_worker_that_is_told_twice_to_stop_ends_though_its_backend_is_away_and_its_task_runs_again(
    embedded_url: str, start_redis: Callable[..., RedisServer], make_worker: WorkerMaker, app: Stem, gate: Gate
) -> None:
    server = start_redis()
    app.configure(
        Settings.from_env({}, broker=embedded_url, backend=server.url, sync_interval=0.3, heartbeat_interval=0.5)
    )
    worker = make_worker("first")
    result = app.send_task("inline.deaf", [gate.path])
    gate.wait_reached()
    server.kill()
    gate.open()
    eventually(lambda: worker.recorder.trouble is not None)
    stopping = threading.Thread(target=worker.stop, daemon=True)
    stopping.start()
    eventually(lambda: worker.state == "draining")
    worker.release()
    stopping.join(60)
    assert not stopping.is_alive()
    server.start()
    make_worker("second")
    assert result.get(timeout=60) == "finished"
    record = result.record
    assert record is not None and record.worker == "second"


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g2_a_worker_that_can_not_read_the_store_does_not_start_unless_it_is_told_that_it_may(
    app: Stem, broker_url: str, backend_url: str
) -> None:
    nobody = "redis://127.0.0.1:1/0"
    app.configure(Settings.from_env({}, broker=broker_url, backend=backend_url, revoke_store=nobody))
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1"):
        Worker(app, name="careful", concurrency=1, hydration_timeout=0.3).start()
    bold = Worker(app, name="bold", concurrency=1, hydration_timeout=0.3, allow_unsynced=True)
    with bold:
        assert app.send_task("inline.add", [1]).get(timeout=30) == 1
        with ControlClient(app) as control:
            # G16: control answers while the store is down, and says so.
            (reply,) = control.inspect().replies
            assert reply.payload["synced_s_ago"] is None
            assert "127.0.0.1:1" in reply.payload["store_error"]


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g3_a_worker_that_was_suspended_looks_at_the_store_before_it_starts_anything(
    app: Stem, spawn_worker: Spawn, store: RevokeStore, gate: Gate, control: ControlClient
) -> None:
    suspended = spawn_worker("alpha")
    suspend(suspended.process.pid)
    result = app.send_task("isolate.gated", [gate.path])
    store.save(app.settings.namespace, [RevocationDraft(result.id)])  # no broadcast tells of it
    # Its heartbeat is overdue, so is its look at the store.
    eventually(lambda: any(age > 1.0 for age in control_ages(app)), 30)
    suspended.process.send_signal(signal.SIGCONT)
    record = result.wait(timeout=60)
    assert record is not None and record.state is TaskState.CANCELLED
    assert gate.reached() is None


def control_ages(app: Stem) -> list[float]:
    """Seconds since each worker's latest heartbeat."""
    assert app.backend is not None
    view = app.backend.view(app.settings.namespace)
    return [(view.now - beat.timestamp).total_seconds() for beat in view.heartbeats]


def test_garbage_in_the_queue_is_let_go_and_the_next_task_runs(
    worker: Worker, app: Stem, broker_url: str, control: ControlClient
) -> None:
    with open_connection(broker_url) as connection:
        producer = connection.Producer()
        for body, kind in [
            (b"\x80\x04N.", "application/x-python-serialize"),
            (b"{", "application/json"),
            (b"[1, 2]", "application/json"),
            (b"null", "application/json"),
        ]:
            producer.publish(body, routing_key="default", content_type=kind, content_encoding="utf-8")
        producer.publish({"id": "x"}, routing_key="default", serializer="json", headers={"task": 7, "id": ["x"]})
    assert app.send_task("isolate.add", [1]).get(timeout=30) == 1
    eventually(lambda: nothing_is_left(control), 30)
    assert worker.totals.snapshot()["started"] == 1
