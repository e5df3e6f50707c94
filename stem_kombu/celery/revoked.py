"""Celery's set of revoked ids, taught to ask Stem's cache as well: no limit of 50,000 and none of three hours.

Celery's worker asks this one object before it runs a task, wherever a task comes from: the broker, an eta, a rate
limit. Modules hold on to the object, so it must stay the same and gets another class.
"""

from __future__ import annotations

from typing import Any

from celery.utils.collections import LimitedSet
from celery.worker import state

from stem_kombu.revocation_cache import RevocationCache


class DurableRevoked(LimitedSet):  # type: ignore[misc]  # Celery publishes no types
    """A :class:`LimitedSet` that also holds whatever the cache holds, or that alone: where there are keys, what other
    workers and Celery's remote control put into the set is hearsay."""

    stem_cache: RevocationCache
    stem_alone: bool

    def __contains__(self, task_id: Any) -> bool:
        return task_id in self.stem_cache or (not self.stem_alone and super().__contains__(task_id))

    def __reduce__(self) -> Any:
        # What a worker writes to its --statedb must be readable without Stem.
        _, *rest = super().__reduce__()
        return LimitedSet, *rest


def install(cache: RevocationCache, *, alone: bool = False) -> None:
    """Make this process's Celery worker refuse what the cache holds, and with ``alone`` nothing else."""
    state.revoked.__class__ = DurableRevoked
    state.revoked.stem_cache = cache
    state.revoked.stem_alone = alone


def uninstall() -> None:
    """Let the set be Celery's own again."""
    if isinstance(state.revoked, DurableRevoked):
        del state.revoked.stem_cache, state.revoked.stem_alone
        state.revoked.__class__ = LimitedSet
