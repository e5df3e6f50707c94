"""Stem workers in Celery's own tools: ``celery inspect``, its events, and an unmodified Flower."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from tests.celery.conftest import Shop
from tests.cli.program import Program
from tests.waiting import eventually


@pytest.fixture
def stem(shop: Shop, tmp_path: Path) -> Iterator[Program]:
    """Stem's program on the same broker, with one worker that Celery's tools know as ``stem-1@here``."""
    program = Program(tmp_path, {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": shop.backend})
    program.start_worker("--name", "stem-1@here", "-c", "2", "-Q", "stem")
    yield program
    program.close()


def test_celery_inspect_sees_both_kinds_in_one_fleet(shop: Shop, stem: Program, tmp_path: Path) -> None:
    shop.start("-c", "1")
    gate = Gate(tmp_path / "gate")
    task = stem.send("shop.render", "--queue", "stem", gate=gate.path)
    gate.wait_reached()
    inspect = shop.app.control.inspect(timeout=10, limit=2)
    assert inspect.ping() == {"alpha@shop": {"ok": "pong"}, "stem-1@here": {"ok": "pong"}}
    assert [found["id"] for found in inspect.active()["stem-1@here"]] == [task]
    assert "shop.render" in inspect.registered()["stem-1@here"]
    assert [queue["name"] for queue in inspect.active_queues()["stem-1@here"]] == ["stem"]
    stats = inspect.stats()["stem-1@here"]
    assert stats["pid"] == stem.workers[0].process.pid
    assert stats["pool"]["max-concurrency"] == 2
    assert inspect.conf()["stem-1@here"]["worker_concurrency"] == 2
    # and Celery's own revoke stops what runs here, and is durable
    shop.app.control.revoke(task, terminate=True, destination=["stem-1@here"], reply=True, timeout=10, limit=1)
    assert stem.ended(task)["state"] == "cancelled"
    assert inspect.revoked()["stem-1@here"] == [task]


@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_every_verb_of_celery_is_answered_and_none_is_an_error_in_the_log(shop: Shop, stem: Program) -> None:
    arguments: dict[str, dict[str, Any]] = {
        "revoke": {"task_id": "one"}, "terminate": {"task_id": "two", "signal": "TERM"}, "query_task": {"ids": ["one"]},
        "revoke_by_stamped_headers": {"headers": {"a": "b"}}, "election": {"id": "1", "topic": "t"},
        "hello": {"from_node": "alpha@shop", "revoked": {}}, "rate_limit": {"task_name": "shop.add", "rate_limit": "0"},
        "cancel_consumer": {"queue": "stem"}, "add_consumer": {"queue": "stem"}, "autoscale": {"max": 2, "min": 1},
    }  # fmt: skip
    from celery.worker.control import Panel

    silent = {"heartbeat", "election", "hello"}  # of which Celery's workers expect nothing
    for verb in [*sorted(set(Panel.data) - {"shutdown"}), "somebody_s_own"]:
        (answer,) = eventually(
            lambda verb=verb: shop.app.control.broadcast(  # type: ignore[misc]
                verb, arguments.get(verb, {}), ["stem-1@here"], reply=True, timeout=2, limit=1
            ),
            30,  # what Redis broadcasts while a subscription is young may be lost: asked again
        )
        assert (answer["stem-1@here"] is None) == (verb in silent), verb
    assert "has no 'somebody_s_own'" in answer["stem-1@here"]["error"]
    assert set(shop.app.control.inspect(timeout=10, limit=1).revoked()["stem-1@here"]) == {"one", "two"}
    assert "Traceback" not in stem.workers[0].err
    # and a Celery worker that comes asks its neighbours without stumbling over the answer
    assert "mingle: all alone" not in shop.start("-c", "1", "--with-mingle").log


def test_celerys_events_tell_the_life_of_each_task(shop: Shop, stem: Program, tmp_path: Path) -> None:
    state = shop.app.events.State()
    heard = threading.Event()

    def take(event: dict[str, Any]) -> None:
        state.event(event)
        if event["type"] == "worker-heartbeat":
            heard.set()

    with shop.app.connection_for_read() as connection:
        receiver = shop.app.events.Receiver(connection, handlers={"*": take})
        monitor = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None, wakeup=False), daemon=True)
        monitor.start()
        assert heard.wait(20)
        gate = Gate(tmp_path / "gate")
        added = stem.send("shop.add", "--queue", "stem", a=41, b=1)
        failing = stem.send("shop.fails", "--queue", "stem")
        stopped = stem.send("shop.render", "--queue", "stem", gate=gate.path)
        gate.wait_reached()
        stem.ok("worker", "revoke", "-t", stopped, "--terminate")
        wanted = {added: "SUCCESS", failing: "FAILURE", stopped: "REVOKED"}
        eventually(lambda: {uuid: state.tasks[uuid].state for uuid in wanted if uuid in state.tasks} == wanted)
        assert state.tasks[added].name == "shop.add"
        assert state.tasks[added].result == "42"
        assert state.tasks[added].runtime >= 0
        assert "ValueError" in state.tasks[failing].exception
        assert state.workers["stem-1@here"].alive
        # a worker that stops says so
        assert stem.workers[0].terminate() == 0
        eventually(lambda: not state.workers["stem-1@here"].alive)
        receiver.should_stop = True
        monitor.join(20)


def test_events_can_be_switched_off(shop: Shop, tmp_path: Path) -> None:
    program = Program(
        tmp_path,
        {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": shop.backend, "STEM_CELERY_EVENTS": "false"},
    )
    shop.start("-c", "1")
    try:
        program.start_worker("--name", "quiet@here", "-c", "1", "-Q", "stem")
        assert program.ok("worker", "ping", "--json").json["expected"] == ["alpha@shop", "quiet@here"]
        # Celery's client listens for a second, whoever has answered: on a busy machine that may be too short for one.
        answers = eventually(lambda: shop.app.control.inspect(timeout=1).ping(), 60)
        assert answers == {"alpha@shop": {"ok": "pong"}}
    finally:
        program.close()


def test_flower_lists_both_kinds_and_its_button_revokes_for_good(shop: Shop, stem: Program, tmp_path: Path) -> None:
    celery_worker = shop.start("-c", "1", "-E")
    port = free_port()
    with (tmp_path / "flower.log").open("wb") as log:
        flower = subprocess.Popen(
            [sys.executable, "-m", "celery", "--broker", shop.broker, "flower", f"--port={port}", "--address=127.0.0.1"],
            env={**shop.environment, "FLOWER_UNAUTHENTICATED_API": "true"},
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def api(path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            assert flower.poll() is None, (tmp_path / "flower.log").read_text()
            return {}

    try:
        both = {"stem-1@here", "alpha@shop"}
        eventually(lambda: both <= api("workers?refresh=1").keys(), 60)
        # It hears events from the moment on in which a worker is alive to it.
        eventually(lambda: api("workers?status=1").get("stem-1@here"), 60)

        def shown_task() -> Any:
            # On RabbitMQ an event that waits for five seconds is dropped (event_queue_ttl), so a busy Flower misses some.
            stem.send("shop.add", "--queue", "stem", a=1)
            return next((task for task in api("tasks").values() if task["state"] == "SUCCESS"), None)

        shown = eventually(shown_task, 60, interval=1.0)
        assert (shown["name"], shown["worker"], shown["result"]) == ("shop.add", "stem-1@here", "1")
        assert shown["runtime"] >= 0
        worker = api("workers?refresh=1")["stem-1@here"]
        assert [queue["name"] for queue in worker["active_queues"]] == ["stem"]
        assert worker["stats"]["pool"]["max-concurrency"] == 2
        assert "shop.add" in worker["registered"]
        # when its button is pressed for a task of each kind, one that runs and one that nobody has seen yet
        gate = Gate(tmp_path / "gate")
        running = stem.send("shop.render", "--queue", "stem", gate=gate.path)
        gate.wait_reached()
        for task_id in (running, "unseen"):
            assert api(f"task/revoke/{task_id}?terminate=true", "POST")["message"]
        assert stem.ended(running)["state"] == "cancelled"
        eventually(lambda: shop.client.inspect().replies[0].payload["revoked_count"] == 2)
        # then a worker that comes later knows
        celery_worker.kill()
        shop.start("-c", "1", name="bravo")
        gate = Gate(tmp_path / "unseen")
        with pytest.raises(TaskRevokedError):
            shop.send("shop.deaf", gate.path, task_id="unseen").get(timeout=30)
        shop.send("shop.add", 1).get(timeout=30)
        assert gate.reached() is None
    finally:
        flower.terminate()
        flower.wait(20)


def test_an_exporter_for_prometheus_counts_the_worker_and_its_tasks(shop: Shop, stem: Program, tmp_path: Path) -> None:
    port = free_port()
    with (tmp_path / "exporter.log").open("wb") as log:
        exporter = subprocess.Popen(
            [sys.executable, "-m", "celery_prometheus_exporter", "--broker", shop.broker, "--addr", f"127.0.0.1:{port}"],
            env=shop.environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def metrics() -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            assert exporter.poll() is None, (tmp_path / "exporter.log").read_text()
            return {}
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    try:
        eventually(lambda: metrics().get("celery_workers") == 1, 60)
        stem.send("shop.add", "--queue", "stem", a=1)
        stem.send("shop.fails", "--queue", "stem")
        by_name = 'celery_tasks_by_name{name="shop.%s",state="%s"}'
        eventually(lambda: metrics().get(by_name % ("add", "SUCCESS")) == 1, 60, metrics)
        eventually(lambda: metrics().get(by_name % ("fails", "FAILURE")) == 1, 60, metrics)
        assert metrics()['celery_tasks_runtime_seconds_count{name="shop.add"}'] == 1
    finally:
        exporter.terminate()
        exporter.wait(20)
