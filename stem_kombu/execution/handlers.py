"""Calling a handler: the boundary at which whatever it does becomes an :class:`~stem_kombu.outcome.Outcome`.

The same for threads, coroutines and children, so that inline and isolate handlers can't end differently.
"""

from __future__ import annotations

import json
import sys
import traceback as tracebacks
from collections.abc import Callable
from functools import partial
from typing import Any

from stem_kombu import machine
from stem_kombu.clock import epoch_us, from_epoch_us
from stem_kombu.context import Retry, Signals, TaskContext, TaskReleased, TaskRevoked, _current
from stem_kombu.durations import checked_seconds
from stem_kombu.errors import LeaseLost, ResultNotSerializable, SoftTimeLimitExceeded, TimeLimitExceeded
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation
from stem_kombu.task import Task, TaskMessage

#: Characters of a traceback, and of an error's message, that are kept.
TRACEBACK_LIMIT = 16_000
MESSAGE_LIMIT = 4_000
#: Bytes of a result as JSON. Results travel through broker and store; larger ones belong somewhere else.
RESULT_LIMIT = 16 * 1024 * 1024
#: Levels of lists and objects in a result. How deep Python reads and writes JSON and pickles depends on how deep the calls
#: around it are, which differs from thread to child to client; this deep all can.
RESULT_DEPTH = 200

#: What a checkpoint raises.
_ORDERS = (TaskRevoked, TaskReleased, TimeLimitExceeded, SoftTimeLimitExceeded, LeaseLost)


def context_of(message: TaskMessage, signals: Signals, *, is_isolate: bool) -> TaskContext:
    """The context of an attempt of the message's task, stopped by ``signals``."""
    return TaskContext(
        signals,
        task_id=message.task_id,
        name=message.name,
        attempt=message.attempt,
        queue=message.queue,
        headers=message.headers,
        is_isolate=is_isolate,
    )


def call(task: Task, message: TaskMessage, context: TaskContext) -> Outcome:
    """Run a plain handler here and say how it ended; raises nothing."""
    token = _current.set(context)
    try:
        outcome = _attempt(task, message, context)
        task.hooks.ended(context, outcome)
        return outcome
    finally:
        _current.reset(token)


def _attempt(task: Task, message: TaskMessage, context: TaskContext) -> Outcome:
    here, depth = machine.getpid(), sys.getrecursionlimit()
    try:
        task.hooks.started(context)
        result = task.call(context, message.args, message.kwargs)
    except BaseException as error:  # noqa: BLE001 - the boundary between a handler and the worker
        if sys.getrecursionlimit() < depth:  # first of all: with less than it needs, nothing below works
            sys.setrecursionlimit(depth)
        leave_if_copy(here, error)
        return raised(error)
    if sys.getrecursionlimit() < depth:
        sys.setrecursionlimit(depth)
    leave_if_copy(here)
    return returned(task, message, result)


async def call_async(
    task: Task, message: TaskMessage, context: TaskContext, cancelled_by: Callable[[], BaseException | None]
) -> Outcome:
    """The same for a coroutine. ``cancelled_by()`` says which of our orders a ``CancelledError`` stands for, ``None`` when the
    handler itself (or a library in it) raised it."""
    token = _current.set(context)
    try:
        outcome = await _attempt_async(task, message, context, cancelled_by)
        await task.hooks.ended_in_loop(context, outcome)
        return outcome
    finally:
        _current.reset(token)


async def _attempt_async(
    task: Task, message: TaskMessage, context: TaskContext, cancelled_by: Callable[[], BaseException | None]
) -> Outcome:
    here, depth = machine.getpid(), sys.getrecursionlimit()
    try:
        await task.hooks.started_in_loop(context)
        result = await task.call(context, message.args, message.kwargs)
    except BaseException as error:  # noqa: BLE001 - the boundary between a handler and the worker
        if sys.getrecursionlimit() < depth:  # first of all: with less than it needs, nothing below works
            sys.setrecursionlimit(depth)
        leave_if_copy(here, error)
        from asyncio import CancelledError  # loaded by what runs this; children without coroutine tasks need no asyncio

        ordered = cancelled_by() if issubclass(type(error), CancelledError) else None
        return raised(error if ordered is None else ordered)
    if sys.getrecursionlimit() < depth:
        sys.setrecursionlimit(depth)
    leave_if_copy(here)
    return returned(task, message, result)


def leave_if_copy(here: int, error: BaseException | None = None) -> None:
    """End this process when it is a copy of process ``here`` that the handler has forked: the task is the original's, and a
    copy that went on would run other tasks as well. It ends with the status that Python would end with."""
    if machine.getpid() == here:
        return
    status: object = 0
    try:
        if error is not None:
            status = getattr(error, "code", 1) if issubclass(type(error), SystemExit) else 1
            if status is not None and not isinstance(status, int):
                print(status, file=sys.stderr)  # noqa: T201 - what sys.exit(text) does
            elif not issubclass(type(error), SystemExit):
                tracebacks.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - nothing may keep the copy from ending
        status = 1
    machine.leave_at_once(status & 0xFF if isinstance(status, int) else 0 if status is None else 1)


def refusal(task: Task, message: TaskMessage) -> Outcome | None:
    """``REJECTED`` when the handler can't be called with these arguments at all, else ``None``."""
    misfit = task.misfit(len(message.args), message.kwargs)
    if misfit is None:
        return None
    text = f"task {task.name!r} can't be called with these arguments: {misfit}"
    return Outcome(Ending.REJECTED, error=TaskError("TypeError", text))


