"""A child process: it loads the application, runs one handler after the other, and speaks to nothing but its worker.

A checkpoint looks at the pipe itself (no thread that would have to wait for the interpreter's lock first), at most once
in a millisecond, so that it may stand in the innermost loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from stem_kombu.clock import monotonic
from stem_kombu.context import TaskContext
from stem_kombu.errors import TaskNotRegistered
from stem_kombu.execution.ahead import Claims
from stem_kombu.execution.base import Stop
from stem_kombu.execution.child_pipe import ChildPipe
from stem_kombu.execution.frames import (
    ExtendLease,
    Finished,
    Halt,
    Ready,
    Report,
    Retire,
    Run,
    Started,
    Unfit,
)
from stem_kombu.execution.handlers import call, call_async, failure, refusal
from stem_kombu.execution.signals import ignore_from_now_on
from stem_kombu.execution.stops import PendingStop
from stem_kombu.execution.tracker import forget_stand_in
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.task import Task, TaskMessage, TaskRegistry

#: Seconds between two looks at the pipe.
GATE = 0.001
#: Seconds between two reports of one handler; the first and the last are always sent.
REPORT_GATE = 0.1
#: Bytes of progress data as JSON.
PROGRESS_LIMIT = 16_384


def main(pipe: Any, ahead: Any, target: str, max_rss: int | None = None, foreign: Sequence[int] = ()) -> None:
    """The child's whole life. ``pipe`` is its end of the duplex pipe, ``ahead`` that of what it may begin by itself;
    ``target`` is ``module:attribute`` of the application. Once it is larger than ``max_rss`` bytes it begins nothing by
    itself, for its worker is about to replace it.

    ``foreign`` are descriptors inherited from the worker by ``fork``: kept open, they would hide the worker's death from
    its other children, and its end of their pipes.
    """
    for descriptor in foreign:
        try:
            os.close(descriptor)
        except OSError:
            pass  # closed by another copy of it already
    ignore_from_now_on()  # when to stop is the worker's to say
    forget_stand_in()
    end = ChildPipe(pipe.fileno(), Claims(ahead))
    end.watch_over()
    os.register_at_fork(after_in_child=end.leave_to_original)
    try:
        registry = load_registry(target)
    except BaseException as error:  # noqa: BLE001 - importing an application runs any code
        end.send(Unfit(f"{type(error).__name__}: {error}"))
        return
    end.send(Ready(os.getpid()))
    while (order := end.next_order()) is not None:
        if isinstance(order, Retire):
            return
        if isinstance(order, Run):
            try:
                outcome = run(order, registry, end)
            except BaseException as error:  # noqa: BLE001 - what a handler left behind, an event loop policy for one
                outcome = failure(error)
            rss = rss_bytes()
            if max_rss is not None and rss is not None and rss >= max_rss:
                end.claims = None
            try:
                end.send_soon(Finished(order.token, outcome, rss))
            except Exception as error:  # noqa: BLE001 - pickle may raise anything
                end.send_soon(Finished(order.token, failure(error, Ending.REJECTED), rss))
        # A Halt here came too late for its job, which has just ended.
    # The worker is dead, and with it whoever would take our exit status: billiard would print a traceback about that.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def load_registry(target: str) -> TaskRegistry:
    """The tasks of the application at ``module:attribute``."""
    module, _, attribute = target.partition(":")
    app = import_module("__mp_main__" if module == "__main__" else module)
    for name in attribute.split("."):
        app = getattr(app, name)
    registry = getattr(app, "registry", app)
    if not isinstance(registry, TaskRegistry):
        raise TypeError(f"{target} is no Stem application")
    return registry


def run(order: Run, registry: TaskRegistry, end: ChildPipe) -> Outcome:
    """Run one job; raises nothing that is the handler's."""
    message = order.message
    try:
        task = registry.get(message.name)
    except TaskNotRegistered as error:
        return failure(error, Ending.REJECTED)
    refused = refusal(task, message)
    if refused is not None:
        return refused
    signals = ChildSignals(end, order.token, message.task_id)
    context = TaskContext(
        signals,
        task_id=message.task_id,
        name=message.name,
        attempt=message.attempt,
        queue=message.queue,
        headers=message.headers,
        is_isolate=True,
    )
    end.send(Started(order.token))
    outcome = (
        asyncio.run(_run_async(task, message, context, signals)) if task.is_async else call(task, message, context)
    )
    signals.flush()
    return outcome


