"""Stem inside Celery workers: one line, ``stem_kombu.celery.install(app)``. Needs the extra ``stem-kombu[celery]``.

Inside tasks: ``checkpoint()``, ``heartbeat()``, ``progress()`` and ``extend_lease()`` stop the task once a terminate is
pending. See docs/celery.md. Nothing outside this package imports Celery.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "TaskRevoked": "stem_kombu.context",
    "checkpoint": "stem_kombu.celery.task_api",
    "extend_lease": "stem_kombu.celery.task_api",
    "heartbeat": "stem_kombu.celery.task_api",
    "install": "stem_kombu.celery.installation",
    "progress": "stem_kombu.celery.task_api",
    "settings_of": "stem_kombu.celery.configuration",
}

__all__ = sorted(_HOMES)

if TYPE_CHECKING:
    from stem_kombu.celery.configuration import settings_of as settings_of
    from stem_kombu.celery.installation import install as install
    from stem_kombu.celery.task_api import checkpoint as checkpoint
    from stem_kombu.celery.task_api import extend_lease as extend_lease
    from stem_kombu.celery.task_api import heartbeat as heartbeat
    from stem_kombu.celery.task_api import progress as progress
    from stem_kombu.context import TaskRevoked as TaskRevoked


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value
