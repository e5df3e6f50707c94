"""Celery's own revoke, read beside a solo pool."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from stem_kombu.celery.native_revokes import NativeRevokes
from stem_kombu.clock import SYSTEM
from tests.celery.conftest import Shop


def test_each_revoke_of_one_plain_client_is_answered_over_a_restart(tmp_path: Path, amqp_url: str) -> None:
    """Celery's worker writes each id to the database before it answers: a client that waits long enough has its answer."""
    shop = Shop(amqp_url, f"db+sqlite:///{tmp_path / 'results.db'}", tmp_path)
    try:
        for round_ in ("first", "second"):
            worker = shop.start("-c", "1")
            ids = [f"{round_}-{number}" for number in range(50)]
            (answer,) = shop.app.control.revoke(ids, reply=True, timeout=60, limit=1)
            assert "ok" in answer["alpha@shop"], answer
            assert "durable" not in answer["alpha@shop"]
            worker.terminate()
    finally:
        shop.close()


def test_a_revoke_that_is_sent_right_after_the_start_is_received(shop: Shop) -> None:
    """Celery keeps no broadcast: what is sent to a worker that says it is ready, and does not receive yet, is lost."""
    came, obeyed = threading.Event(), []

    def obey(task_ids: Sequence[str], terminate: bool) -> None:
        obeyed.append((list(task_ids), terminate))
        came.set()

    with shop.app.connection_for_write() as connection:
        connection.ensure_connection()
        revokes = NativeRevokes(shop.app, "alpha@shop", obey, lambda *_: None, clock=SYSTEM)
        revokes.start()
        try:
            shop.app.control.revoke("t1", terminate=True, connection=connection)
            assert came.wait(20)
        finally:
            revokes.stop()
    assert obeyed == [(["t1"], True)]
