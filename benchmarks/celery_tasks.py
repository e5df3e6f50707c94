"""The same tasks for Celery's workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from benchmarks.notes import note

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
if os.environ.get("BENCH_CELERY_STEM") == "1":
    from stem_kombu.celery import install

    install(app)


@app.task(name="bench.busy", max_retries=0)
def busy(path: str) -> None:
    """Checkpoints every millisecond, and notes when it was stopped."""
    from stem_kombu.celery import checkpoint

    note(path, "started")
    try:
        while True:
            time.sleep(0.001)
            checkpoint()
    finally:
        note(path, "stopped")


@app.task(name="bench.mark")
def mark(path: str) -> None:
    """Notes when it began."""
    note(path, "marked")


@app.task(name="bench.checkpoints")
def checkpoints(path: str, rounds: int) -> None:
    """Nanoseconds of a checkpoint with nothing pending."""
    from stem_kombu.celery import checkpoint

    numbers = range(rounds)
    began = time.perf_counter_ns()
    for _ in numbers:
        checkpoint()
    Path(path).write_text(str((time.perf_counter_ns() - began) / rounds))


@app.task(name="bench.no_op")
def no_op(payload: str = "") -> None:
    """Nothing."""
