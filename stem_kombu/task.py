"""A task as the application defines it, and a task as a message carries it.

The message is Celery's protocol 2 (headers ``task``, ``id``, ``retries`` …; body ``[args, kwargs, embed]``) so that
Stem and Celery can share queues in both directions; what only Stem knows rides in headers that begin with ``stem-``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from numbers import Integral
from typing import Any

from stem_kombu.arguments import checked_task_name, switched
from stem_kombu.durations import checked_seconds
from stem_kombu.errors import ConfigurationError, TaskNotRegistered
from stem_kombu.fields import shown
from stem_kombu.handler import misfit, takes_context
from stem_kombu.hooks import NO_TASK_HOOKS, TaskHooks
from stem_kombu.locating import Definition
from stem_kombu.publishing import PUBLISHING_OPTIONS, DeclaredExchange, Publishing, checked
from stem_kombu.spelling import nearest

#: What to do about a task that the application does not have.
NOT_REGISTERED_HINT = "import the module that defines it, or send it to another queue"
#: Retries that a message counts are fewer: a signed number of 32 bits, which every Celery and every broker can hold.
MOST_RETRIES = 2**31


class Mode(str, Enum):
    """Where a handler runs."""

    INLINE = "inline"  # a thread of the worker process, or its event loop for ``async def``
    ISOLATE = "isolate"  # a child process of the worker


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task is run. Durations in seconds; ``None`` means no limit.

    ``max_retries`` further attempts follow a failure, ``None`` takes the application's default. The n-th retry waits
    ``min(retry_backoff * 2**(n-1), retry_backoff_max)`` plus up to ``retry_jitter`` of that. ``priority`` to ``compression``
    are Kombu's words, and count where a call gives no others (:class:`~stem_kombu.keywords.SendOptions`).
    """

    isolate: bool = False
    queue: str | None = None
    max_retries: int | None = None
    retry_backoff: float = 1.0
    retry_backoff_max: float = 600.0
    retry_jitter: float = 0.25
    soft_time_limit: float | None = None
    time_limit: float | None = None
    visibility: float | None = None
    priority: int | None = None
    exchange: str | DeclaredExchange | None = None
    routing_key: str | None = None
    serializer: str | None = None
    compression: str | None = None
    #: The last five, those that are given.
    published: Mapping[str, Any] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        given = {name: value for name in PUBLISHING_OPTIONS if (value := getattr(self, name)) is not None}
        object.__setattr__(self, "published", checked("@app.task", given) if given else given)
        for name in ("retry_backoff", "retry_backoff_max", "retry_jitter"):
            checked_seconds(getattr(self, name), name=name)
        for name in ("soft_time_limit", "time_limit", "visibility"):
            value = getattr(self, name)
            if value is not None and not checked_seconds(value, name=name) > 0:
                raise ConfigurationError(f"{name}: {value!r} must be more than zero seconds")
        checked_retries(self.max_retries, name="max_retries")
        switched(self.isolate, "isolate of @app.task")


def checked_retries(value: object, *, name: str) -> int | None:
    """The number of further attempts itself, ``None`` included; raises :class:`ConfigurationError` for what is no whole
    number of at least 0."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigurationError(f"{name}: {shown(value)} ({type(value).__name__}) is no whole number")
    if value < 0:
        raise ConfigurationError(f"{name}: {shown(value)} must not be negative")
    return min(int(value), MOST_RETRIES - 1)


@dataclass(frozen=True, slots=True)
class Task:
    """A named handler with its options. ``context`` says whether the handler is called with the
    :class:`~stem_kombu.context.TaskContext` first; ``None`` lets :func:`stem_kombu.handler.takes_context` decide, and is
    replaced by its decision. Raises :class:`ConfigurationError` for a handler or a name that can't be used."""

    name: str
    handler: Callable[..., Any]
    options: TaskOptions = field(default_factory=TaskOptions)
    #: The module that registered it, which a child imports to have it as well.
    defined_in: str | None = field(default=None, compare=False)
    hooks: TaskHooks = field(default=NO_TASK_HOOKS, compare=False, repr=False)
    context: bool | None = None
    #: Where the handler runs, and whether it is a coroutine function: asked for several times with each message.
    mode: Mode = field(init=False, compare=False, repr=False)
    is_async: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        checked_task_name(self.name)
        if self.context is not None:
            switched(self.context, f"context of task {self.name!r}")
        object.__setattr__(self, "context", takes_context(self.name, self.handler, self.context))
        object.__setattr__(self, "mode", Mode.ISOLATE if self.options.isolate else Mode.INLINE)
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.handler))

    def misfit(self, positional: int, keywords: Iterable[str]) -> str | None:
        """Why the handler can't be called with so many positional arguments, the context aside, and these keywords."""
        return misfit(self.handler, bool(self.context), positional, frozenset(keywords))

    def call(self, context: object, args: Sequence[object], kwargs: Mapping[str, object]) -> Any:
        """What the handler returns: a coroutine for ``async def``."""
        return self.handler(context, *args, **kwargs) if self.context else self.handler(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class CeleryOrigin:
    """What a message of a Celery application carries beside the task: where it stands among others, and whether the
    sender waits for its result.

    ``dated``: its sender wrote the time of sending. ``stamps`` are Celery's, each with its values as texts.

    ``canvas`` names the parts of a canvas that hang on the task (``callbacks``, ``chain`` …) and that Stem can't run;
    ``dependents`` are the ids of the tasks that would have followed, for whose results a client may wait, and
    ``dependent_names`` their names in the same order.
    """

    ignore_result: bool = False
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    canvas: tuple[str, ...] = ()
    dependents: tuple[str, ...] = ()
    dependent_names: tuple[str, ...] = ()
    dated: bool = False
    stamps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)  # never changed; frozen, it would cost three times as much, for each delivery