def failure(error: BaseException, kind: Ending = Ending.FAILED) -> Outcome:
    """An outcome with the error as text, for what went wrong outside a handler."""
    return Outcome(kind, error=TaskError(type_name(error), message_text(error)))


# A result or an exception is the handler's own object: to look at it may raise anything at all, may take all memory, and
# may lie about its class. The two functions below raise nothing.


def returned(task: Task, message: TaskMessage, result: object) -> Outcome:
    """How an attempt ended whose handler returned ``result``; raises nothing."""
    if result is None or result is True or result is False:
        return Outcome(Ending.SUCCEEDED, result=result)
    try:
        text = json.dumps(result, allow_nan=False)
        if len(text) > RESULT_LIMIT:
            raise ResultNotSerializable(f"{len(text)} bytes; at most {RESULT_LIMIT} are kept")
        # What is recorded must be what was checked: tuples become lists here, not only in the backend.
        plain = json.loads(text)
        # Every level has a bracket of its own: only a result with many of them has to be walked.
        if text.count("[") + text.count("{") > RESULT_DEPTH and is_deeper(plain, RESULT_DEPTH):
            raise RecursionError
        return Outcome(Ending.SUCCEEDED, result=plain)
    except BaseException as error:  # noqa: BLE001 - a result's own methods may raise anything
        if issubclass(type(error), (*_ORDERS, Retry)):
            return raised(error)  # a checkpoint in there
        if issubclass(type(error), ResultNotSerializable):
            what = message_text(error)
        elif issubclass(type(error), RecursionError):
            what = f"a value that is nested deeper than {RESULT_DEPTH} levels"
        else:
            what = f"a value that JSON can't hold: {message_text(error) or type_name(error)}"
        said = f"task {task.name!r} ({message.task_id}) returned {what}"
        return Outcome(Ending.REJECTED, error=TaskError(ResultNotSerializable.__name__, said))


def raised(error: Any) -> Outcome:
    """How an attempt ended whose handler raised ``error``; raises nothing."""
    kind = type(error)  # never isinstance, which asks the object for its class as well
    try:
        if issubclass(kind, TaskRevoked):
            return Outcome(Ending.CANCELLED, revocation=_copied(error.revocation))
        if issubclass(kind, TaskReleased):
            return Outcome(Ending.RELEASED)
        if issubclass(kind, Retry):
            countdown = error.countdown
            wait = None if countdown is None else checked_seconds(countdown, name="countdown of a retry")
            said = TaskError("Retry", message_text(error))
            return Outcome(Ending.RETRY, error=said, retry_in=wait)
    except BaseException as broken:  # noqa: BLE001 - a class of the handler's own, or one that it has changed
        said = TaskError(type_name(error), _kept(f"{message_text(error)}; it can't be used: {message_text(broken)}"))
        return Outcome(Ending.FAILED, error=said)
    bare = issubclass(kind, (TimeLimitExceeded, LeaseLost))
    said = TaskError(type_name(error), message_text(error), None if bare else traceback_text(error))
    return Outcome(Ending.FAILED, error=said)


def _copied(found: Revocation) -> Revocation:
    """A copy of plain values, without proofs: what the handler raised may have been made by the handler."""
    expires_at = found.expires_at
    return Revocation.checked(
        namespace=found.namespace,
        task_id=found.task_id,
        version=found.version,
        issued_at=from_epoch_us(epoch_us(found.issued_at)),
        terminate=found.terminate,
        texts=(found.reason, found.requested_by),
        expires_at=None if expires_at is None else from_epoch_us(epoch_us(expires_at)),
        proofs=(),
    )


def type_name(error: BaseException) -> str:
    """The name of the exception's class; raises nothing."""
    try:
        return _kept(str(type(error).__name__), 200)
    except BaseException:  # noqa: BLE001 - a metaclass may do anything
        return "Exception"


def message_text(error: BaseException) -> str:
    """The exception's own words, shortened; raises nothing."""
    try:
        return _kept(str(error))
    except BaseException as broken:  # noqa: BLE001 - a handler's own exception class may fail to describe itself
        return f"<{type_name(error)} whose text can't be made: {type_name(broken)}>"


def traceback_text(error: BaseException) -> str | None:
    """The end of the exception's traceback, ``None`` when none can be made; raises nothing."""
    made: list[Callable[[], list[str]]] = [
        partial(tracebacks.format_exception, type(error), error, error.__traceback__),
        # Without causes, notes and groups, which are the handler's objects.
        partial(tracebacks.format_tb, error.__traceback__),
    ]
    for lines in made:
        try:
            return _kept("".join(lines()), TRACEBACK_LIMIT, keep_end=True)
        except BaseException:  # noqa: BLE001, S112 - as above
            continue
    return None


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects of a decoded JSON value are nested deeper than that."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for item in layer
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            return False
    return True


def _kept(text: str, limit: int = MESSAGE_LIMIT, *, keep_end: bool = False) -> str:
    text = "".join((text,))  # of a subclass a plain copy, whose methods are Python's
    if len(text) > limit:
        text = f"…{text[-limit:]}" if keep_end else f"{text[:limit]}…"
    # Lone surrogates can't be written to any store; what stands for them is good enough in an error text.
    return text.encode("utf-8", "backslashreplace").decode()
