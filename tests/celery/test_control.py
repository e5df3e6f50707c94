"""An unmodified Celery worker with one line more: it answers, refuses what is revoked, and stops at checkpoints."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest
from celery.exceptions import TaskRevokedError

from stem_kombu.celery import install
from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.waiting import eventually

POOLS = pytest.mark.parametrize(
    "pool",
    [
        ("-c", "2"),
        ("-P", "threads", "-c", "2"),
        ("-P", "solo"),
        ("-P", "gevent", "-c", "2"),
        ("-P", "eventlet", "-c", "2"),
    ],
    ids=["prefork", "threads", "solo", "gevent", "eventlet"],
)
TOLD = r"revoked by ops@desk at 20\S+Z: wrong picture"


def in_flight(shop: Shop) -> list[str]:
    (inspected,) = shop.client.inspect().replies
    return [task["id"] for task in inspected.payload["in_flight"]]


@POOLS
def test_g7_a_running_task_stops_at_its_checkpoint_and_says_why(
    shop: Shop, pool: tuple[str, ...], tmp_path: Path
) -> None:
    shop.start(*pool)
    stops_at_its_checkpoint_and_says_why(shop, tmp_path)


def test_g7_on_a_transport_without_an_event_loop(shop_on_files: Shop, tmp_path: Path) -> None:
    shop_on_files.start("-c", "2")
    stops_at_its_checkpoint_and_says_why(shop_on_files, tmp_path)


def test_g7_in_children_that_are_spawned_and_inherit_nothing(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    shop = shop_on("redis")
    shop.start("-c", "2", SHOP_START="spawn")
    stops_at_its_checkpoint_and_says_why(shop, tmp_path)


def test_g7_with_the_step_added_by_itself_in_a_child_that_came_later(
    shop_on: Callable[[str], Shop], tmp_path: Path
) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1", SHOP_INSTALL="step")
    shop.app.control.pool_grow(1, reply=True, limit=1, timeout=10)
    gates = [Gate(tmp_path / f"{n}") for n in range(2)]
    results = [shop.send("shop.render", gate.path) for gate in gates]
    assert len({gate.wait_reached() for gate in gates}) == 2
    eventually(lambda: len(in_flight(shop)) == 2)
    assert shop.client.revoke([result.id for result in results], terminate=True).complete
    for result in results:
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)


def stops_at_its_checkpoint_and_says_why(shop: Shop, folder: Path) -> None:
    report = shop.client.ping()
    assert [reply.worker for reply in report.replies] == ["alpha@shop"]
    assert report.complete
    # The last of them calls another task as a function, which is where the checkpoints are.
    for task in ("shop.render", "shop.render_late", "shop.outer"):
        gate = Gate(folder / task)
        result = shop.send(task, gate.path)
        gate.wait_reached()
        eventually(lambda id=result.id: in_flight(shop) == [id])  # type: ignore[misc]
        # when
        revoked = shop.client.revoke([result.id], terminate=True, reason="wrong picture", requested_by="ops@desk")
        # then
        assert revoked.complete
        assert revoked.replies[0].payload["terminated"] == [result.id]
        with pytest.raises(TaskRevokedError, match=TOLD):
            result.get(timeout=30)
        assert result.state == "REVOKED"
        assert gate.reached("finally") is not None
    # and the worker goes on
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
    shop.client.revoke(["early"], reason="wrong picture", requested_by="ops@desk")
    shop.start()
    result = shop.send("shop.render", gate.path, task_id="early")
    with pytest.raises(TaskRevokedError, match=TOLD):
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
    shop.client.revoke([second.id, third.id], reason="wrong picture", requested_by="ops@desk")
    running.open()
    assert first.get(timeout=30) == "rendered"
    for result in (second, third):
        with pytest.raises(TaskRevokedError, match=TOLD):
            result.get(timeout=30)
    assert (waiting.reached(), later.reached()) == (None, None)


def test_a_task_that_stopped_for_what_was_read_from_the_store_counts_as_terminated(
    shop_on: Callable[[str], Shop], tmp_path: Path
) -> None:
    # given a worker that reads the revocation before it hears of it
    shop = shop_on("redis")
    shop.start("-c", "1")
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.render", gate.path)
    gate.wait_reached()
    eventually(lambda: in_flight(shop) == [result.id])
    store = open_revoke_store(shop.settings.revoke_store.value)
    store.save("stem", [RevocationDraft(result.id, True, None, None, None)])
    store.close()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    # then the broadcast says what came of it all the same
    (reply,) = shop.client.revoke([result.id], terminate=True).replies
    assert reply.payload["terminated"] == [result.id]


DRAINING = [
    ("redis", "-c", "1"), ("amqp", "-c", "1"), ("redis", "-P", "threads", "-c", "1"), ("redis", "-P", "solo"),
    ("redis", "-P", "gevent", "-c", "1"),
]  # fmt: skip


@pytest.mark.parametrize("how", DRAINING, ids=" ".join)
def test_g16_a_draining_worker_answers_and_its_task_can_be_stopped(
    shop_on: Callable[[str], Shop], how: tuple[str, ...], tmp_path: Path
) -> None:
    shop = shop_on(how[0])
    worker = shop.start(*how[1:])
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.render_late", gate.path)
    gate.wait_reached()
    # every slot is busy
    report = shop.client.stats()
    assert report.complete
    assert (report.replies[0].payload["state"], report.replies[0].payload["in_flight"]) == ("running", 1)
    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: [r.payload["state"] for r in shop.client.ping().replies] == ["draining"])
    shop.client.revoke([result.id], terminate=True)
    assert worker.process.wait(60) == 0, worker.log
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    # and it has left the roster
    assert shop.client.status().workers == ()


@pytest.mark.parametrize("pool", [("-P", "solo"), ("-P", "threads", "-c", "1")], ids=["solo", "threads"])
def test_celerys_terminate_stops_at_a_checkpoint_where_celery_has_nothing_to_kill(
    shop_on: Callable[[str], Shop], pool: tuple[str, ...], tmp_path: Path
) -> None:
    shop = shop_on("redis")
    shop.start(*pool)
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.render", gate.path)
    gate.wait_reached()
    if "solo" in pool:
        # Celery itself hears nothing while its one thread works: so it is the client that stores it.
        install(shop.app, revoke_store=shop.backend).control.revoke(result.id, terminate=True)
    else:
        (answer,) = shop.app.control.revoke(result.id, terminate=True, reply=True, timeout=10, limit=1)
        assert "at their next checkpoint" in answer["alpha@shop"]["ok"]
    with pytest.raises(TaskRevokedError, match="revoked through Celery"):
        result.get(timeout=30)


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_what_celery_records_at_a_revoke_says_who_and_why(shop_on: Callable[[str], Shop], broker: str) -> None:
    """From 5.6 on Celery's worker records each id as revoked at once; before, when its message comes."""
    shop = shop_on(broker)
    shop.start("-c", "1")
    (answer,) = shop.app.control.revoke("t1", reply=True, timeout=30, limit=1)
    assert "ok" in answer["alpha@shop"], answer
    if celery.VERSION < (5, 6):
        shop.send("shop.add", 1, task_id="t1")
    with pytest.raises(TaskRevokedError, match=r"revoked by Celery, through worker .*: revoked through Celery"):
        shop.app.AsyncResult("t1").get(timeout=30)


