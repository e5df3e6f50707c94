"""What becomes of everything around a task that is revoked: its class's handlers, and what was to follow it.

A stopped task ends as Celery ends one that fails inside its process, with the state ``REVOKED``: ``on_failure`` and
``after_return`` of its class are called, in its process. A task that never started, or whose process was killed, calls neither,
as in Celery. What follows either is the same: the rest of its chain is recorded as revoked, and its errbacks are called.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery import states
from celery.app.task import Context
from celery.app.trace import ExceptionInfo
from celery.exceptions import TaskRevokedError

from stem_kombu.celery.canvas_members import members

if TYPE_CHECKING:
    from celery import Task
    from celery.backends.base import Backend
    from celery.worker.request import Request

logger = logging.getLogger(__name__)


def end_stopped(task: Task, request: Request, reason: str, *, began: bool, store_result: bool) -> None:
    """Record the task that runs here, and what was to follow it, as revoked for that reason; call its class's handlers if it
    ``began``."""
    task.backend.mark_as_revoked(request.id, reason, request=request, store_result=store_result, state=states.REVOKED)
    end_followers(task, request, reason)
    if began:
        _call_handlers(task, request, TaskRevokedError(reason))


def end_followers(task: Task, request: Request, reason: str) -> None:
    """Record what was to follow the task in its chain as revoked, and call its errbacks. Logs what fails: it raises nothing."""
    error = TaskRevokedError(reason)
    try:
        for element in list(request.chain or ()):
            _end_element(task.backend, element, error)
        if request.errbacks:
            task.backend._call_task_errbacks(request, error, None)
    except Exception:
        # The boundary to a backend and to an application's errbacks: the revoked task itself must end in any case.
        logger.exception("task %s is revoked, but its chord, chain or errbacks could not be notified", request.id)


def _end_element(backend: Backend, element: Mapping[str, object], error: Exception) -> None:
    for task_id, context in {context.id: context for context in map(_context, members(element))}.items():
        if task_id is not None:
            backend.store_result(task_id, error, states.REVOKED, traceback=None, request=context)
    last = _context(element)
    if last.id is not None and "chord" in (
        last.options or {}
    ):  # the chain is a member of a chord: its body waits for this
        backend.on_chord_part_return(last, states.REVOKED, error)


def _context(signature: Mapping[str, Any]) -> Context:
    """As Celery's backends make one of a signature that was never sent."""
    options = dict(signature.get("options") or {})
    context = Context(signature)
    context.update(options)
    context.id, context.group = options.get("task_id"), options.get("group_id")
    return context


def _call_handlers(task: Task, request: Request, error: Exception) -> None:
    """``on_failure`` and ``after_return``, as Celery calls them after a failure."""
    try:
        raise error
    except TaskRevokedError:
        einfo = ExceptionInfo()
    ended = (error, request.id, request.args, request.kwargs, einfo)
    for handler, given in ((task.on_failure, ended), (task.after_return, (states.REVOKED, *ended))):
        try:
            handler(*given)
        except Exception:
            # The boundary to the application's class.
            logger.exception("task %s is revoked, and a handler of its class failed", request.id)
