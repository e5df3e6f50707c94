"""What type checkers see of ``@app.task``: the arguments that are sent, the result, and the plain call.

A handler's context is no argument that is sent: ``def resize(ctx: TaskContext, width: int) -> str`` becomes
``TaskHandle[[int], str]``, in Stem's notation ``(width: int) -> str``. A coroutine's result is what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from stem_kombu.context import TaskContext
from stem_kombu.task_handle import TaskHandle

P = ParamSpec("P")
R = TypeVar("R")
Call = TypeVar("Call", bound=Callable[..., Any])

if TYPE_CHECKING:

    class PlainTask(TaskHandle[P, R]):
        """Of ``def``: a call runs the handler."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    class PlainCoroutineTask(TaskHandle[P, R]):
        """Of ``async def``."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...

    class ContextTask(TaskHandle[P, R]):
        """Of ``def`` with a context: a call gives it one."""

        def __call__(self, context: TaskContext, /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    class ContextCoroutineTask(TaskHandle[P, R]):
        """Of ``async def`` with a context."""

        def __call__(self, context: TaskContext, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...


class WithContext(Protocol):
    """``@app.task(name, context=True)``."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, handler: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]], /
    ) -> ContextCoroutineTask[P, R]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[TaskContext, P], R], /) -> ContextTask[P, R]: ...


class WithoutContext(Protocol):
    """``@app.task(name, context=False)``."""

    @overload
    def __call__(self, handler: Callable[P, Coroutine[Any, Any, R]], /) -> PlainCoroutineTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, handler: Callable[P, R], /) -> PlainTask[P, R]: ...


class AsAnnotated(Protocol):
    """``@app.task(name)``: a first parameter that takes a context gets it."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, handler: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]], /
    ) -> ContextCoroutineTask[P, R]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[TaskContext, P], R], /) -> ContextTask[P, R]: ...
    @overload
    def __call__(self, handler: Callable[P, Coroutine[Any, Any, R]], /) -> PlainCoroutineTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, handler: Callable[P, R], /) -> PlainTask[P, R]: ...
