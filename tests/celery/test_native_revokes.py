"""Celery's own revoke, read beside a solo pool."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from stem_kombu.celery.native_revokes import NativeRevokes
from stem_kombu.clock import SYSTEM
from tests.celery.conftest import Shop


def test_a_revoke_that_is_sent_right_after_the_start_is_received(shop: Shop) -> None:
    """Celery keeps no broadcast: what is sent to a worker that says it is ready, and does not receive yet, is lost."""
    came, obeyed = threading.Event(), []

    def obey(task_ids: Sequence[str], terminate: bool) -> None:
        obeyed.append((list(task_ids), terminate))
        came.set()

    with shop.app.connection_for_write() as connection:
        connection.ensure_connection()
        revokes = NativeRevokes(shop.app, "alpha@shop", obey, clock=SYSTEM)
        revokes.start()
        try:
            shop.app.control.revoke("t1", terminate=True, connection=connection)
            assert came.wait(20)
        finally:
            revokes.stop()
    assert obeyed == [(["t1"], True)]
