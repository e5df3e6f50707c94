"""What comes late: tasks that are registered in a worker that runs, and the soft shutdown of Celery 5.5."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import celery
import pytest
from celery.exceptions import TaskRevokedError

from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.waiting import eventually


def test_a_task_that_is_registered_later_stops_at_its_checkpoint(
    shop_on: Callable[[str], Shop], tmp_path: Path
) -> None:
    shop = shop_on("redis")
    shop.start("-P", "threads", "-c", "2")
    shop.send("shop.register").get(timeout=30)
    gate = Gate(tmp_path / "gate")
    result = shop.send("shop.late", gate.path)
    gate.wait_reached()
    assert shop.client.revoke([result.id], terminate=True).replies[0].payload["terminated"] == [result.id]
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)


@pytest.mark.skipif(celery.VERSION < (5, 5), reason="Celery has it since 5.5")
def test_g16_a_worker_in_its_soft_shutdown_says_that_it_drains(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    shop = shop_on("redis")
    worker = shop.start("-c", "1", SHOP_SOFT_SHUTDOWN="60")
    gate = Gate(tmp_path / "gate")
    shop.send("shop.deaf", gate.path)
    gate.wait_reached()
    assert shop.client.ping().replies[0].payload["state"] == "running"
    worker.process.send_signal(signal.SIGQUIT)
    eventually(lambda: "Initiating Soft Shutdown" in worker.log, 30, lambda: worker.log)
    eventually(lambda: [reply.payload["state"] for reply in shop.client.ping().replies] == ["draining"], 30)
