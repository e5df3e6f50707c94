"""A defined task, as its author holds it: call it as a plain function, or send it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from stem_kombu.arguments import listed
from stem_kombu.celery_words import ATTRIBUTES
from stem_kombu.keywords import SEND_OPTIONS, ManyOptions, SendOptions, refuse_unknown

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stem_kombu.result import AsyncResult
    from stem_kombu.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class Sender(Protocol):
    """The application, as far as a handle needs it."""

    @property
    def send_task(self) -> Callable[..., AsyncResult[Any]]: ...

    @property
    def asend_task(self) -> Callable[..., Awaitable[AsyncResult[Any]]]: ...

    @property
    def send_many(self) -> Callable[..., list[AsyncResult[Any]]]: ...


class TaskHandle(Generic[P, R]):
    """What ``@app.task`` leaves in the place of the function: call it as before, or send it.

    ``P`` are the arguments that are sent, the context aside; ``R`` is what the handler returns.
    """

    def __init__(self, app: Sender, task: Task) -> None:
        self.app = app
        self.task = task
        self.name = task.name
        self.__doc__ = task.handler.__doc__
        self.__name__ = getattr(task.handler, "__name__", task.name)
        self.__module__ = task.handler.__module__
        self.__wrapped__ = task.handler

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the handler here and now, as a plain function."""
        return self.task.handler(*args, **kwargs)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Enqueue with these arguments, which must fit the handler's signature; raises ``TypeError`` where they don't."""
        self._check(args, kwargs)
        return self.app.send_task(self.name, args, kwargs)

    async def asend(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """:meth:`delay` for coroutines: the event loop goes on while the broker is waited for. Raises what that raises."""
        self._check(args, kwargs)
        return await self.app.asend_task(self.name, args, kwargs)

    def apply_async(
        self, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None, **options: Unpack[SendOptions]
    ) -> AsyncResult[R]:
        """Enqueue with the options of :meth:`Stem.send_task` (``queue=``, ``countdown=``, ``task_id=`` …).

        Raises ``TypeError`` for arguments that don't fit the handler's signature.
        """
        self._check(args, kwargs or {})
        if options:
            refuse_unknown(f"apply_async of task {self.name!r}", options, SEND_OPTIONS)
        return self.app.send_task(self.name, args, kwargs, **options)

    async def aapply_async(
        self, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None, **options: Unpack[SendOptions]
    ) -> AsyncResult[R]:
        """:meth:`apply_async` for coroutines: the event loop goes on while the broker is waited for. Raises what that raises."""
        self._check(args, kwargs or {})
        if options:
            refuse_unknown(f"aapply_async of task {self.name!r}", options, SEND_OPTIONS)
        return await self.app.asend_task(self.name, args, kwargs, **options)

    def send_many(
        self, calls: Iterable[Mapping[str, object] | Sequence[object]], **options: Unpack[ManyOptions]
    ) -> list[AsyncResult[R]]:
        """Enqueue one task for each of ``calls``, with the options of :meth:`Stem.send_many`; nothing is sent where one of
        them does not fit the handler's signature (``TypeError``)."""
        every = listed(calls, f"calls of task {self.name!r}")
        for call in every:
            self._check(*(((), call) if isinstance(call, Mapping) else (call, {})))
        return self.app.send_many(self.name, every, **options)

    if not TYPE_CHECKING:  # a checker refuses such a name by itself

        def __getattr__(self, name: str) -> Any:
            """Called for what a task does not have; says what Stem has in the place of Celery's words."""
            instead = ATTRIBUTES.get(name)
            said = f"a task of Stem has no {name!r}" + (f": {instead}" if instead else "")
            raise AttributeError(said, name=name, obj=self)

    def _check(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        if isinstance(args, (list, tuple)) and isinstance(kwargs, Mapping):  # else sending says what is wrong with them
            misfit = self.task.misfit(len(args), kwargs)
            if misfit is not None:
                option = next((key for key in kwargs if key in SEND_OPTIONS and f"'{key}'" in misfit), None)
                instead = "" if option is None else f"; as an option: apply_async(args, kwargs, {option}=…)"
                raise TypeError(f"task {self.name!r}: {misfit}{instead}")

    def __repr__(self) -> str:
        return f"<task {self.name}>"
