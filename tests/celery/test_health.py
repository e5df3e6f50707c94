"""A Celery worker with Stem in it keeps a health file as Stem's own workers do; Celery's loop stamps it (G34)."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from stem_kombu import health_page
from stem_kombu.health_page import Health, Page, health_of
from tests.celery.conftest import Shop
from tests.suspension import suspend
from tests.waiting import eventually


def probed(path: Path) -> Health:
    return health_of(Page.at(str(path)), time.monotonic())


@pytest.mark.parametrize("pool", [("-c", "1"), ("-P", "threads", "-c", "1")], ids=["prefork", "threads"])
def test_g34_a_celery_worker_is_ready_while_its_loop_consumes(
    shop: Shop, pool: tuple[str, ...], state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_page, "CONSUMES_WITHIN", 6.0)
    worker = shop.start(*pool)
    path = state_folder / "stem" / "alpha@shop.health"
    health = eventually(lambda: (found := probed(path)).state == "ok" and found, 30)
    assert health.worker == worker.name
    assert health.queues == {"celery": True}
    assert {name for name, _, _ in health.threads} == {"hydration", "control", "heartbeats"}
    suspend(worker.process.pid)
    health = eventually(lambda: (found := probed(path)).state == "disconnected" and found, 60)
    assert not health.ready
    worker.process.send_signal(signal.SIGCONT)
    eventually(lambda: probed(path).ready, 60)
    assert worker.terminate() == 0
    assert not path.exists()
