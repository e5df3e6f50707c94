"""What an application wants to have called: around a worker's life, a child's life, and each attempt of a task.

A hook gets as many of the arguments of its kind as it takes, in order, so that one function can serve several kinds.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown

if TYPE_CHECKING:
    from stem_kombu.context import TaskContext
    from stem_kombu.outcome import Outcome

logger = logging.getLogger(__name__)

Hook = TypeVar("Hook", bound=Callable[..., Any])
Called = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class TaskHooks:
    """Hooks around each attempt. Those that are coroutine functions are for coroutine tasks, and are awaited."""

    start: list[Called] = field(default_factory=list)
    end: list[Called] = field(default_factory=list)
    async_start: list[Called] = field(default_factory=list)
    async_end: list[Called] = field(default_factory=list)

    def started(self, context: TaskContext) -> None:
        """Call the hooks of a start; what one raises is the attempt's failure."""
        for hook in self.start:
            hook(context)

    def ended(self, context: TaskContext, outcome: Outcome) -> None:
        """Call the hooks of an end, all of them; what one raises is logged, and the outcome stands."""
        for hook in self.end:
            try:
                hook(context, outcome)
            except BaseException as error:  # noqa: BLE001 - an end has been decided on; a hook can't take it back
                _log(hook, error, task_id=context.task_id)

    async def started_in_loop(self, context: TaskContext) -> None:
        """The same for a coroutine."""
        self.started(context)
        for hook in self.async_start:
            await hook(context)

    async def ended_in_loop(self, context: TaskContext, outcome: Outcome) -> None:
        """The same for a coroutine."""
        self.ended(context, outcome)
        for hook in self.async_end:
            try:
                await hook(context, outcome)
            except BaseException as error:  # noqa: BLE001 - an end has been decided on; a hook can't take it back
                _log(hook, error, task_id=context.task_id)


#: Of a task whose application has none.
NO_TASK_HOOKS = TaskHooks()


@dataclass(frozen=True, slots=True)
class HookTable:
    """All hooks of one application."""

    worker_start: list[Called] = field(default_factory=list)
    worker_stop: list[Called] = field(default_factory=list)
    child_start: list[Called] = field(default_factory=list)
    child_stop: list[Called] = field(default_factory=list)
    setup_logging: list[Called] = field(default_factory=list)
    task: TaskHooks = field(default_factory=TaskHooks)

    def start_worker(self, worker: object) -> None:
        """Raises what a hook does."""
        for hook in self.worker_start:
            hook(worker)

    def stop_worker(self, worker: object) -> None:
        """Failures are logged."""
        call_all(self.worker_stop, worker)


def call_all(hooks: Iterable[Called], *given: object) -> None:
    """Call each hook though others fail; failures are logged."""
    for hook in hooks:
        try:
            hook(*given)
        except BaseException as error:  # noqa: BLE001 - the end of a life goes on, whatever an application's hook raises
            _log(hook, error)


class Hooked:
    """The decorators of :class:`~stem_kombu.app.Stem` by which an application registers its hooks."""

    def __init__(self) -> None:
        self.hooks = HookTable()

    def on_worker_start(self, function: Hook) -> Hook:
        """Call ``function(worker)`` in the worker's process before it starts children and connects. What it raises makes the
        start fail."""
        return self._add(self.hooks.worker_start, _plain(function), 1)

    def on_worker_stop(self, function: Hook) -> Hook:
        """Call ``function(worker)`` in the worker's process once it is down. A failure is logged."""
        return self._add(self.hooks.worker_stop, _plain(function), 1)

    def on_child_start(self, function: Hook) -> Hook:
        """Call ``function()`` in each child, once the application is loaded and before its first task.

        A child in which it fails, or takes longer than 30 s, is replaced, later each time; the failure is logged.
        """
        return self._add(self.hooks.child_start, _plain(function), 0)

    def on_child_stop(self, function: Hook) -> Hook:
        """Call ``function()`` in each child that ends in order: replaced, or stopped with its worker.

        With ``atexit`` functions it has 4 s. A failure is logged. A child that is killed calls nothing.
        """
        return self._add(self.hooks.child_stop, _plain(function), 0)

    def on_task_start(self, function: Hook) -> Hook:
        """Call ``function(ctx)`` before each attempt, in the thread, event loop or child that runs the task.

        What it raises is the attempt's failure, and the handler is not called. A coroutine function is for coroutine tasks only.
        """
        hooks = self.hooks.task
        return self._add(hooks.async_start if _is_async(function) else hooks.start, function, 1)

    def on_task_end(self, function: Hook) -> Hook:
        """Call ``function(ctx, outcome)`` after each attempt, in the same place; ``outcome.kind`` says how it ended. A failure
        is logged. A coroutine function is for coroutine tasks only."""
        hooks = self.hooks.task
        return self._add(hooks.async_end if _is_async(function) else hooks.end, function, 2)

    def on_setup_logging(self, function: Hook) -> Hook:
        """Call ``function(setup)`` to set up logging in place of Stem: in the process of ``stem worker start`` and in each
        child. ``setup`` is a :class:`~stem_kombu.logs.LogSetup`."""
        return self._add(self.hooks.setup_logging, _plain(function), 1)

    @staticmethod
    def _add(held: list[Called], function: Hook, most: int) -> Hook:
        count = _taken(function, most)
        held.append(function if count == most else _of_fewer(function, count))
        return function


def _of_fewer(function: Called, count: int) -> Called:
    def fewer(*given: object) -> Any:
        return function(*given[:count])

    fewer.__qualname__ = _name(function)
    return fewer


def _taken(function: Called, most: int) -> int:
    """How many of ``most`` positional arguments the function takes; raises :class:`ConfigurationError` when it wants more, and
    for what can't be called."""
    if not callable(function):
        raise ConfigurationError(f"a hook is {shown(function)} ({type(function).__name__}), which is no function")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return most  # a builtin: calling it will tell
    for count in range(most, -1, -1):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count
    raise ConfigurationError(
        f"hook {_name(function)}{signature} can't be called with at most {most} positional arguments"
    )


def _plain(function: Hook) -> Hook:
    if _is_async(function):
        raise ConfigurationError(
            f"hook {_name(function)} is a coroutine function, and no event loop runs where it is called",
            hint="only on_task_start and on_task_end take coroutine functions, for coroutine tasks",
        )
    return function


def _is_async(function: Called) -> bool:
    return inspect.iscoroutinefunction(function)


def _log(hook: Called, error: BaseException, **extra: object) -> None:
    logger.error("hook %s failed: %r", _name(hook), error, exc_info=error, extra=extra)


def _name(function: Called) -> str:
    return str(getattr(function, "__qualname__", repr(function)))
