"""An application whose task ends its first attempt in a way that is asked for, and notes how each of its messages came."""

from __future__ import annotations

import json
import os
from typing import Any

from stem_kombu import timeouts
from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.messages.resending import consumed_queue
from stem_kombu.worker.admission import Admission

app = Stem("routed", broker="memory://routed")
#: Far etas are put back at RabbitMQ after so many seconds, and not after a quarter of an hour.
LONGEST_HOLD = 0.3
NOTED = ("priority", "reply_to", "correlation_id")

_receive = Admission.receive


def _note(self: Admission, raw: Any, generation: int) -> None:
    file = raw.headers.get("marks")
    if file is not None:
        came = {
            "id": raw.headers["id"],
            "retries": raw.headers["retries"],
            "queue": consumed_queue(raw),
            "tenant": raw.headers.get("tenant"),
            **{name: raw.properties.get(name) for name in NOTED},
        }
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{json.dumps(came)}\n".encode())
        finally:
            os.close(descriptor)
    _receive(self, raw, generation)


def watch() -> None:
    """Have this process note what its workers take in."""
    Admission.receive = _note  # type: ignore[method-assign]
    timeouts.AMQP_LONGEST_HOLD = LONGEST_HOLD


@app.task("again", max_retries=5, retry_backoff=0.05, retry_jitter=0.0)
def again(ctx: TaskContext, way: str) -> str:
    if ctx.attempt == 1:
        if way == "retry":
            raise ctx.retry("once", countdown=0.1)
        if way == "raise":
            raise ValueError("once")
    return ctx.queue
