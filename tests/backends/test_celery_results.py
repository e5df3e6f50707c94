"""Results for Celery's clients: an ending is final for its life, and an id that is sent again has a new one."""

from __future__ import annotations

import json
from datetime import timedelta

import redis

from stem_kombu.backends.celery_results import CeleryResults
from stem_kombu.clock import SYSTEM
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.settings import Source
from stem_kombu.task import CeleryOrigin, TaskMessage

NOW = SYSTEM.utcnow()
MESSAGE = TaskMessage("t", "shop.add", celery=CeleryOrigin())


def test_g10_a_result_stays_until_its_id_is_sent_again(redis_url: str) -> None:
    results = CeleryResults(Source(redis_url, "test"))
    client = redis.Redis.from_url(redis_url)

    def after(state: TaskState, **fields: object) -> str:
        results.record([(MESSAGE, TaskRecord("t", "shop.add", state, **fields))])  # type: ignore[arg-type]
        return str(json.loads(client.get("celery-task-meta-t") or b"{}")["status"])

    assert after(TaskState.CANCELLED, enqueued_at=NOW) == "REVOKED"
    assert after(TaskState.SUCCEEDED, result=1) == "REVOKED"
    assert after(TaskState.SUCCEEDED, result=1, enqueued_at=NOW) == "REVOKED"
    assert after(TaskState.RUNNING, enqueued_at=NOW + timedelta(microseconds=1)) == "STARTED"
    assert after(TaskState.SUCCEEDED, result=2) == "SUCCESS"
    results.close()
