"""The tasks of an application whose worker has Stem: each is guarded, those that are registered later as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.app.registry import TaskRegistry

from stem_kombu.celery import batches, task_api
from stem_kombu.celery.requests import RequestParts, with_request_class

if TYPE_CHECKING:
    from celery import Celery


class GuardedRegistry(TaskRegistry):  # type: ignore[misc]  # Celery publishes no types
    """Celery's own, which guards what is put into it."""

    stem_guards: RequestParts

    def __setitem__(self, name: str, task: object) -> None:
        super().__setitem__(name, task)
        _guard(task, self.stem_guards)


def guard_all(app: Celery, parts: RequestParts) -> None:
    """Guard the application's tasks, now and when they are registered. May be called again, for another worker."""
    tasks = app.tasks
    if type(tasks) in (TaskRegistry, GuardedRegistry):
        tasks.__class__ = GuardedRegistry
        tasks.stem_guards = parts
    for task in tasks.values():
        _guard(task, parts)


def _guard(task: object, parts: RequestParts) -> None:
    task_api.guarded(task)
    with_request_class(task, parts)
    batches.sift(task)
