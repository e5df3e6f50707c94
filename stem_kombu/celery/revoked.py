"""Celery's set of revoked ids, taught to ask Stem's cache as well: no limit of 50,000 and none of three hours.

Celery's worker asks this one object before it runs a task, wherever a task comes from: the broker, an eta, a rate
limit. Modules hold on to the object, so it must stay the same and gets another class.
"""

from __future__ import annotations

import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery.utils.collections import LimitedSet
from celery.worker import state

from stem_kombu.bound import spares
from stem_kombu.fields import FieldError, moment, optional
from stem_kombu.messages.encoding import HEADER_SENT_AT
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import RevocationCache

if TYPE_CHECKING:
    from celery.worker.request import Request


class _Asked(threading.local):
    request: Any = None


#: The request on whose behalf this thread asks, while it does.
asked = _Asked()


class DurableRevoked(LimitedSet):  # type: ignore[misc]  # Celery publishes no types
    """A :class:`LimitedSet` that also holds whatever the cache holds, or that alone: where there are keys, what other
    workers and Celery's remote control put into the set is hearsay."""

    stem_cache: RevocationCache
    stem_alone: bool

    def __contains__(self, task_id: object) -> bool:
        if task_id in self.stem_cache and self._holds_for_request(task_id):
            return True
        return not self.stem_alone and super().__contains__(task_id)

    def _holds_for_request(self, task_id: Any) -> bool:
        # Celery looks first by the id alone, and lets the request decide then (:meth:`StemRequest.revoked`).
        request = asked.request
        if request is None or request.id != task_id:
            return True
        record = self.stem_cache.get(task_id)
        return record is not None and not is_spared(record, request, self.stem_cache.now())

    def __reduce__(self) -> Any:
        # What a worker writes to its --statedb must be readable without Stem.
        _, *rest = super().__reduce__()
        return LimitedSet, *rest


def is_spared(record: Revocation, request: Request, now: datetime) -> bool:
    """Whether a revocation of its id says nothing of this very request (:mod:`stem_kombu.bound`)."""
    if not record.proofs:
        return False
    headers = request.request_dict
    try:
        sent = optional(moment, headers.get(HEADER_SENT_AT), HEADER_SENT_AT)
    except FieldError:
        sent = None
    return spares(record, int(headers.get("retries") or 0) + 1, sent, now)


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
