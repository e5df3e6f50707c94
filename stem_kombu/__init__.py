"""Stem: a worker control plane for Kombu and Celery fleets.

The names below are what users import (``docs/api.md``). They are loaded on first use, so that ``import stem_kombu`` costs
next to nothing and neither kombu nor a driver is imported before something connects. Kombu then knows the embedded broker
under its scheme, ``sqlite://``.
"""

from __future__ import annotations

from stem_kombu import transport_alias
from stem_kombu.version import __version__

_HOMES = {
    "AsyncResult": "stem_kombu.result",
    "AuditClient": "stem_kombu.control.client.audit_log",
    "ControlClient": "stem_kombu.control.client.client",
    "IncomingMessage": "stem_kombu.adapter",
    "QueueClient": "stem_kombu.control.client.queues",
    "Retry": "stem_kombu.context",
    "RetryClient": "stem_kombu.control.client.retries",
    "Revocation": "stem_kombu.revocation",
    "RevocationClient": "stem_kombu.control.client.revocations",
    "RevokeStore": "stem_kombu.stores.base",
    "Settings": "stem_kombu.settings",
    "Stem": "stem_kombu.app",
    "StemError": "stem_kombu.errors",
    "TaskCall": "stem_kombu.adapter",
    "TaskClient": "stem_kombu.control.client.tasks",
    "TaskContext": "stem_kombu.context",
    "TaskReleased": "stem_kombu.context",
    "TaskRevoked": "stem_kombu.context",
    "Worker": "stem_kombu.worker.worker",
    "WorkerStopping": "stem_kombu.context",
    "current_context": "stem_kombu.context",
    "open_revoke_store": "stem_kombu.stores.registry",
}

__all__ = ["__version__", *sorted(_HOMES)]

TYPE_CHECKING = False  # a type checker's own name for true; typing itself is not imported, for the health probe's sake
if TYPE_CHECKING:
    from typing import Any

    from stem_kombu.adapter import IncomingMessage as IncomingMessage
    from stem_kombu.adapter import TaskCall as TaskCall
    from stem_kombu.app import Stem as Stem
    from stem_kombu.context import Retry as Retry
    from stem_kombu.context import TaskContext as TaskContext
    from stem_kombu.context import TaskReleased as TaskReleased
    from stem_kombu.context import TaskRevoked as TaskRevoked
    from stem_kombu.context import WorkerStopping as WorkerStopping
    from stem_kombu.context import current_context as current_context
    from stem_kombu.control.client.audit_log import AuditClient as AuditClient
    from stem_kombu.control.client.client import ControlClient as ControlClient
    from stem_kombu.control.client.queues import QueueClient as QueueClient
    from stem_kombu.control.client.retries import RetryClient as RetryClient
    from stem_kombu.control.client.revocations import RevocationClient as RevocationClient
    from stem_kombu.control.client.tasks import TaskClient as TaskClient
    from stem_kombu.errors import StemError as StemError
    from stem_kombu.result import AsyncResult as AsyncResult
    from stem_kombu.revocation import Revocation as Revocation
    from stem_kombu.settings import Settings as Settings
    from stem_kombu.stores.base import RevokeStore as RevokeStore
    from stem_kombu.stores.registry import open_revoke_store as open_revoke_store
    from stem_kombu.worker.worker import Worker as Worker


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


transport_alias.register()
