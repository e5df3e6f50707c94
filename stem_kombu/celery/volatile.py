"""A Celery worker without a revoke store: what it receives, it holds while it lives, and its neighbours learn of it as
Celery's own workers do, from each other when they start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery.worker import state

from stem_kombu.celery.view import CeleryTasks
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied
from stem_kombu.stores.volatile import VolatileRevokeStore


class VolatileTasks(CeleryTasks):
    """See :class:`CeleryTasks`. What is applied is put into ``store``, the memory of this process."""

    def __init__(self, store: VolatileRevokeStore, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._store = store

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        self._store.keep(self._cache.namespace, revocations)
        for revocation in revocations:
            if revocation.expires_at is None:  # Celery's set knows no other end than its own
                state.revoked.add(revocation.task_id)
        return super().apply(revocations)
