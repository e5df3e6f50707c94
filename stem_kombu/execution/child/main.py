"""A child process: it loads the application, runs one handler after the other, and speaks to nothing but its worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stem_kombu import machine
from stem_kombu.context import TaskContext
from stem_kombu.errors import TaskNotRegistered
from stem_kombu.execution.child.life import ChildLife, ChildLoop, run_start_hooks
from stem_kombu.execution.child.pipe import ChildPipe
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.child.signals import ChildSignals
from stem_kombu.execution.frames import Finished, LoadFailed, Ready, Retire, Run, Started
from stem_kombu.execution.handlers import call, call_async, context_of, failure, refusal
from stem_kombu.execution.pool.job_queue import Descriptor, JobQueueReader
from stem_kombu.execution.pool.semaphore_tracker import leave_billiards_care
from stem_kombu.execution.signals import stop_timers, unset_timers
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.task import Task, TaskMessage, TaskRegistry


def main(pipe: Any, jobs: Any, setup: ChildSetup, foreign: Sequence[int] = ()) -> None:
    """What billiard runs in a child that it spawns or forks.

    ``foreign`` are descriptors inherited from the worker by ``fork``: kept open, they would hide the worker's death from
    its other children, and its end of their pipes.
    """
    for descriptor in foreign:
        try:
            machine.close(descriptor)
        except OSError:
            pass  # closed by another copy of it already
    leave_billiards_care()
    live(pipe, jobs, setup)


def live(pipe: Descriptor, jobs: Descriptor, setup: ChildSetup) -> None:
    """The child's whole life. ``pipe`` is its end of the duplex pipe, ``jobs`` that of the queue of jobs that it may begin."""
    serve(ChildPipe(pipe.fileno(), JobQueueReader(jobs)), setup, ChildLife())


def serve(end: ChildPipe, setup: ChildSetup, life: ChildLife) -> None:
    """Load the application, then run what the worker sends until it says that this is enough, or is gone."""
    try:
        leads_group = life.begin(setup, end)
    except (OSError, RuntimeError) as error:
        end.send(
            LoadFailed(f"the system is short of threads, processes or descriptors: {error}", again=True, is_short=True)
        )
        return
    try:
        registry, hooks = life.load(setup)
    except BaseException as error:  # noqa: BLE001 - importing an application runs any code
        end.send(LoadFailed(_described(error)))
        return
    try:
        run_start_hooks(hooks)
    except BaseException as error:  # noqa: BLE001 - the application's own code
        end.send(LoadFailed(f"a start hook failed: {_described(error)}", again=True))
        return
    end.send(Ready(machine.getpid(), leads_group, machine.rss_bytes()))
    loop, timers = ChildLoop(), unset_timers()
    while (order := end.next_order()) is not None:
        if isinstance(order, Retire):
            life.finish(hooks, loop)
            return
        if isinstance(order, Run):
            try:
                outcome = run(order, registry, end, loop)
            except BaseException as error:  # noqa: BLE001 - what a handler left behind, an event loop policy for one
                outcome = failure(error)
            stop_timers(timers)
            # Only where something follows from it: to ask takes as long as a short task, and the worker can ask as well.
            rss = None if setup.max_rss is None else machine.rss_bytes()
            if rss is not None and rss >= (setup.max_rss or 0):
                end.job_queue = None
            try:
                end.send_soon(Finished(order.token, outcome, rss))
            except Exception as error:  # noqa: BLE001 - pickle may raise anything
                end.send_soon(Finished(order.token, failure(error, Ending.REJECTED), rss))
        # A StopJob here came too late for its job, which has just ended.
    life.leave()


def _described(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - an application's own exception class may fail to describe itself
        text = f"<its text can't be made: {type(broken).__name__}>"
    return f"{type(error).__name__}: {text}"


def run(order: Run, registry: TaskRegistry, end: ChildPipe, loop: ChildLoop) -> Outcome:
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
    context = context_of(message, signals, is_isolate=True)
    end.send(Started(order.token))
    outcome: Outcome = (
        loop.run(_run_async(task, message, context, signals)) if task.is_async else call(task, message, context)
    )
    signals.flush()
    return outcome


async def _run_async(task: Task, message: TaskMessage, context: TaskContext, signals: ChildSignals) -> Outcome:
    """Run a coroutine, and cancel it at its next await when the pipe brings an order for it."""
    import asyncio  # see :class:`~stem_kombu.execution.child.life.ChildLoop`

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
