"""What an application defines: its tasks and its control commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, cast, overload

from stem_kombu.adapter import Adapter
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown
from stem_kombu.handler import misfit, takes_first
from stem_kombu.hooks import Hooked
from stem_kombu.keywords import TASK_OPTIONS, TaskKeywords, refuse_unknown
from stem_kombu.locating import defining_module, usual_name
from stem_kombu.publishing import DeclaredQueue, differing, queue_name
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
        self.control_commands: dict[str, Callable[..., object]] = {}
        self.adapters: dict[str, Adapter] = {}
        #: Queues that were given as Kombu's declarations, by name: senders and workers declare them so.
        self.declared: dict[str, DeclaredQueue] = {}

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

    def task(self, name: object = None, /, *, context: bool | None = None, **options: Any) -> Any:
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
        if options.get("queue") is not None:
            options["queue"] = self.declare(options["queue"], f"task {name!r}" if name else "@app.task")
        checked = TaskOptions(**options)

        def register(handler: Callable[..., Any]) -> TaskHandle[..., Any]:
            given: object = handler
            if not callable(given) or isinstance(given, type):
                raise ConfigurationError(
                    f"@app.task was applied to {shown(given)} ({type(given).__name__}), which is no function",
                    hint="put it directly above def or async def",
                )
            usual = usual_name(handler) if name is None else name
            task = Task(usual, handler, checked, defining_module(), self.hooks.task, context)
            return TaskHandle(cast(Sender, self), self.registry.add(task))

        return register

    def declare(self, queue: DeclaredQueue | str, where: str) -> str:
        """The name of the queue. A ``kombu.Queue`` is from now on what senders and workers declare under its name.

        Raises :class:`~stem_kombu.errors.ConfigurationError` for what is no queue, and for two declarations that differ.
        """
        name = queue_name(queue, where)
        if not isinstance(queue, str) and (ways := differing(self.declared.setdefault(name, queue), queue)):
            raise ConfigurationError(
                f"queue {name!r} of {where} is declared in two ways: {' and '.join(ways)}",
                hint="make it once and use that object, or its name",
            )
        return name

    def adapter(self, *, queue: str | DeclaredQueue) -> Callable[[OneAdapter], OneAdapter]:
        """Register ``function(message)`` for messages of that queue that name no task, as other programs send them: an
        :class:`~stem_kombu.adapter.IncomingMessage` to the :class:`~stem_kombu.adapter.TaskCall` that it is, or ``None``.

        Each worker of the queue calls it in the thread that receives messages, so it must not wait for anything. Where it
        fails, or returns ``None``, the message goes to the queue's dead-letter exchange or is kept beside the queue.
        """
        name = self.declare(queue, "an adapter")

        def register(function: OneAdapter) -> OneAdapter:
            given: object = function
            fits = callable(given) and misfit(given, False, 1, frozenset()) is None
            if not fits or inspect.iscoroutinefunction(function):
                raise ConfigurationError(
                    f"the adapter of queue {name!r} is no plain function of one message: {shown(given)}",
                    hint="write def adapter(message: IncomingMessage) -> TaskCall | None",
                )
            if self.adapters.setdefault(name, function) is not function:
                raise ConfigurationError(
                    f"queue {name!r} has two adapters", hint="let one function do the work of both"
                )
            return function

        return register

    def control_command(self, name: str) -> Callable[[Handler], Handler]:
        """Register a function as a control command, called on each worker as ``function(view, **args)``; what it returns
        (JSON) is the reply's payload. It runs on the worker's control threads, so it must not block for long.

        Raises :class:`~stem_kombu.errors.ConfigurationError` for a name that is taken or no text, and for what is no plain
        function of a view."""
        called: object = name
        if not isinstance(called, str) or not called.strip():
            raise ConfigurationError(
                f"the name of a control command is text, not {shown(called)} ({type(called).__name__})"
            )

        def register(function: Handler) -> Handler:
            given: object = function
            if not callable(given) or inspect.iscoroutinefunction(function) or not takes_first(given):
                raise ConfigurationError(
                    f"control command {name!r} is no plain function of a worker's view: {shown(given)}",
                    hint="write def command(view, **args)",
                )
            held = self.control_commands.setdefault(name, function)
            if held is not function:
                raise ConfigurationError(f"control command {name!r} is defined twice")
            return function

        return register