class Original:
    """A message as the broker delivered it. What is sent again on its behalf has the same body, headers and properties.

    ``body`` is as the sender published it, compressed where ``headers`` name a compression. ``properties`` are AMQP's
    (``priority``, ``reply_to``, ``correlation_id`` …), under Kombu's names. ``signed``: its signature was verified; on behalf
    of one that was not, nothing is signed. ``unreadable`` is set for what is no task: why it can't be read, which goes with
    it where it is put aside.
    """

    body: bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    signed: bool = False
    unreadable: str | None = None


@dataclass(slots=True)  # never changed; frozen, it would cost three times as much, for each delivery
class TaskMessage:
    """One task as it travels. ``attempt`` counts from 1; ``eta`` and ``expires_at`` are aware UTC times.

    ``headers`` are the user's own, handed to the handler as ``ctx.headers``. ``soft_time_limit`` and ``time_limit``
    override the task's options, as a Celery producer may ask. ``celery`` is set for what a Celery application sent.
    ``queue`` of a delivered message is the queue that was consumed, whatever exchange routed it there; ``original`` is
    set for these, and does not go to children.
    """

    task_id: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: str = "default"
    attempt: int = 1
    eta: datetime | None = None
    expires_at: datetime | None = None
    enqueued_at: datetime | None = None
    max_retries: int | None = None
    soft_time_limit: float | None = None
    time_limit: float | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    celery: CeleryOrigin | None = None
    original: Original | None = field(default=None, repr=False, compare=False)
    #: The failed task of which an operator made this one (``stem task retry``).
    retried_from: str | None = field(default=None, compare=False)
    #: Of a message that is to be sent: Kombu's options, where they are not the usual ones.
    publishing: Publishing | None = field(default=None, repr=False, compare=False)

    def is_same_attempt(self, other: TaskMessage) -> bool:
        """Whether both are of one attempt, as far as is known: of one task that was sent once."""
        one, two = self.enqueued_at, other.enqueued_at
        same_life = one is None or two is None or one == two
        return self.task_id == other.task_id and self.attempt == other.attempt and same_life


class TaskRegistry:
    """The tasks of one application, by name. Filled while modules are imported; only read afterwards."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._places: dict[str, Definition] = {}

    def add(self, task: Task) -> Task:
        """The task, now known by its name; raises :class:`ConfigurationError` when another handler has that name."""
        held, place = self._tasks.get(task.name), Definition.of(task.handler)
        if held is not None and (first := self._places[task.name]).is_other(place):
            raise ConfigurationError(
                f"task {task.name!r} is defined twice: {first} and {place}", hint="give one of them another name"
            )
        self._tasks[task.name], self._places[task.name] = task, place
        return task

    def get(self, name: str) -> Task:
        """The task of that name; raises :class:`TaskNotRegistered`."""
        task = self._tasks.get(name)
        if task is None:
            raise TaskNotRegistered(
                f"task {name!r} is not registered in this worker's application",
                hint=f"did you mean {near!r}?" if (near := nearest(name, self._tasks)) else NOT_REGISTERED_HINT,
            )
        return task

    def names(self) -> list[str]:
        """The names of all tasks, in the order of registration."""
        return list(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)
