"""An unmodified Celery worker with one line more: it answers, refuses what is revoked, and stops at checkpoints."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from celery.exceptions import TaskRevokedError

from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.waiting import eventually

POOLS = pytest.mark.parametrize(
    "pool",
    [("-c", "2"), ("-P", "threads", "-c", "2"), ("-P", "solo"), ("-P", "gevent", "-c", "2")],
    ids=["prefork", "threads", "solo", "gevent"],
)


def in_flight(shop: Shop) -> list[str]:
    (inspected,) = shop.client.inspect().replies
    return [task["id"] for task in inspected.payload["in_flight"]]


@POOLS
def test_g7_a_running_task_stops_at_its_checkpoint_and_says_why(
    shop: Shop, pool: tuple[str, ...], tmp_path: Path
) -> None:
    shop.start(*pool)
    report = shop.client.ping()
    assert [reply.worker for reply in report.replies] == ["alpha@shop"]
    assert report.complete
    for task in ("shop.render", "shop.render_late"):
        gate = Gate(tmp_path / task)
        result = shop.send(task, gate.path)
        gate.wait_reached()
        eventually(lambda id=result.id: in_flight(shop) == [id])  # type: ignore[misc]
        # when
        revoked = shop.client.revoke([result.id], terminate=True, reason="wrong picture", requested_by="ops@desk")
        # then
        assert revoked.complete
        assert revoked.replies[0].payload["terminated"] == [result.id]
        with pytest.raises(TaskRevokedError, match=r"revoked by ops@desk at \S+: wrong picture"):
            result.get(timeout=30)
        assert result.state == "REVOKED"
        assert gate.reached("finally") is not None
    # and the worker goes on, in the same child
    assert shop.send("shop.add", 1, 2).get(timeout=30) == 3


def test_g8_the_child_survives_and_its_next_task_is_not_hit(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "1")
    pid = shop.send("shop.who").get(timeout=30)
    gates = [Gate(tmp_path / f"{n}") for n in range(3)]
    results = [shop.send("shop.render", gate.path) for gate in gates]
    for n, gate in enumerate(gates[:2]):
        assert gate.wait_reached() == pid
        shop.client.revoke([results[n].id], terminate=True)
    assert gates[2].wait_reached() == pid
    gates[2].open()
    assert results[2].get(timeout=30) == "rendered"


def test_g3_a_task_that_is_revoked_before_it_is_delivered_never_starts(shop: Shop, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    shop.client.revoke(["early"])
    shop.start()
    result = shop.send("shop.render", gate.path, task_id="early")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert gate.reached() is None


def test_g3_a_task_with_an_eta_and_one_that_waits_in_the_worker_never_start(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "1")
    running, waiting, later = (Gate(tmp_path / name) for name in ("running", "waiting", "later"))
    first = shop.send("shop.render", running.path)
    running.wait_reached()
    second = shop.send("shop.render", waiting.path)
    third = shop.send("shop.render", later.path, countdown=2)
    eventually(lambda: shop.client.stats().replies[0].payload["reserved"] >= 1)
    shop.client.revoke([second.id, third.id])
    running.open()
    assert first.get(timeout=30) == "rendered"
    for result in (second, third):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
    assert (waiting.reached(), later.reached()) == (None, None)


def test_g16_a_draining_worker_answers_and_its_task_can_be_stopped(shop: Shop, tmp_path: Path) -> None:
    worker = shop.start("-c", "1")
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.render_late", gate.path)
    gate.wait_reached()
    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: [r.payload["state"] for r in shop.client.ping().replies] == ["draining"])
    shop.client.revoke([result.id], terminate=True)
    assert worker.process.wait(60) == 0, worker.log
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    # and it has left the roster
    assert shop.client.status().workers == ()


def test_g16_a_worker_whose_every_slot_is_busy_answers(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    shop = shop_on("redis")
    shop.start("-P", "solo")
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.deaf", gate.path)
    gate.wait_reached()
    report = shop.client.ping()
    assert report.complete
    assert report.replies[0].payload["in_flight"] == 1
    gate.open()
    assert result.get(timeout=30) == "finished"


def test_progress_is_a_state_that_celery_clients_see(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1")
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.reports", gate.path)
    gate.wait_reached()
    assert (result.state, result.info) == ("PROGRESS", {"progress": 0.5, "tile": 3})
    gate.open()
    assert result.get(timeout=30) == "reported"


def test_g19_a_task_longer_than_the_visibility_timeout_runs_once_while_its_worker_lives(
    shop_on: Callable[[str], Shop], tmp_path: Path
) -> None:
    shop = shop_on("redis")
    for name in ("alpha", "bravo"):
        shop.begin(
            "-c",
            "1",
            "--prefetch-multiplier",
            "1",
            "-Q",
            "celery" if name == "alpha" else "celery,other",
            name=name,
            SHOP_VISIBILITY="1.5",
        )
    for worker in shop.workers:
        worker.wait_ready()
    gate = Gate(tmp_path / "gate")
    shop.app.control.cancel_consumer("celery", destination=["bravo@shop"], reply=True, timeout=10, limit=1)
    result = shop.send("shop.long", gate.path)
    gate.wait_reached("run-0")
    shop.app.control.add_consumer("celery", destination=["bravo@shop"], reply=True, timeout=10, limit=1)
    busy = shop.client.inspect().replies
    assert [len(reply.payload["in_flight"]) for reply in busy].count(1) == 1
    # Kombu restores what is older than the timeout when others do something; so others do something for three of them.
    import redis

    with redis.Redis.from_url(shop.broker) as client:
        began = client.time()[0]
        eventually(lambda: bravo_works(shop) and client.time()[0] - began > 5, 60)
    assert gate.reached("run-1") is None
    gate.open()
    assert result.get(timeout=30) == "once"


def bravo_works(shop: Shop) -> bool:
    """Whoever of the two is free may take it; bravo's queue is its own, so that one of them always is."""
    return bool(shop.send("shop.add", 1, queue="other").get(timeout=30) == 1)


def test_celerys_own_revoke_becomes_durable(shop: Shop, tmp_path: Path) -> None:
    worker = shop.start("-c", "1")
    shop.app.control.revoke("by-celery", reply=True, timeout=5, limit=1)
    worker.kill()
    shop.start("-c", "1", name="bravo")
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.render", gate.path, task_id="by-celery")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert gate.reached() is None


def test_celerys_own_remote_control_behaves_as_before(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "1")
    assert shop.app.control.ping(limit=1, timeout=10) == [{"alpha@shop": {"ok": "pong"}}]
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.deaf", gate.path)
    gate.wait_reached()
    active = shop.app.control.inspect(limit=1, timeout=10).active()
    assert [task["id"] for task in active["alpha@shop"]] == [result.id]
    shop.app.control.revoke(result.id, terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert shop.send("shop.add", 1).get(timeout=60) == 1


def test_the_event_of_a_revoke_reaches_monitors(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1", "-E")
    gate = Gate(tmp_path / "gate")
    beating, revoked = threading.Event(), threading.Event()
    with shop.app.connection_for_read() as connection:
        receiver = shop.app.events.Receiver(
            connection,
            handlers={"worker-heartbeat": lambda event: beating.set(), "task-revoked": lambda event: revoked.set()},
        )
        monitor = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None, wakeup=False), daemon=True)
        monitor.start()
        assert beating.wait(20)  # from now on it hears
        result = shop.send("shop.render", gate.path)
        gate.wait_reached()
        shop.client.revoke([result.id], terminate=True)
        assert revoked.wait(20)
        receiver.should_stop = True
        monitor.join(20)
