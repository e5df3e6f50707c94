"""An unmodified Flower and an exporter for Prometheus, and a Celery worker with the line: each button of Flower's HTTP API."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from tests.celery.conftest import Shop
from tests.waiting import eventually

NODE = "alpha@shop"


class Flower:
    """Flower's HTTP API, on a shop's broker."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self._log = folder / "flower.log"
        self._port = free_port()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.celery.shop:app", "flower", f"--port={self._port}",
                 "--address=127.0.0.1", "--inspect_timeout=10000"],
                env={**shop.environment, "FLOWER_UNAUTHENTICATED_API": "true", "SHOP_INSTALL": "not at all"},
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/{path}", timeout=60) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            assert self._process.poll() is None, self._log.read_text()
            return {}

    def call(self, path: str, body: bytes) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/api/{path}", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def press(self, path: str, **fields: Any) -> str:
        """Flower's message after a button."""
        return str(self.call(path, urllib.parse.urlencode(fields).encode())["message"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def flower(shop: Shop, tmp_path: Path) -> Iterator[Flower]:
    """It knows the worker ``alpha@shop``, which has two children."""
    shop.start("-c", "2", "-E")
    made = Flower(shop, tmp_path)
    try:
        eventually(lambda: NODE in made.get("workers?refresh=1"), 90, interval=0.5)
        yield made
    finally:
        made.close()


@pytest.mark.timeout(300)
def test_each_button_of_flower_does_on_a_celery_worker_with_the_line_what_celery_does(
    flower: Flower, shop: Shop, tmp_path: Path
) -> None:
    def worker() -> Any:
        return flower.get(f"workers?refresh=1&workername={NODE}")[NODE]

    def consumed() -> set[str]:
        return {queue["name"] for queue in worker()["active_queues"]}

    def children() -> int:
        return len(worker()["stats"]["pool"]["processes"])

    assert "shop.add" in worker()["registered"]
    # queues
    assert "reports" in flower.press(f"worker/queue/add-consumer/{NODE}", queue="reports")
    eventually(lambda: consumed() == {"celery", "reports"}, 60)
    assert "reports" in flower.press(f"worker/queue/cancel-consumer/{NODE}", queue="reports")
    eventually(lambda: consumed() == {"celery"}, 60)
    # the pool
    assert "Growing" in flower.press(f"worker/pool/grow/{NODE}", n=2)
    eventually(lambda: children() == 4, 60)
    assert "Shrinking" in flower.press(f"worker/pool/shrink/{NODE}", n=1)
    eventually(lambda: children() == 3, 60)
    # tasks
    assert "new rate limit set" in flower.press("task/rate-limit/shop.fails", workername=NODE, ratelimit="7/h")
    (answer,) = shop.app.control.inspect(timeout=20, limit=1).registered("rate_limit").values()
    assert "shop.fails [rate_limit=7/h]" in answer
    assert "time limits set" in flower.press("task/timeout/shop.fails", workername=NODE, hard=60, soft=30)
    sent = flower.call("task/send-task/shop.add", b'{"args": [40, 2]}')["task-id"]
    assert shop.app.AsyncResult(sent).get(timeout=60) == 42
    # revoke: what runs ends, as Celery ends it, and what comes later does not run, on a new worker either
    gate, later = Gate(tmp_path / "running"), Gate(tmp_path / "later")
    running = shop.send("shop.deaf", gate.path)
    gate.wait_reached()
    assert "Revoked" in flower.press(f"task/revoke/{running.id}", terminate="true")
    with pytest.raises(TaskRevokedError):
        running.get(timeout=60)
    assert "Revoked" in flower.press("task/revoke/unseen")
    eventually(lambda: shop.client.inspect(timeout=20).replies[0].payload["revoked_count"] == 2, 60)
    # shutdown
    assert "Shutting down" in flower.press(f"worker/shutdown/{NODE}")
    assert shop.workers[0].process.wait(60) == 0
    shop.start("-c", "1")
    with pytest.raises(TaskRevokedError):
        shop.send("shop.deaf", later.path, task_id="unseen").get(timeout=60)
    assert later.reached() is None


@pytest.mark.timeout(300)
def test_flower_s_autoscale_button_changes_a_worker_with_an_autoscaler(
    shop_on: Callable[[str], Shop], tmp_path: Path
) -> None:
    shop = shop_on("redis")
    shop.start("--autoscale", "2,1", "-E")
    flower = Flower(shop, tmp_path)
    try:
        eventually(lambda: NODE in flower.get("workers?refresh=1"), 90, interval=0.5)
        assert "Autoscaling" in flower.press(f"worker/pool/autoscale/{NODE}", min=2, max=3)
        stats = flower.get(f"workers?refresh=1&workername={NODE}")[NODE]["stats"]
        assert (stats["autoscaler"]["min"], stats["autoscaler"]["max"]) == (2, 3)
    finally:
        flower.close()


@pytest.mark.timeout(300)
def test_an_exporter_for_prometheus_counts_a_celery_worker_with_the_line(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "1", "-E")
    port = free_port()
    with (tmp_path / "exporter.log").open("wb") as log:
        exporter = subprocess.Popen(
            [sys.executable, "-m", "celery_prometheus_exporter", "--broker", shop.broker, "--addr", f"127.0.0.1:{port}"],
            env=shop.environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def metrics() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                return str(answer.read().decode())
        except OSError:
            assert exporter.poll() is None, (tmp_path / "exporter.log").read_text()
            return ""

    try:
        eventually(lambda: "celery_workers 1.0" in metrics(), 60, metrics)
        shop.client.revoke(["early"])
        shop.send("shop.add", 1)
        shop.send("shop.fails")
        shop.send("shop.add", 1, task_id="early")
        by_name = 'celery_tasks_by_name{name="shop.%s",state="%s"} 1.0'
        # Celery announces a revoked task without its name.
        for line in (by_name % ("add", "SUCCESS"), by_name % ("fails", "FAILURE"), 'celery_tasks{state="REVOKED"} 1.0'):
            eventually(lambda line=line: line in metrics(), 60, metrics)  # type: ignore[misc]
    finally:
        exporter.terminate()
        exporter.wait(30)
