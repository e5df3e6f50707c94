"""An application whose tasks come in bursts: each marks its attempts; some fail their first one."""

from __future__ import annotations

import os
import time

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext

app = Stem("bursting", broker="memory://bursting")

#: Two queues, so that what is no task is kept in both ways: the second has a dead-letter exchange where brokers know that.
PLAIN, WITH_DEAD_LETTERS = QUEUES = ("bursts", "bursts-dead")
#: What the marks say: Stem or Celery has carried out the task; an attempt began in a worker of Stem, or failed as it was to.
STEM, CELERY, BEGAN, FAILED = "stem", "celery", "began", "failed"


def mark(file: str, task_id: str, what: str) -> None:
    """Add a line about the task to the file, in one write."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{task_id} {what}\n".encode())
    finally:
        os.close(descriptor)


def burst(ctx: TaskContext, file: str, fails: bool, pause: float) -> None:
    mark(file, ctx.task_id, BEGAN)
    time.sleep(pause)
    if fails and ctx.attempt == 1:
        mark(file, ctx.task_id, FAILED)
        raise ValueError("the first attempt")
    mark(file, ctx.task_id, STEM)


for name, isolate in (("burst.inline", False), ("burst.isolate", True)):
    app.task(name, isolate=isolate, max_retries=20, retry_backoff=0.05, retry_jitter=0.0)(burst)
