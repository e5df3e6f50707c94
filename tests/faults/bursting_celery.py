"""The tasks of :mod:`tests.faults.bursting` as Celery runs them: ``celery -A tests.faults.bursting_celery worker``.

The broker comes from the variable ``BURSTING_BROKER``. The application is plain Celery, without anything of Stem's.
"""

from __future__ import annotations

import os
import time

from celery import Celery
from celery.app.task import Task
from kombu import Queue

from tests.faults.bursting import CELERY, QUEUES, mark

NAMES = ("burst.inline", "burst.isolate")


def make(broker: str) -> Celery:
    """The application on that broker, where its queues exist."""
    made = Celery("bursting", broker=broker, set_as_current=False)
    made.conf.update(
        task_queues=[Queue(name, no_declare=True) for name in QUEUES],
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
    )

    def burst(self: Task, file: str, fails: bool, pause: float) -> None:
        time.sleep(pause)
        if fails and self.request.retries == 0:
            raise self.retry(countdown=0.05)
        mark(file, self.request.id, CELERY)

    for name in NAMES:
        made.task(name=name, shared=False, bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=20)(burst)
    return made


app = make(os.environ.get("BURSTING_BROKER", "memory://"))
