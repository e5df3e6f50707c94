"""A Celery worker with Stem in it is shut down as Celery does it, warm; nothing else is promised of it (G33)."""

from __future__ import annotations

import pytest

from stem_kombu.control.protocol.messages import Shutdown, ShutdownMode
from tests.celery.conftest import Shop


@pytest.mark.parametrize("pool", [("-c", "1"), ("-P", "threads", "-c", "1")], ids=["prefork", "threads"])
def test_g33_a_celery_worker_is_shut_down_warm_and_not_otherwise(shop: Shop, pool: tuple[str, ...]) -> None:
    worker = shop.start(*pool)
    for order in (Shutdown(ShutdownMode.SOFT), Shutdown(ShutdownMode.WARM, 1, ShutdownMode.HARD)):
        (reply,) = shop.client.ask(order, workers=[worker.name], timeout=20).replies
        assert reply.error is not None
        assert reply.error.code == "unsupported"
    (reply,) = shop.client.ask(Shutdown(exit_code=75), workers=[worker.name], timeout=20).replies
    assert reply.error is None
    assert (reply.payload["mode"], reply.payload["was"]) == ("warm", "running")
    assert worker.process.wait(60) == 75
    assert "Traceback" not in worker.log
