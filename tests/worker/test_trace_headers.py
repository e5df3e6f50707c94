"""Headers of a trace reach each attempt of a task as they were sent, whoever sent them: W3C's, and what OpenTelemetry's own
instrumentation of Celery puts beside the protocol's."""

from __future__ import annotations

import json
import queue
import uuid
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Producer

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.settings import Settings
from stem_kombu.worker.worker import Worker

TRACE = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
    "baggage": "tenant=acme,user=m%C3%BCller",
}


@pytest.mark.parametrize("broker_url", ["embedded", "redis", "amqp"], indirect=True)
@pytest.mark.parametrize("sender", ["stem", "celery"])
def test_headers_of_a_trace_reach_each_attempt_unharmed(broker_url: str, sender: str, tmp_path: Path) -> None:
    name = f"traced-{uuid.uuid4().hex[:8]}"
    app = Stem(
        "traced",
        settings=Settings.from_env(
            {}, broker=broker_url, backend=f"sqlite:///{tmp_path / 'state.db'}", queues=name, sync_interval=0.3
        ),
    )
    seen: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()

    @app.task("traced.twice", max_retries=1)
    def twice(ctx: TaskContext) -> None:
        seen.put((ctx.attempt, dict(ctx.headers)))
        if ctx.attempt == 1:
            raise ctx.retry(countdown=0.01)

    try:
        with Worker(app, name="alpha"):
            if sender == "stem":
                app.send_task("traced.twice", queue=name, headers=TRACE)
            else:
                send_as_celery_does(broker_url, name)
            attempts = [seen.get(timeout=60), seen.get(timeout=60)]
    finally:
        app.close()
    assert [attempt for attempt, _ in attempts] == [1, 2]
    for _, headers in attempts:
        assert {key: headers.get(key) for key in TRACE} == TRACE


def send_as_celery_does(broker_url: str, to: str) -> None:
    """A message of protocol 2 with the headers of a trace beside the protocol's own."""
    task_id = str(uuid.uuid4())
    headers = {"lang": "py", "task": "traced.twice", "id": task_id, "root_id": task_id, "retries": 0, **TRACE}
    with Connection(broker_url) as connection:
        Producer(connection.default_channel).publish(
            json.dumps([[], {}, {}]),
            routing_key=to,
            headers=headers,
            correlation_id=task_id,
            content_type="application/json",
            content_encoding="utf-8",
        )
