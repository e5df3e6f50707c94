"""What a Celery task calls: checkpoints that stop it once a terminate is pending, in whatever pool it runs.

Outside a worker that has Stem installed (a task called as a function, ``task_always_eager``) they do nothing.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.exceptions import Ignore

from stem_kombu import timeouts
from stem_kombu.celery.endings import end_stopped
from stem_kombu.celery.process_levels import here as levels_here
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.clock import isoformat, monotonic
from stem_kombu.context import TaskRevoked
from stem_kombu.revocation import Revocation

if TYPE_CHECKING:
    from celery import Task

logger = logging.getLogger(__name__)

#: Bytes of progress data, as in Stem's own tasks.
_PROGRESS_LIMIT = 16_384


class _Here(threading.local):
    """What this thread (or greenlet) knows of the task that it runs for the worker.

    Not what Celery calls the current task: a task that another one calls as a function is that for a while, and a
    checkpoint in it is one of the task that was called by the worker.
    """

    task: Any = None
    task_id: str | None = None
    seen = -1  # the stop table's count when it was last searched for this task
    next_report = 0.0


_here = _Here()
#: The stop table and its counter, once a worker has installed one; inherited by its children.
_words: Any = None
_stop_table: SharedStopTable | None = None


def install(stop_table: SharedStopTable | None) -> None:
    """Use this stop table in this process and in those that it forks."""
    global _stop_table, _words
    _stop_table, _words = stop_table, None if stop_table is None else stop_table.words


def is_installed() -> bool:
    """Whether this process has a stop table."""
    return _stop_table is not None


def checkpoint() -> None:
    """Return at once, or raise :class:`~stem_kombu.context.TaskRevoked` when a terminate of this task is pending.

    Costs a comparison while nothing is pending. ``TaskRevoked`` is a ``BaseException``: let it pass, put clean-up in
    ``finally``. The task's state then is ``REVOKED``; it is not retried, and its message is acknowledged.
    """
    if _words is None or _words[0] == _here.seen:
        return
    revocation = _look()
    if revocation is not None and revocation.terminate:
        raise TaskRevoked(revocation)


#: A checkpoint, under the name that Stem's own tasks know. The worker keeps its messages' leases by itself.
heartbeat = checkpoint


def extend_lease(seconds: float) -> None:
    """A checkpoint. The lease needs no help: on Redis the worker renews every message that it holds while it lives.

    Raises ``ValueError`` unless ``seconds`` is more than zero.
    """
    if not seconds > 0:
        raise ValueError(f"lease of {seconds!r} s must be more than zero")
    checkpoint()


def progress(fraction: float | None = None, /, **data: object) -> None:
    """Report how far the task is, as Celery's state ``PROGRESS`` with ``{"progress": fraction, **data}``, then checkpoint.

    Written to the result backend at most ten times a second. Raises ``ValueError`` for a fraction outside 0 to 1 and for
    data that is no JSON or longer than 16 kB.
    """
    if fraction is not None and not 0.0 <= fraction <= 1.0:
        raise ValueError(f"progress {fraction!r} is not between 0 and 1")
    checkpoint()
    now = monotonic()
    if now < _here.next_report:
        return
    task = _here.task
    if task is None:
        return
    try:
        length = len(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"progress data is no JSON: {error}") from None
    if length > _PROGRESS_LIMIT:
        raise ValueError(f"progress data has {length} bytes; at most {_PROGRESS_LIMIT} are kept")
    _here.next_report = now + timeouts.GUEST_PROGRESS
    if not _ignores_result(task):
        task.update_state(_here.task_id, state="PROGRESS", meta={"progress": fraction, **data})


def guarded(task: Task) -> None:
    """Make the task stop as revoked where :func:`checkpoint` raises, and never start where it is revoked by then."""
    run = task.run
    if getattr(run, "stem_guarded", False):
        return

    @functools.wraps(run)
    def guard(*args: object, **kwargs: object) -> Any:
        request = task.request
        if _stop_table is None or request.id is None or request.is_eager:
            return run(*args, **kwargs)
        _here.task, _here.task_id, _here.seen, _here.next_report = task, request.id, -1, 0.0
        if request.chain:
            # Celery before 5.6 takes what comes next out of the list, and then sends it.
            request.stem_chain = tuple(request.chain)
        try:
            revocation = _look()
            if revocation is not None:
                _end_as_revoked(task, revocation, terminated=False)
            return run(*args, **kwargs)
        except TaskRevoked as stop:
            _end_as_revoked(task, stop.revocation, terminated=True)
        finally:
            _here.task = _here.task_id = None

    guard.stem_guarded = True  # type: ignore[attr-defined]
    task.run = guard


def _look() -> Revocation | None:
    """The entry of the task that runs here."""
    task_id = _here.task_id
    if _stop_table is None or task_id is None:
        return None
    count = _stop_table.words[0]
    levels_here.look(_stop_table)
    found = _stop_table.find(task_id)
    if found is None or not found.terminate:
        _here.seen = count
    return found


def _end_as_revoked(task: Task, revocation: Revocation, *, terminated: bool) -> None:
    """Record why, tell who listens, and raise what makes Celery acknowledge the message and leave the state alone.

    Monitors are told by the worker (see :class:`~stem_kombu.celery.requests.StemRequest`): a child that connected to the
    broker for that would keep its slot from the next task.
    """
    assert _stop_table is not None
    request = task.request
    end_stopped(task, request, told(revocation), began=terminated, store_result=not _ignores_result(task))
    _stop_table.stop(request.id)
    signals.task_revoked.send(sender=task, request=request, terminated=terminated, signum=None, expired=False)
    logger.info("task %s stopped: %s", request.id, told(revocation))
    raise Ignore


def told(revocation: Revocation) -> str:
    """The revocation in words, as the result of the task."""
    why = f": {revocation.reason}" if revocation.reason else ""
    who = f" by {revocation.requested_by}" if revocation.requested_by else ""
    return f"revoked{who} at {isoformat(revocation.issued_at)}{why}"


def _ignores_result(task: Task) -> bool:
    asked = task.request.ignore_result
    return bool(task.ignore_result if asked is None else asked)