def test_stats_say_how_tasks_ended(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "1")
    shop.send("shop.add", 1).get(timeout=30)
    with pytest.raises(ValueError, match="two"):
        shop.send("shop.fails").get(timeout=30)
    assert shop.send("shop.again").get(timeout=30) == "again"
    gate = Gate(tmp_path / "gate")
    running = shop.send("shop.render", gate.path)
    gate.wait_reached()
    waiting = shop.send("shop.add", 1)
    shop.client.revoke([running.id, waiting.id], terminate=True)
    for result in (running, waiting):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
    wanted = {"received": 6, "started": 5, "succeeded": 2, "failed": 1, "retried": 1, "cancelled": 2, "redelivered": 0}
    eventually(lambda: shop.client.stats().replies[0].payload["totals"] == wanted)


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


def test_g19_a_celery_worker_that_loses_a_lease_logs_it_once(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    import redis

    shop = shop_on("redis")
    worker = shop.start("-c", "1", SHOP_VISIBILITY="1.5")
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.long", gate.path)
    gate.wait_reached("run-0")

    with redis.Redis.from_url(shop.broker) as client:  # as a consumer does that restores the message
        client.delete("unacked_index")
        lost = f"the lease of task {result.id} is lost"
        eventually(lambda: lost in worker.log, 30, lambda: worker.log)
        began = client.time()[0]
        eventually(lambda: client.time()[0] - began > 2, 30)  # it would be renewed four times meanwhile
    gate.open()
    assert result.get(timeout=30) == "once"
    assert worker.log.count(lost) == 1


def test_g19_what_waits_for_its_eta_or_for_a_rate_limit_is_not_delivered_twice(
    shop_on: Callable[[str], Shop],
) -> None:
    import redis

    shop = shop_on("redis")
    shop.start("-c", "1", SHOP_VISIBILITY="1.5")
    for _ in range(3):
        shop.send("shop.seldom")
    shop.send("shop.add", 1, countdown=600)
    with redis.Redis.from_url(shop.broker) as client:
        began = client.time()[0]
        sent = 0

        def for_three_leases() -> bool:
            nonlocal sent
            sent += 1
            return shop.send("shop.add", 1).get(timeout=30) == 1 and client.time()[0] - began > 5

        eventually(for_three_leases, 60)
    totals = shop.client.stats().replies[0].payload["totals"]
    assert (totals["received"], totals["redelivered"]) == (4 + sent, 0)


def test_celerys_own_revoke_becomes_durable(shop: Shop, tmp_path: Path) -> None:
    worker = shop.start("-c", "1", "--with-mingle")
    shop.app.control.revoke("by-celery", reply=True, timeout=5, limit=1)
    worker.kill()
    shop.start("-c", "1", "--with-mingle", name="bravo")
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.render", gate.path, task_id="by-celery")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert gate.reached() is None


def test_celerys_own_remote_control_behaves_as_before(shop: Shop, tmp_path: Path) -> None:
    """Every answer is that of the same worker without Stem."""
    answers = {}
    for how in ("line", "not at all"):
        worker = shop.start("-c", "1", name="alpha", SHOP_INSTALL=how)
        answers[how] = remote_control(shop, tmp_path / how)
        assert worker.terminate() == 0, worker.log
    assert answers["line"] == answers["not at all"]


def remote_control(shop: Shop, folder: Path) -> list[Any]:
    control = shop.app.control
    answers: list[Any] = []
    folder.mkdir()
    gate = Gate(folder / "gate")
    running = shop.send("shop.deaf", gate.path, task_id=f"{folder.name}-running")
    gate.wait_reached()
    waiting = shop.send("shop.add", 1, task_id=f"{folder.name}-waiting")
    later = shop.send("shop.add", 1, countdown=600, task_id=f"{folder.name}-later")

    def ask(verb: str, **arguments: Any) -> list[Any]:
        # Kombu counts a late answer to an earlier question as the one that was awaited, and then comes back with none.
        return eventually(lambda: list(control.broadcast(verb, arguments, reply=True, limit=1, timeout=10)), 60)

    answers.append(ask("ping"))
    for verb in ("scheduled", "reserved"):
        eventually(lambda verb=verb: ask(verb)[0]["alpha@shop"])  # type: ignore[misc]
    for verb in ("active", "reserved", "scheduled", "active_queues", "registered", "conf", "stats", "report"):
        (answer,) = ask(verb)
        answers.append((verb, shape(answer["alpha@shop"])))
    (answer,) = ask("query_task", ids=[running.id, "nobody"])
    answers.append(names({key: state for key, (state, _) in answer["alpha@shop"].items()}, folder))
    answers.append(ask("rate_limit", task_name="shop.add", rate_limit="1000/s"))
    answers += [names(ask("revoke", task_id=task.id), folder) for task in (waiting, later)]
    answers.append(names(sorted(ask("revoked")[0]["alpha@shop"]), folder))
    answers.append(names(ask("revoke", task_id=running.id, terminate=True, signal="SIGKILL"), folder))
    for result in (running, waiting):
        with pytest.raises(TaskRevokedError) as told:
            result.get(timeout=60)
        answers.append((result.state, "terminated" in str(told.value)))
    answers.append(names(ask("revoke", task_id="nobody", terminate=True), folder))
    assert shop.send("shop.add", 1).get(timeout=60) == 1
    return answers


def names(value: Any, folder: Path) -> Any:
    """The value without what differs between two workers."""
    return json.loads(json.dumps(value).replace(folder.name, "…"))


def shape(value: Any) -> Any:
    """Keys and types."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


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
