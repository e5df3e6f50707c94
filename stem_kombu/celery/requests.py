"""Celery's requests, taught to say who revoked them, to count how they ended, and to tell monitors that they stopped.

Celery has no hook for these that works in every pool. ``Task.Request`` is its documented place for a class of one's
own; a worker makes a subclass of it for each task.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError
from celery.worker import state
from kombu.utils.imports import symbol_by_name

from stem_kombu.celery.endings import end_followers
from stem_kombu.celery.held_requests import consumed_from
from stem_kombu.celery.queue_pauses import QueuePauses
from stem_kombu.celery.revoked import asked
from stem_kombu.celery.rules import GuestRules
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.celery.task_api import told
from stem_kombu.clock import SYSTEM
from stem_kombu.measures import Totals
from stem_kombu.revocation import Revocation

if TYPE_CHECKING:
    from celery import Task
    from celery.app.trace import ExceptionInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class RequestParts:
    """What the requests of one worker know of it."""

    totals: Totals
    stop_table: SharedStopTable
    pauses: QueuePauses
    rules: GuestRules


class StemRequest:
    """Goes before Celery's ``Request`` among the bases of a class that :func:`with_request_class` makes."""

    stem_totals: Totals
    stem_stop_table: SharedStopTable
    stem_pauses: QueuePauses
    stem_rules: GuestRules

    id: str
    #: What a rule says of it, and the key of that rule.
    stem_struck: Revocation | None = None
    stem_struck_by: str | None = None
    #: Whether the pool was given it, and whether it goes back to its queue, which is paused.
    stem_handed = stem_given_back = False
    #: What a pool of threads is to run.
    stem_future: object = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if (on_success := cls.__dict__.get("on_success")) is not None:
            cls.on_success = _counted(on_success)  # type: ignore[attr-defined]
        if (execute := cls.__dict__.get("execute_using_pool")) is not None:
            cls.execute_using_pool = _admitted(execute)  # type: ignore[attr-defined]

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        info = self.delivery_info or {}  # type: ignore[attr-defined]
        # Without an exchange the routing key is the queue; to ask Celery for its queues takes as long as all else here.
        queue = self._queue_bound(info) if info.get("exchange") else str(info.get("routing_key") or "")
        self._stem_place = queue, str(self.name)  # type: ignore[attr-defined]
        self.stem_totals.add("received", *self._stem_place)
        if info.get("redelivered"):
            self.stem_totals.add("redelivered", *self._stem_place)
        if self.stem_rules.active.live:
            self.stem_rules.come(self)

    def _queue_bound(self, info: Mapping[str, object]) -> str:
        return consumed_from(info, list(self.app.amqp.queues.consume_from.values()))  # type: ignore[attr-defined]

    @property
    def stem_queue(self) -> str:
        return self._stem_place[0]

    def revoked(self) -> bool:
        """Whether it is not to run, by its id, by Celery's stamps or by a rule; it is recorded as revoked then."""
        asked.request = self
        try:
            if super().revoked():  # type: ignore[misc]
                return True
        finally:
            asked.request = None
        if self.stem_rules.active.live:
            self.stem_rules.come(self)
        if self.stem_struck is None:
            return False
        logger.info("task %s[%s] is revoked by a rule", self.name, self.id)  # type: ignore[attr-defined]
        self._announce_revoked("revoked", False, None, False)
        return True

    def on_accepted(self, pid: int, time_accepted: float) -> object:
        self.stem_totals.started(*self._stem_place, None)
        return super().on_accepted(pid, time_accepted)  # type: ignore[misc]

    def stem_ended(self, name: str, how: str | None = None) -> None:
        """Count that it has ended as ``name``; ``how`` it was cancelled, if it was."""
        began = self.time_start  # type: ignore[attr-defined]
        ran = None if began is None else SYSTEM.now() - float(began)
        self.stem_totals.ended(name, *self._stem_place, ran=ran, how=how)

    def on_failure(self, exc_info: ExceptionInfo, *args: object, **kwargs: object) -> object:
        answer = super().on_failure(exc_info, *args, **kwargs)  # type: ignore[misc]
        error = exc_info.exception
        if type(error).__name__ == "ExceptionWithTraceback":
            error = error.exc
        if isinstance(error, Ignore):
            if self.stem_stop_table.stopped(self.id):
                self.stem_ended("cancelled", "checkpoint")
                self.send_event("task-revoked", terminated=True, signum=None, expired=False)  # type: ignore[attr-defined]
        elif isinstance(error, Retry):
            self.stem_ended("retried")
        # What was revoked while it ran was counted when that was announced; what is requeued has not ended.
        elif not self._already_revoked and not (isinstance(error, Reject) and error.requeue):  # type: ignore[attr-defined]
            self.stem_ended("failed")
        return answer

    def on_timeout(self, soft: bool, timeout: object) -> object:
        if not soft:
            self.stem_ended("failed")
        return super().on_timeout(soft, timeout)  # type: ignore[misc]

    def _announce_revoked(self, reason: str, terminated: bool, signum: object, expired: bool) -> object:
        cache = getattr(state.revoked, "stem_cache", None)
        revocation = None if cache is None or expired else cache.get(self.id) or self.stem_struck
        why = reason if revocation is None else told(revocation)
        self.stem_ended("cancelled", "expired" if expired else "kill" if terminated else "before-start")
        if not expired and not self._already_revoked:  # type: ignore[attr-defined]
            end_followers(self.task, self._context, why)  # type: ignore[attr-defined]
        reason = why if reason == "revoked" else reason  # of a process that was killed Celery's own word stays
        return super()._announce_revoked(reason, terminated, signum, expired)  # type: ignore[misc]


def with_request_class(task: Task, parts: RequestParts) -> None:
    """Have the worker make requests for this task that know these. May be called again, for another worker."""
    base = symbol_by_name(task.Request)
    plain = getattr(base, "stem_base", base)
    task.Request = _class_of(plain, parts)


@functools.lru_cache(maxsize=64)
def _class_of(base: type, parts: RequestParts) -> type:
    names = {"stem_base": base, "stem_totals": parts.totals, "stem_stop_table": parts.stop_table}
    names |= {"stem_pauses": parts.pauses, "stem_rules": parts.rules, "__module__": base.__module__}
    return type(base.__name__, (StemRequest, base), names)


def _counted(on_success: Any) -> object:
    @functools.wraps(on_success)
    def counted(self: Any, failed__retval__runtime: Any, **kwargs: object) -> object:
        if not failed__retval__runtime[0]:
            self.stem_ended("succeeded")
        return on_success(self, failed__retval__runtime, **kwargs)

    return counted


def _admitted(execute: Any) -> object:
    @functools.wraps(execute)
    def admitted(self: Any, pool: object, **kwargs: object) -> object:
        if not self.stem_pauses.admits(self):
            raise TaskRevokedError(self.id)  # which has Celery take its slot back, and nothing else
        result = execute(self, pool, **kwargs)
        self.stem_future = getattr(result, "f", None)
        return result

    return admitted
