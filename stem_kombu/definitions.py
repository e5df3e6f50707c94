"""What an application defines: its tasks and its control commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, cast, overload

from stem_kombu.adapter import Adapter
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown
from stem_kombu.handler import misfit
from stem_kombu.hooks import Hooked
from stem_kombu.keywords import TASK_OPTIONS, TaskKeywords, refuse_unknown
from stem_kombu.locating import defining_module, usual_name
from stem_kombu.task import Task, TaskOptions, TaskRegistry
from stem_kombu.task_handle import Sender, TaskHandle

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stem_kombu.context import TaskContext
    from stem_kombu.task_types import (
        AsAnnotated,
        ContextCoroutineTask,
        ContextTask,
        PlainCoroutineTask,
        PlainTask,
        WithContext,
        WithoutContext,
    )

P = ParamSpec("P")
R = TypeVar("R")
Handler = TypeVar("Handler", bound=Callable[..., Any])
OneAdapter = TypeVar("OneAdapter", bound=Adapter)


class Definitions(Hooked):
    """What of :class:`~stem_kombu.app.Stem` registers handlers, control commands and hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = TaskRegistry()
        self.control_commands: dict[str, Callable[..., Any]] = {}
        self.adapters: dict[str, Adapter] = {}

    @overload
    def task(  # type: ignore[overload-overlap]
        self, handler: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]], /
    ) -> ContextCoroutineTask[P, R]: ...
    @overload
    def task(self, handler: Callable[Concatenate[TaskContext, P], R], /) -> ContextTask[P, R]: ...
    @overload
    def task(self, handler: Callable[P, Coroutine[Any, Any, R]], /) -> PlainCoroutineTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, handler: Callable[P, R], /) -> PlainTask[P, R]: ...
    @overload
    def task(
        self, name: str | None = ..., /, *, context: None = ..., **options: Unpack[TaskKeywords]
    ) -> AsAnnotated: ...
    @overload
    def task(
        self, name: str | None = ..., /, *, context: Literal[True], **options: Unpack[TaskKeywords]
    ) -> WithContext: ...
    @overload
    def task(
        self, name: str | None = ..., /, *, context: Literal[False], **options: Unpack[TaskKeywords]
    ) -> WithoutContext: ...

    def task(self, name: Any = None, /, *, context: bool | None = None, **options: Any) -> Any:
        """Register a handler under ``name`` (default: its module and qualified name).

        ``options`` are those of :class:`~stem_kombu.task.TaskOptions`. A handler whose first parameter is annotated
        :class:`~stem_kombu.context.TaskContext`, or is named ``ctx`` or ``context``, gets the task's context there; any
        other is called with the arguments that were sent alone. ``context=True`` or ``False`` decides where neither
        annotation nor name does. Raises :class:`~stem_kombu.errors.ConfigurationError` for an unknown option, a blank
        name, a generator function, and a first parameter that could be either.
        """
        if callable(name):
            return self.task(None)(name)
        if name is not None and not isinstance(name, str):
            raise ConfigurationError(f"the name of a task is text, not {shown(name)} ({type(name).__name__})")
        refuse_unknown(f"task {name!r}" if name else "@app.task", options, TASK_OPTIONS)
        checked = TaskOptions(**options)

        def register(handler: Callable[..., Any]) -> TaskHandle[..., Any]:
            if not callable(handler):
                raise ConfigurationError(
                    f"@app.task was applied to {shown(handler)} ({type(handler).__name__}), which is no function"
                )
            usual = usual_name(handler) if name is None else name
            task = Task(usual, handler, checked, defining_module(), self.hooks.task, context)
            return TaskHandle(cast(Sender, self), self.registry.add(task))

        return register

    def adapter(self, *, queue: str) -> Callable[[OneAdapter], OneAdapter]:
        """Register ``function(message)`` for messages of that queue that name no task, as other programs send them: an
        :class:`~stem_kombu.adapter.IncomingMessage` to the :class:`~stem_kombu.adapter.TaskCall` that it is, or ``None``.

        Each worker of the queue calls it in the thread that receives messages, so it must not wait for anything. Where it
        fails, or returns ``None``, the message goes to the queue's dead-letter exchange or is kept beside the queue.
        """
        named: object = queue
        if not isinstance(named, str) or not named.strip():
            raise ConfigurationError(f"the queue of an adapter is a name, not {shown(queue)}")

        def register(function: OneAdapter) -> OneAdapter:
            given: object = function
            fits = callable(given) and misfit(given, False, 1, frozenset()) is None
            if not fits or inspect.iscoroutinefunction(function):
                raise ConfigurationError(f"the adapter of queue {queue!r} is no plain function of one message")
            if self.adapters.setdefault(queue, function) is not function:
                raise ConfigurationError(f"queue {queue!r} has two adapters")
            return function

        return register

    def control_command(self, name: str) -> Callable[[Handler], Handler]:
        """Register a function as a control command, called on each worker as ``function(view, **args)``; what it returns
        (JSON) is the reply's payload. It runs on the worker's control threads, so it must not block for long."""

        def register(function: Handler) -> Handler:
            held = self.control_commands.setdefault(name, function)
            if held is not function:
                raise ConfigurationError(f"control command {name!r} is defined twice")
            return function

        return register
