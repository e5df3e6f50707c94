"""Tasks that Stem sends, on an unmodified Celery worker without Stem."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from celery.exceptions import TaskRevokedError

from stem_kombu import Stem
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.cli.program import Program


def test_a_task_of_stem_runs_on_a_plain_celery_worker(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "2", SHOP_INSTALL="not at all")
    text = "Grüße, 任务 \U0001f680"
    with contextlib.closing(Stem("producer", settings=shop.settings)) as stem:

        def sent(name: str, *args: object, **options: object) -> str:
            return stem.send_task(name, list(args), queue="celery", **options).id  # type: ignore[arg-type]

        result = shop.app.AsyncResult
        assert result(sent("shop.echo", 1, text, kwargs={"k": [None, 1.5]}, headers={"tenant": "acme"})).get(30) == [
            [1, text],
            {"k": [None, 1.5]},
            0,
        ]
        with pytest.raises(ValueError, match="two"):
            result(sent("shop.fails")).get(30)
        assert result(sent("shop.again")).get(30) == "again"  # Celery's own retry of a message of ours
        late = sent("shop.add", 1, eta=datetime.now(timezone.utc) + timedelta(seconds=0.5))
        expired = sent("shop.add", 1, countdown=0.3, expires=0.1)
        assert result(late).get(30) == 1
        with pytest.raises(TaskRevokedError, match="expired"):
            result(expired).get(30)
        # a Celery worker without Stem hears Celery's own revoke of it
        gate = Gate(tmp_path / "gate")
        running = sent("shop.deaf", str(gate.path))
        gate.wait_reached()
        shop.app.control.revoke(running, terminate=True)
        with pytest.raises(TaskRevokedError):
            result(running).get(30)


def test_the_command_sends_to_celery_s_default_queue(shop_on: Callable[[str], Shop], tmp_path: Path) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1", SHOP_INSTALL="not at all")
    program = Program(tmp_path, {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": shop.backend})
    task = program.send("shop.add", "--queue", "celery", a=40, b=2)
    assert shop.app.AsyncResult(task).get(30) == 42
