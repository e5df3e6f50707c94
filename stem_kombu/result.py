"""The result of a task that was sent: its state, and what it returned or why it didn't."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from stem_kombu import timeouts
from stem_kombu.durations import LONGEST, checked_seconds
from stem_kombu.errors import ConfigurationError, ResultTimeout, TaskCancelled, TaskFailed
from stem_kombu.outcome import TaskRecord, TaskState

if TYPE_CHECKING:
    from stem_kombu.backends.base import TaskStates
    from stem_kombu.bound import Bound
    from stem_kombu.control.client.reports import RevokeReport
    from stem_kombu.ladder import Ladder

R = TypeVar("R")


class Revokes(Protocol):
    """What is used of a :class:`~stem_kombu.control.client.client.ControlClient`."""

    def revoke(
        self,
        task_ids: Sequence[str],
        *,
        terminate: bool = False,
        reason: str | None = None,
        requested_by: str | None = None,
        expires_in: float | None = None,
        ladder: Ladder | None = None,
        bound: Bound | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> RevokeReport: ...


class Controlled(Protocol):
    """What is used of an application."""

    @property
    def control(self) -> Revokes: ...

    @property
    def backend(self) -> TaskStates | None: ...


class AsyncResult(Generic[R]):
    """What sending a task returns; the task returns ``R``. ``id`` is the task's id; everything else asks the result backend
    each time. Where no ``states`` are given, they are the application's, which opens its backend when it is first asked.

    Without a backend, asking raises :class:`~stem_kombu.errors.ConfigurationError`; sending doesn't. A backend that can't be
    reached raises :class:`~stem_kombu.errors.StoreUnavailable`. Each question waits for it: in a coroutine, await the result.
    """

    def __init__(self, task_id: str, states: TaskStates | None, app: Controlled | None = None) -> None:
        self.id = task_id
        self._states = states
        self._app = app

    @property
    def record(self) -> TaskRecord | None:
        """Everything that is recorded of the task, ``None`` when nothing is."""
        return self._backend().get(self.id)

    @property
    def state(self) -> TaskState | None:
        """The recorded state, ``None`` when the task is unknown."""
        record = self.record
        return None if record is None else record.state

    def ready(self) -> bool:
        """Whether the task has ended, as ``succeeded``, ``failed`` or ``cancelled``."""
        record = self.record
        return record is not None and record.state.is_terminal

    @property
    def traceback(self) -> str | None:
        """The end of the traceback of the attempt that failed last, ``None`` where there is none."""
        record = self.record
        return None if record is None or record.error is None else record.error.traceback

    def __await__(self) -> Generator[Any, None, R]:
        """What :meth:`get` returns or raises, once the task has ended. The event loop goes on meanwhile, however long the
        backend takes to answer; ``asyncio.timeout`` bounds the wait."""
        return self._ended().__await__()

    async def _ended(self) -> R:
        import asyncio  # where no coroutine waits it is not loaded

        from stem_kombu.aio import READING

        states, pause = self._states, timeouts.RESULT_FIRST_LOOK
        if states is None:  # it may have to be opened, for which its driver is imported
            states = await READING.call(self._backend)
        while (record := await READING.call(partial(states.get, self.id))) is None or not record.state.is_terminal:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, timeouts.RESULT_LONGEST_LOOK)
        return self._value(record)

    def wait(self, timeout: float | None = None) -> TaskRecord | None:
        """The record once it is terminal, or as it stands after ``timeout`` seconds (``None``: without bound). Raises
        :class:`~stem_kombu.errors.ConfigurationError` for a timeout that is no number of seconds."""
        if timeout is not None:
            checked_seconds(timeout, name=f"timeout of result {self.id}", least=-LONGEST)
        return self._backend().wait(self.id, timeout)

    def get(self, timeout: float | None = None) -> R:
        """What the handler returned.

        Raises :class:`~stem_kombu.errors.TaskFailed` or :class:`~stem_kombu.errors.TaskCancelled` when it ended otherwise,
        and :class:`~stem_kombu.errors.ResultTimeout` when it has not ended within ``timeout`` seconds.
        """
        record = self.wait(timeout)
        if record is None or not record.state.is_terminal:
            state = "unknown" if record is None else record.state.value
            hint = None
            if record is not None and record.state is TaskState.QUEUED and record.queue:
                hint = f"start a worker that consumes queue {record.queue!r}, or look for one by `stem queue list`"
            raise ResultTimeout(f"task {self.id} has not ended within {timeout or 0:g} s; it is {state}", hint=hint)
        return self._value(record)

    def _value(self, record: TaskRecord) -> R:
        if record.state is TaskState.SUCCEEDED:
            return cast(R, record.result)
        if record.state is TaskState.CANCELLED:
            raise TaskCancelled(f"task {self.id} was cancelled{_why(record)}")
        error = record.error
        if error is None:
            raise TaskFailed(f"task {self.id} failed", error_type="unknown")
        raise TaskFailed(
            f"task {self.id} failed: {error.type}: {error.message}", error_type=error.type, traceback=error.traceback
        )

    def revoke(
        self,
        *,
        terminate: bool = False,
        reason: str | None = None,
        requested_by: str | None = None,
        expires_in: float | None = None,
        ladder: Ladder | None = None,
        bound: Bound | None = None,
        wait: bool | float = False,
        timeout: float | None = None,
    ) -> RevokeReport:
        """Revoke the task, as :meth:`ControlClient.revoke <stem_kombu.control.client.client.ControlClient.revoke>` does, and
        raise what that raises. With ``wait`` the report's ``verdicts`` has what became of the task;
        a number is how many seconds the command may take for that."""
        if not isinstance(wait, bool):
            wait, timeout = True, wait if timeout is None else timeout
        if self._app is None:
            raise ConfigurationError(
                f"task {self.id} can't be revoked by this result, which no application has made",
                hint="take it from app.result(id)",
            )
        return self._app.control.revoke(
            [self.id], terminate=terminate, reason=reason, requested_by=requested_by, expires_in=expires_in,
            ladder=ladder, bound=bound, wait=wait, timeout=timeout,
        )  # fmt: skip

    def _backend(self) -> TaskStates:
        if self._states is None and self._app is not None:
            self._states = self._app.backend
        if self._states is None:
            raise ConfigurationError(
                f"the result of task {self.id} can't be asked for: there is no result backend",
                hint="set STEM_RESULT_BACKEND_URL, or give the application backend=…",
            )
        return self._states

    def __repr__(self) -> str:
        return f"<AsyncResult {self.id}>"


def _why(record: TaskRecord) -> str:
    if record.revocation is not None:
        by, reason = record.revocation.requested_by, record.revocation.reason
        return (f" by {by}" if by else "") + (f": {reason}" if reason else "")
    return f": {record.error.message}" if record.error is not None else ""
