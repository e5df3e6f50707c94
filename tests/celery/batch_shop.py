"""A Celery application with a task of celery-batches, as its documentation has it."""

from __future__ import annotations

import os

from celery import Celery
from celery_batches import Batches

from stem_kombu.celery import install
from stem_kombu.testing.gates import Gate

app = Celery("batches", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BACKEND"])
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False, worker_prefetch_multiplier=64)
install(app)


@app.task(name="batches.sums", base=Batches, flush_every=4, flush_interval=3600)
def sums(requests: list) -> None:  # type: ignore[type-arg]
    """The answer to each request is the sum of the whole batch."""
    for request in requests:
        Gate(request.args[0]).reach(request.id)
    total = sum(request.args[1] for request in requests)
    for request in requests:
        app.backend.mark_as_done(request.id, total, request=request)