async def _run_async(task: Task, message: TaskMessage, context: TaskContext, signals: ChildSignals) -> Outcome:
    """Run a coroutine, and cancel it at its next await when the pipe brings an order for it."""
    loop = asyncio.get_running_loop()
    raised: list[BaseException] = []
    job = asyncio.ensure_future(call_async(task, message, context, lambda: raised[-1] if raised else None))

    def on_pipe() -> None:
        signals.look()
        error = signals.pending.take()
        if error is not None:
            raised.append(error)
            job.cancel()

    loop.add_reader(signals.descriptor, on_pipe)
    try:
        return await job
    finally:
        loop.remove_reader(signals.descriptor)


class ChildSignals:
    """The executor's side of a context, in a child. See :class:`stem_kombu.context.Signals`."""

    def __init__(self, end: ChildPipe, token: int, task_id: str) -> None:
        self._end = end
        self._token = token
        self.pending = PendingStop(task_id)
        self._poll = end.has_news()
        self._next_look = 0.0
        self._next_report = 0.0
        self._unsent: Report | None = None

    @property
    def descriptor(self) -> int:
        return self._end.descriptor

    def check(self) -> None:
        now = monotonic()
        if now < self._next_look:
            return
        self._next_look = now + GATE
        if self._poll(0):
            self.look()
        if self.pending:
            error = self.pending.take()
            # Once an order is pending each checkpoint has to see it, not only one in a millisecond.
            self._next_look = 0.0
            if error is not None:
                raise error

    def look(self) -> None:
        """Take the orders that have arrived; those of another token are of a job that has ended (G8)."""
        for order in self._end.orders_now():
            if isinstance(order, Halt) and order.token == self._token:
                self.pending.set(order.why, order.revocation)
        if self._end.orphaned:
            self.pending.set(Stop.LEASE_LOST)

    def revoked(self) -> Revocation | None:
        self.look()
        return self.pending.revocation

    def heartbeat(self) -> None:
        now = monotonic()
        if now < self._next_look:
            return  # a checkpoint a moment ago has done both
        self.check()
        if now >= self._next_report:
            self._report(Report(self._token))

    def progress(self, fraction: float | None, data: Mapping[str, Any]) -> None:
        self._report(Report(self._token, fraction, checked_progress(data)))

    def extend_lease(self, seconds: float) -> None:
        self._end.send(ExtendLease(self._token, seconds))

    def flush(self) -> None:
        """Send the last progress that was held back."""
        if self._unsent is not None:
            self._end.send(self._unsent)
            self._unsent = None

    def _report(self, report: Report) -> None:
        now = monotonic()
        if now < self._next_report:
            if report.data is not None:
                self._unsent = report
            return
        self._next_report = now + REPORT_GATE
        if report.data is None and self._unsent is not None:
            report = self._unsent
        self._unsent = None
        self._end.send(report)


def checked_progress(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data as JSON holds it; raises ``ValueError`` when it can't, or for more than 16 kB."""
    if not data:
        return {}
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"progress data is no JSON: {error}") from None
    if len(text) > PROGRESS_LIMIT:
        raise ValueError(f"progress data has {len(text)} bytes; at most {PROGRESS_LIMIT} are sent")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def rss_bytes() -> int | None:
    """This process's resident memory in bytes, ``None`` where the platform doesn't tell cheaply."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:  # noqa: PTH123 - once a job: pathlib takes four times as long
            return int(statm.read(200).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
