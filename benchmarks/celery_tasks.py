"""The same tasks for Celery's workers."""

from __future__ import annotations

import os

from celery import Celery

app = Celery(
    "benchmarks",
    broker=os.environ.get("BENCH_CELERY_BROKER"),
    backend=os.environ.get("BENCH_CELERY_BACKEND") or None,
)
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_default_queue=os.environ.get("BENCH_CELERY_QUEUE", "celery"),
    task_ignore_result=os.environ.get("BENCH_CELERY_RESULTS") != "1",
)
if os.environ.get("BENCH_CELERY_TUNED") == "1":
    # What Celery's own guide to optimizing recommends for many short tasks.
    app.conf.update(worker_prefetch_multiplier=64, worker_disable_rate_limits=True, task_acks_late=False)


@app.task(name="bench.no_op")
def no_op(payload: str = "") -> None:
    """Nothing."""
