"""A handler under test: it runs here and now, with a real context, and is stopped at the checkpoint that the test names."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stem_kombu.clock import SYSTEM
from stem_kombu.context import TaskContext
from stem_kombu.eager import EagerSignals, as_received, run_here
from stem_kombu.errors import ConfigurationError, ExecutionError, TaskCancelled, TaskFailed
from stem_kombu.execution.base import Stop
from stem_kombu.execution.child.signals import checked_progress
from stem_kombu.locating import usual_name
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation
from stem_kombu.task import Task, TaskMessage
from stem_kombu.task_handle import TaskHandle


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a handler: ``fraction`` from 0 to 1 or ``None``, and the JSON data beside it."""

    fraction: float | None
    data: Mapping[str, Any]


@dataclass(slots=True)
class TaskRun:
    """What one attempt did. ``ending`` says how it ended (``succeeded``, ``failed``, ``rejected``, ``retry``, ``cancelled``,
    ``released``), ``checkpoints`` how many it passed or was stopped at, ``leases`` the seconds for which it asked."""

    checkpoints: int = 0
    progress: list[Progress] = field(default_factory=list)
    leases: list[float] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def ending(self) -> Ending:
        """How the attempt ended."""
        return self._ended().kind

    @property
    def result(self) -> Any:
        """What the handler returned, as JSON holds it (tuples are lists); ``None`` where it did not return."""
        return self._ended().result

    @property
    def error(self) -> TaskError | None:
        """The type, message and traceback of what the handler raised, ``None`` where it raised nothing."""
        return self._ended().error

    @property
    def retry_in(self) -> float | None:
        """The seconds after which the handler itself asked to be tried again."""
        return self._ended().retry_in

    def get(self) -> Any:
        """The result; raises :class:`~stem_kombu.errors.TaskFailed` or :class:`~stem_kombu.errors.TaskCancelled`, as
        ``AsyncResult.get`` does, when the attempt ended otherwise."""
        ended = self._ended()
        if ended.kind is Ending.SUCCEEDED:
            return ended.result
        if ended.kind in (Ending.CANCELLED, Ending.RELEASED):
            raise TaskCancelled(f"the attempt ended as {ended.kind.value}")
        error = ended.error or TaskError("unknown", "")
        raise TaskFailed(
            f"the attempt ended as {ended.kind.value}: {error.type}: {error.message}\n{error.traceback or ''}".rstrip(),
            error_type=error.type,
            traceback=error.traceback,
        )

    def _ended(self) -> Outcome:
        if self.outcome is None:
            raise ExecutionError("the attempt still runs")
        return self.outcome


# Kombu's JSON is loaded now, and not within the first test.
as_received(TaskMessage("first", "first"))


class FakeTime:
    """Seconds that pass when a test says so: a handler's stand-ins call :meth:`advance`."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """Let that many seconds pass."""
        self.now += seconds


class TaskEnvironment:
    """Runs handlers, plain and coroutine ones, in this process, one attempt each, without a broker, a store or a worker.

    ``attempt``, ``queue``, ``headers`` and ``task_id`` are what the context shows. Time limits pass by ``time``, which begins
    at 0 and moves by ``advance()`` and by ``checkpoint_takes`` seconds at each checkpoint: never by itself. They are
    seconds, and those of the task unless given.
    """

    def __init__(
        self,
        *,
        attempt: int = 1,
        queue: str = "default",
        headers: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        soft_time_limit: float | None = None,
        time_limit: float | None = None,
        checkpoint_takes: float = 0.0,
    ) -> None:
        self.time = FakeTime()
        self.context: TaskContext | None = None
        self._message = TaskMessage(
            task_id or uuid.uuid4().hex, "test", queue=queue, attempt=attempt, headers=headers or {}
        )
        self._limits = soft_time_limit, time_limit
        self._checkpoint_takes = checkpoint_takes

    def run(
        self,
        handler: Callable[..., Any],
        /,
        *args: Any,
        revoke_after: int | None = None,
        release_after: int | None = None,
        reason: str | None = None,
        **kwargs: Any,
    ) -> TaskRun:
        """One attempt of a handler or task with these arguments, which go through JSON as they would on their way to a worker.

        The checkpoint of number ``revoke_after`` (from 1) and all later ones raise
        :class:`~stem_kombu.context.TaskRevoked`, with ``reason``; that of ``release_after``
        :class:`~stem_kombu.context.WorkerStopping`. Raises ``TypeError`` for arguments that don't fit the handler.
        """
        for name, number in (("revoke_after", revoke_after), ("release_after", release_after)):
            if number is not None and number < 1:
                raise ConfigurationError(f"{name} {number!r} must be at least 1: checkpoints are counted from 1")
        task = handler.task if isinstance(handler, TaskHandle) else Task(usual_name(handler), handler)
        misfit = task.misfit(len(args), kwargs)
        if misfit is not None:
            raise TypeError(f"task {task.name!r}: {misfit}")
        message = as_received(replace(self._message, name=task.name, args=args, kwargs=kwargs))
        soft, hard = self._limits
        run = TaskRun()
        signals = _Signals(
            run,
            message.task_id,
            {Stop.REVOKED: revoke_after, Stop.SHUTDOWN: release_after},
            {
                Stop.SOFT_TIME_LIMIT: task.options.soft_time_limit if soft is None else soft,
                Stop.TIME_LIMIT: task.options.time_limit if hard is None else hard,
            },
            reason,
            self.time,
            self._checkpoint_takes,
        )
        run.outcome = run_here(task, message, signals)
        return run


class _Signals(EagerSignals):
    """Counts checkpoints, and puts what is to be raised at one of them before it."""

    def __init__(
        self,
        run: TaskRun,
        task_id: str,
        at: Mapping[Stop, int | None],
        limits: Mapping[Stop, float | None],
        reason: str | None,
        time: FakeTime,
        takes: float,
    ) -> None:
        super().__init__(task_id)
        self._run, self._at, self._time, self._takes = run, at, time, takes
        self._limits = dict(limits)
        self._began = time.now
        self._revocation = Revocation("test", task_id, 1, SYSTEM.utcnow(), terminate=True, reason=reason)

    def check(self) -> None:
        self._run.checkpoints += 1
        self._time.advance(self._takes)
        self._order()
        super().check()

    def revoked(self) -> Revocation | None:
        self._order()
        return super().revoked()

    def progress(self, fraction: float | None, data: Mapping[str, Any]) -> None:
        self._run.progress.append(Progress(fraction, checked_progress(data)))

    def extend_lease(self, seconds: float) -> None:
        self._run.leases.append(seconds)

    def _order(self) -> None:
        for why, number in self._at.items():
            if number is not None and self._run.checkpoints >= number:
                self.pending.set(why, self._revocation if why is Stop.REVOKED else None)
        for why, seconds in self._limits.items():
            if seconds is not None and self._time.now - self._began >= seconds:
                self.pending.set(why)
                if why is Stop.SOFT_TIME_LIMIT:
                    self._limits[why] = None  # it is raised once
