"""Calling a handler: the boundary at which whatever it does becomes an :class:`~stem_kombu.outcome.Outcome`.

The same for threads, coroutines and children, so that inline and isolate handlers can't end differently.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import traceback as tracebacks
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from stem_kombu.clock import monotonic
from stem_kombu.context import Retry, TaskContext, TaskReleased, TaskRevoked, _current
from stem_kombu.errors import LeaseLost, ResultNotSerializable, TimeLimitExceeded
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.task import Task, TaskMessage

#: Characters of a traceback, and of an error's message, that are kept.
TRACEBACK_LIMIT = 16_000
MESSAGE_LIMIT = 4_000
#: Bytes of a result as JSON. Results travel through broker and store; larger ones belong somewhere else.
RESULT_LIMIT = 16 * 1024 * 1024


def call(task: Task, message: TaskMessage, context: TaskContext) -> Outcome:
    """Run a plain handler here and say how it ended; raises nothing."""
    began = monotonic()
    token = _current.set(context)
    try:
        return _returned(task, message, task.handler(context, *message.args, **message.kwargs), began)
    except BaseException as error:  # noqa: BLE001 - the boundary between a handler and the worker
        return _raised(error, began)
    finally:
        _current.reset(token)


async def call_async(
    task: Task, message: TaskMessage, context: TaskContext, cancelled_by: Callable[[], BaseException | None]
) -> Outcome:
    """The same for a coroutine. ``cancelled_by()`` says which of our orders a ``CancelledError`` stands for, ``None`` when the
    handler itself (or a library in it) raised it."""
    began = monotonic()
    token = _current.set(context)
    try:
        return _returned(task, message, await task.handler(context, *message.args, **message.kwargs), began)
    except asyncio.CancelledError as error:
        return _raised(cancelled_by() or error, began)
    except BaseException as error:  # noqa: BLE001 - the boundary between a handler and the worker
        return _raised(error, began)
    finally:
        _current.reset(token)


def refusal(task: Task, message: TaskMessage) -> Outcome | None:
    """``REJECTED`` when the handler can't be called with these arguments at all, else ``None``."""
    misfit = _misfit(task.handler, len(message.args), frozenset(message.kwargs))
    if misfit is None:
        return None
    text = f"task {task.name!r} can't be called with these arguments: {misfit} (the context comes first)"
    return Outcome(Ending.REJECTED, error=TaskError("TypeError", text))


@lru_cache(maxsize=4096)
def _misfit(handler: Callable[..., Any], positional: int, keywords: frozenset[str]) -> str | None:
    """Why the handler can't be called with so many positional arguments, after the context, and these keywords: to bind
    them takes longer than a short task, and depends on nothing else."""
    signature = _signature(handler)
    if signature is None:
        return None  # a builtin: calling it will tell
    try:
        signature.bind(None, *[None] * positional, **dict.fromkeys(sorted(keywords)))
    except TypeError as error:
        return str(error)
    return None


@lru_cache(maxsize=1024)
def _signature(handler: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(handler)
    except (TypeError, ValueError):
        return None


def failure(error: BaseException, kind: Ending = Ending.FAILED) -> Outcome:
    """An outcome with the error as text, for what went wrong outside a handler."""
    return Outcome(kind, error=TaskError(type(error).__name__, _shortened(str(error), MESSAGE_LIMIT)))


def _returned(task: Task, message: TaskMessage, result: Any, began: float) -> Outcome:
    runtime = monotonic() - began
    if result is None or result is True or result is False:
        return Outcome(Ending.SUCCEEDED, result=result, runtime=runtime)
    try:
        text = json.dumps(result, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        refused = ResultNotSerializable(
            f"task {task.name!r} ({message.task_id}) returned what JSON can't hold: {error}"
        )
        return Outcome(Ending.REJECTED, error=TaskError(type(refused).__name__, str(refused)), runtime=runtime)
    if len(text) > RESULT_LIMIT:
        refused = ResultNotSerializable(
            f"task {task.name!r} ({message.task_id}) returned {len(text)} bytes; at most {RESULT_LIMIT} are kept"
        )
        return Outcome(Ending.REJECTED, error=TaskError(type(refused).__name__, str(refused)), runtime=runtime)
    # What is recorded must be what was checked: tuples become lists here, not only in the backend.
    return Outcome(Ending.SUCCEEDED, result=json.loads(text), runtime=runtime)


def _raised(error: BaseException, began: float) -> Outcome:
    runtime = monotonic() - began
    if isinstance(error, TaskRevoked):
        return Outcome(Ending.CANCELLED, revocation=error.revocation, runtime=runtime)
    if isinstance(error, TaskReleased):
        return Outcome(Ending.RELEASED, runtime=runtime)
    if isinstance(error, Retry):
        return Outcome(
            Ending.RETRY,
            error=TaskError("Retry", _shortened(str(error), MESSAGE_LIMIT)),
            retry_in=error.countdown,
            runtime=runtime,
        )
    if isinstance(error, (TimeLimitExceeded, LeaseLost)):
        return Outcome(Ending.FAILED, error=TaskError(type(error).__name__, str(error)), runtime=runtime)
    text = "".join(tracebacks.format_exception(type(error), error, error.__traceback__))
    return Outcome(
        Ending.FAILED,
        error=TaskError(
            type(error).__name__,
            _shortened(_message(error), MESSAGE_LIMIT),
            _shortened(text, TRACEBACK_LIMIT, keep_end=True),
        ),
        runtime=runtime,
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a handler's own exception class may fail to describe itself
        return f"<{type(error).__name__} whose text can't be made: {type(broken).__name__}>"


def _shortened(text: str, limit: int, *, keep_end: bool = False) -> str:
    # Lone surrogates can't be written to any store; what stands for them is good enough in an error text.
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= limit:
        return text
    return f"…{text[-limit:]}" if keep_end else f"{text[:limit]}…"
