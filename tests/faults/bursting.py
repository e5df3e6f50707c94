"""An application whose tasks come in bursts: each leaves a mark when it has succeeded; some fail their first attempt."""

from __future__ import annotations

import os
import time

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext

app = Stem("bursting", broker="memory://bursting")

#: Two queues, so that what is no task is kept in both ways: the second has a dead-letter exchange where brokers know that.
PLAIN, WITH_DEAD_LETTERS = QUEUES = ("bursts", "bursts-dead")
STEM, CELERY = "stem", "celery"


def mark(file: str, task_id: str, by: str) -> None:
    """Add to the file, in one write, that a worker of that kind has carried out the task."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{task_id} {by}\n".encode())
    finally:
        os.close(descriptor)


def burst(ctx: TaskContext, file: str, fails: bool, pause: float) -> None:
    time.sleep(pause)
    if fails and ctx.attempt == 1:
        raise ValueError("the first attempt")
    mark(file, ctx.task_id, STEM)


for name, isolate in (("burst.inline", False), ("burst.isolate", True)):
    app.task(name, isolate=isolate, max_retries=20, retry_backoff=0.05, retry_jitter=0.0)(burst)
