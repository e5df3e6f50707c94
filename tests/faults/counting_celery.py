"""The task of :mod:`tests.faults.counting` as Celery runs it, with the line: ``celery -A tests.faults.counting_celery worker``.

Broker and backend come from variables.
"""

from __future__ import annotations

import os

from celery import Celery
from celery.app.task import Task

from stem_kombu.celery import install
from stem_kombu.testing.gates import Gate
from tests.faults.bursting import mark

#: Seconds after which Redis gives back what a killed worker held.
VISIBILITY = 4


def make(broker: str, backend: str) -> Celery:
    """The application, as a client without the line has it."""
    made = Celery("counting", broker=broker, backend=backend, set_as_current=False)
    # A worker of one child may hold all tasks of a round.
    made.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=64)
    if broker.startswith("redis"):
        made.conf.broker_transport_options = {
            "visibility_timeout": VISIBILITY, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1,
        }  # fmt: skip

    def count(self: Task, file: str) -> None:
        mark(file, self.request.id, "celery")

    def hold(gate: str) -> None:
        Gate(gate).reach()
        Gate(gate).wait_open()

    made.task(name="count", shared=False, bind=True)(count)
    made.task(name="hold", shared=False)(hold)
    return made


app = make(os.environ.get("COUNTING_BROKER", "memory://"), os.environ.get("COUNTING_BACKEND", "cache+memory://"))
install(app)
