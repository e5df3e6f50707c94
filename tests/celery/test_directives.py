"""Directives on Celery workers: pauses, log levels and rate limits of tasks are obeyed, the others are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import redis

from stem_kombu.autoscale import Autoscale
from stem_kombu.control.client.directives import DirectiveClient, DirectiveReport, Ending
from stem_kombu.directive import Kind
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.waiting import eventually

POOLS = pytest.mark.parametrize(
    "pool",
    [("-c", "1"), ("-P", "threads", "-c", "1"), ("-P", "solo")],
    ids=["prefork", "threads", "solo"],
)
QUEUES = ("-Q", "celery,other")


def directives(shop: Shop) -> DirectiveClient:
    return DirectiveClient(shop.client)


def pause(shop: Shop, *queues: str, **options: Any) -> DirectiveReport:
    report = directives(shop).pause(queues or ["celery"], timeout=15.0, **options)
    assert report.not_obeying == ()
    return report


def consuming(shop: Shop) -> dict[str, bool]:
    (reply,) = shop.client.stats(timeout=15.0).replies
    return {queue: told["consuming"] for queue, told in reply.payload["queues"].items()}


def received(shop: Shop) -> dict[str, int]:
    """How many tasks each worker has received."""
    return {reply.worker: reply.payload["totals"]["received"] for reply in shop.client.stats(timeout=15.0).replies}


@POOLS
def test_g22_of_a_paused_queue_no_task_starts_and_what_waits_goes_back(
    shop: Shop, pool: tuple[str, ...], tmp_path: Path
) -> None:
    shop.start(*pool, *QUEUES)
    running, waiting = Gate(tmp_path / "running"), [Gate(tmp_path / f"{n}") for n in range(3)]
    first = shop.send("shop.deaf", running.path)
    running.wait_reached()
    others = [shop.send("shop.long", gate.path) for gate in waiting]
    for gate in waiting:
        gate.open()
    if "solo" not in pool:  # which reads nothing while it runs a task
        eventually(lambda: received(shop) == {"alpha@shop": 4})
    # when
    (reply,) = pause(shop).replies
    # then
    assert reply.payload["starting"] == 0
    assert reply.payload["settings"]["pause"]["celery"]["value"] is True
    if "solo" not in pool:  # which reads nothing while it runs a task
        assert reply.payload["given_back"] == 3
    assert consuming(shop) == {"celery": False, "other": True}
    running.open()
    assert first.get(timeout=30) == "finished"
    for _ in range(5):  # the other queue goes on, and the loop turns
        assert shop.send("shop.add", 1, 2, queue="other").get(timeout=30) == 3
    assert [gate.reached("run-0") for gate in waiting] == [None] * 3
    # and when
    directives(shop).resume(["celery"], timeout=15.0)
    # then each runs, once, and is no other attempt
    assert [result.get(timeout=30) for result in others] == ["once"] * 3
    assert [gate.reached("run-1") for gate in waiting] == [None] * 3
    assert consuming(shop) == {"celery": True, "other": True}


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_g22_of_a_paused_queue_no_task_starts_in_a_green_pool(
    shop_on: Callable[[str], Shop], pool: str, tmp_path: Path
) -> None:
    shop = shop_on("amqp")
    shop.start("-P", pool, "-c", "2", *QUEUES)
    pause(shop)
    gates = [Gate(tmp_path / f"{n}") for n in range(3)]
    for gate in gates:
        gate.open()
    results = [shop.send("shop.long", gate.path) for gate in gates]
    for _ in range(3):
        assert shop.send("shop.add", 1, 2, queue="other").get(timeout=30) == 3
    assert [gate.reached("run-0") for gate in gates] == [None] * 3
    directives(shop).resume(["celery"], timeout=15.0)
    assert [result.get(timeout=30) for result in results] == ["once"] * 3


def test_g21_a_worker_that_starts_later_reads_the_pause_before_its_first_task(shop: Shop, tmp_path: Path) -> None:
    directives(shop).pause(["celery"], timeout=1.0)
    gate = Gate(tmp_path / "gate")
    gate.open()
    result = shop.send("shop.long", gate.path)
    worker = shop.start("-c", "1", *QUEUES)
    assert shop.send("shop.add", 1, 2, queue="other").get(timeout=30) == 3
    assert consuming(shop) == {"celery": False, "other": True}
    assert gate.reached("run-0") is None
    assert "queue celery is paused by" in worker.log
    directives(shop).resume(["celery"], timeout=15.0)
    assert result.get(timeout=30) == "once"


def test_g23_a_pause_ends_by_itself(shop: Shop) -> None:
    shop.start("-c", "1")
    pause(shop, ending=Ending(expires_in=3.0))
    result = shop.send("shop.add", 1, 2)
    assert result.get(timeout=30) == 3
    assert consuming(shop) == {"celery": True}


def test_g22_what_waits_for_an_eta_or_a_rate_limit_goes_back(shop: Shop) -> None:
    shop.start("-c", "1", *QUEUES)
    shop.send("shop.seldom").get(timeout=30)
    shop.send("shop.seldom")
    shop.send("shop.add", 1, 2, eta=datetime.now(timezone.utc) + timedelta(hours=1))
    eventually(lambda: received(shop) == {"alpha@shop": 3})
    (reply,) = pause(shop).replies
    assert reply.payload["given_back"] == 2
    other = shop.start("-c", "1", "-Q", "celery", name="beta")  # it reads the pause as well
    directives(shop).resume(["celery"], workers=["beta@shop"], timeout=15.0)
    eventually(lambda: received(shop) == {"alpha@shop": 3, "beta@shop": 2}, 30, lambda: other.log)


def test_g22_a_queue_stays_paused_when_the_broker_was_lost(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    shop = shop_on("redis")
    worker = shop.start("-c", "1", *QUEUES)
    pause(shop)
    server = redis.Redis.from_url(shop.broker)
    lost = worker.log.count("Connection to broker lost")
    server.client_kill_filter(_type="normal", skipme=True)
    server.client_kill_filter(_type="pubsub", skipme=True)
    eventually(lambda: worker.log.count("Connection to broker lost") > lost, 30, lambda: worker.log)
    gate = Gate(tmp_path / "gate")
    gate.open()
    result = shop.send("shop.long", gate.path)
    assert shop.send("shop.add", 1, 2, queue="other").get(timeout=60) == 3
    assert gate.reached("run-0") is None
    eventually(lambda: len(shop.client.ping(timeout=15.0).replies) == 1)  # Stem's connections were lost as well
    assert consuming(shop) == {"celery": False, "other": True}
    directives(shop).resume(["celery"], timeout=15.0)
    assert result.get(timeout=30) == "once"
    server.close()


def test_g22_a_queue_that_is_added_by_celery_obeys_a_pause_of_all_queues(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "1")
    directives(shop).pause(None, timeout=15.0)
    shop.app.control.add_consumer("late", reply=True, limit=1, timeout=10)
    gate = Gate(tmp_path / "gate")
    gate.open()
    result = shop.send("shop.long", gate.path, queue="late")
    eventually(lambda: consuming(shop) == {"celery": False, "late": False})
    assert gate.reached("run-0") is None
    directives(shop).resume(None, timeout=15.0)
    assert result.get(timeout=30) == "once"


def test_a_queue_that_celery_cancelled_while_it_was_paused_stays_cancelled(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1", *QUEUES)
    pause(shop)
    shop.app.control.cancel_consumer("celery", reply=True, limit=1, timeout=10)
    directives(shop).resume(["celery"], timeout=15.0)
    eventually(lambda: consuming(shop) == {"other": True})


@pytest.mark.parametrize(
    "pool", [("-c", "1"), ("-P", "threads", "-c", "1"), ("-P", "solo")], ids=["prefork", "threads", "solo"]
)
def test_worker_and_children_log_from_another_level_on(shop_on: Callable[[str], Shop], pool: tuple[str, ...]) -> None:
    shop = shop_on("redis")
    worker = shop.start(*pool)
    shop.send("shop.whisper", "before").get(timeout=30)
    (reply,) = directives(shop).set(Kind.LOG_LEVEL, {"*": "debug"}, subject="shop", timeout=15.0).replies
    assert reply.payload["settings"]["log-level"]["shop"]["value"] == "debug"
    assert reply.payload["settings"]["log-level"][""]["value"] == "info"
    shop.send("shop.whisper", "meanwhile").get(timeout=30)
    directives(shop).set(Kind.LOG_LEVEL, {"*": None}, subject="shop", timeout=15.0)
    shop.send("shop.whisper", "after").get(timeout=30)
    assert [word for word in ("before", "meanwhile", "after") if f"whispers {word}" in worker.log] == ["meanwhile"]


def test_what_a_celery_worker_cannot_obey_is_said_in_the_answer(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1")
    report = directives(shop).set(Kind.CONCURRENCY, {"*": Autoscale(1, 4).value()}, timeout=15.0)
    assert report.not_obeying == (("alpha@shop", "unsupported"),)
    command = [sys.executable, "-m", "stem_kombu_cli", "worker", "rate-limit", "-q", "celery", "1/s", "--yes", "--json"]
    done = subprocess.run(
        command, env=shop.environment | {"STEM_BROKER_URL": shop.broker}, capture_output=True, timeout=60, check=False
    )
    assert json.loads(done.stdout)["not_obeying"] == [{"worker": "alpha@shop", "code": "unsupported"}]
    assert b"rate limits with --name and --each" in done.stderr
