"""What a handler holds while it runs: who it is, and the checkpoints at which it can be stopped.

A checkpoint is a call the handler makes itself. Nothing is injected into a handler anywhere else (G7). Each executor
supplies the two small objects that a context needs: a :class:`Signals` that says whether a stop is pending, and takes
what the handler reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from stem_kombu.durations import checked_seconds
from stem_kombu.errors import ConfigurationError, ExecutionError
from stem_kombu.revocation import Revocation


class TaskRevoked(BaseException):
    """An operator asked this task to stop. Let it pass; put clean-up in ``finally``.

    ``revocation`` has requester, reason and time. A ``BaseException``, so that ``except Exception`` can't swallow it (G11).
    """

    def __init__(self, revocation: Revocation) -> None:
        why = f": {revocation.reason}" if revocation.reason else ""
        super().__init__(f"task {revocation.task_id} was revoked{why}")
        self.revocation = revocation

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.revocation,))


class TaskReleased(BaseException):
    """The worker is stopping and this attempt goes back to the queue. Let it pass; put clean-up in ``finally``.

    Not a revocation: the task will run again, and nothing is recorded as cancelled (G20).
    """


class WorkerStopping(TaskReleased):
    """What a checkpoint raises of that kind. Its own name says why: the worker stops, and the time for what runs is over."""


class Retry(Exception):
    """Raised by a handler (or by ``ctx.retry()``) that wants another attempt; ``countdown`` is in seconds.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for a countdown that is no number of seconds, negative, or longer
    than a century.
    """

    def __init__(self, message: str = "the handler asked for a retry", *, countdown: float | None = None) -> None:
        super().__init__(message)
        self.countdown = None if countdown is None else checked_seconds(countdown, name="countdown of a retry")


class Signals(Protocol):
    """An executor's side of a context. Every method must be safe to call from the handler's thread."""

    def check(self) -> None:
        """Return at once, or raise what is pending: ``TaskRevoked``, ``TaskReleased``, ``LeaseLost``,
        ``SoftTimeLimitExceeded`` (once) or ``TimeLimitExceeded``."""

    def revoked(self) -> Revocation | None:
        """The pending terminate, without raising."""

    def heartbeat(self) -> None:
        """Check, and tell the worker that the handler is alive, unless it was told a moment ago."""

    def progress(self, fraction: float | None, data: Mapping[str, Any]) -> None:
        """Tell the worker how far the handler is."""

    def extend_lease(self, seconds: float) -> None:
        """Ask the worker to keep the message for that long from now."""


class TaskContext:
    """Handed to a handler as its first argument. ``attempt`` counts from 1, ``headers`` are those of the sender, ``queue`` is
    where the worker took the message from, ``is_isolate`` says that a child process runs the handler.

    ``heartbeat()``, ``progress()``, ``extend_lease()`` and ``check()`` are the checkpoints: each raises
    :class:`TaskRevoked` once a terminate is pending, :class:`TaskReleased` once the worker stops and its time is over,
    :class:`~stem_kombu.errors.LeaseLost` when another worker has the message, and
    :class:`~stem_kombu.errors.SoftTimeLimitExceeded` once after that limit; and returns at once otherwise.
    """

    __slots__ = ("_signals", "attempt", "check", "headers", "heartbeat", "is_isolate", "name", "queue", "task_id")

    def __init__(
        self,
        signals: Signals,
        *,
        task_id: str,
        name: str,
        attempt: int = 1,
        queue: str = "",
        headers: Mapping[str, Any] | None = None,
        is_isolate: bool = False,
    ) -> None:
        self._signals = signals
        self.task_id = task_id
        self.name = name
        self.attempt = attempt
        self.queue = queue
        self.headers: Mapping[str, Any] = headers or {}
        self.is_isolate = is_isolate
        # Bound once here: a hot loop then pays for one call, not for two. Both report, or else ``inspect`` would show a
        # handler that only calls check() as one without checkpoints.
        #: ``heartbeat()``: a checkpoint that tells the worker, a few times a second at most, that this task is alive.
        self.heartbeat = signals.heartbeat
        #: ``check()``: the same, for code that reads better so.
        self.check = signals.heartbeat

    @property
    def revoked(self) -> Revocation | None:
        """The pending terminate, for handlers that would rather ask than be interrupted; never raises."""
        return self._signals.revoked()

    def progress(self, fraction: float | None = None, /, **data: Any) -> None:
        """Report how far the task is (0 to 1, or ``None`` where that is unknown) with any JSON data, then checkpoint.

        Raises ``ValueError`` for a fraction outside 0 to 1, and for data that JSON can't hold.
        """
        try:
            fits = fraction is None or 0.0 <= fraction <= 1.0
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"progress {fraction!r} of task {self.task_id} is not between 0 and 1")
        self._signals.check()
        self._signals.progress(None if fraction is None else float(fraction), data)

    def extend_lease(self, seconds: float) -> None:
        """Keep the message for ``seconds`` from now where the transport has such a thing, then checkpoint.

        Raises ``ValueError`` unless ``seconds`` is more than zero.
        """
        try:
            span = checked_seconds(seconds, name=f"lease of task {self.task_id}")
        except ConfigurationError as error:
            raise ValueError(f"{error}; {error.hint}" if error.hint else str(error)) from None
        if not span > 0:
            raise ValueError(f"lease of {seconds!r} s for task {self.task_id} must be more than zero")
        self._signals.check()
        self._signals.extend_lease(span)

    def retry(self, message: str = "the handler asked for a retry", *, countdown: float | None = None) -> Retry:
        """A :class:`Retry` to raise: ``raise ctx.retry(countdown=30)``. ``countdown`` is in seconds; raises what
        :class:`Retry` raises."""
        return Retry(message, countdown=countdown)

    def __repr__(self) -> str:
        return f"<TaskContext {self.name} {self.task_id} attempt {self.attempt}>"


_current: ContextVar[TaskContext | None] = ContextVar("stem_kombu_current_context", default=None)


def running_context() -> TaskContext | None:
    """The context of the handler that is running here, if one is."""
    return _current.get()


def current_context() -> TaskContext:
    """The context of the handler that is running here, for code that has no ``ctx`` at hand.

    Raises :class:`~stem_kombu.errors.ExecutionError` outside a handler.
    """
    context = running_context()
    if context is None:
        raise ExecutionError(
            "there is no task running here", hint="call current_context() from inside a handler, or pass ctx along"
        )
    return context
