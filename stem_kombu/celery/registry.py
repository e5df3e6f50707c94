"""The tasks of an application whose worker has Stem: each is guarded, those that are registered later as well."""

from __future__ import annotations

from typing import Any

from celery.app.registry import TaskRegistry

from stem_kombu.celery import task_api
from stem_kombu.celery.queue_pauses import QueuePauses
from stem_kombu.celery.requests import with_request_class
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.worker.totals import Totals


class GuardedRegistry(TaskRegistry):  # type: ignore[misc]  # Celery publishes no types
    """Celery's own, which guards what is put into it."""

    stem_guards: tuple[Totals, SharedStopTable, QueuePauses]

    def __setitem__(self, name: str, task: Any) -> None:
        super().__setitem__(name, task)
        _guard(task, *self.stem_guards)


def guard_all(app: Any, totals: Totals, stop_table: SharedStopTable, pauses: QueuePauses) -> None:
    """Guard the application's tasks, now and when they are registered. May be called again, for another worker."""
    tasks = app.tasks
    if type(tasks) in (TaskRegistry, GuardedRegistry):
        tasks.__class__ = GuardedRegistry
        tasks.stem_guards = totals, stop_table, pauses
    for task in tasks.values():
        _guard(task, totals, stop_table, pauses)


def _guard(task: Any, totals: Totals, stop_table: SharedStopTable, pauses: QueuePauses) -> None:
    task_api.guarded(task)
    with_request_class(task, totals, stop_table, pauses)
