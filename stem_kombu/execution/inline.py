"""Inline handlers: plain ones in threads of this process, coroutines on one event loop.

A terminate sets a flag that the next checkpoint sees; a coroutine is cancelled at its next await besides. A thread that
never reaches a checkpoint can't be stopped: when the worker leaves without it, its late result is thrown away.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter

from stem_kombu import machine, timeouts
from stem_kombu.clock import SYSTEM, Clock, monotonic
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.thread_pool import ThreadPool
from stem_kombu.context import TaskContext, running_context
from stem_kombu.execution.base import Job, Observer, Stop
from stem_kombu.execution.child.signals import checked_progress
from stem_kombu.execution.coroutines import CoroutineLoop
from stem_kombu.execution.handlers import call, call_async, context_of, failure, refusal
from stem_kombu.execution.stop_reasons import PendingStop
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.slots import SlotView

logger = logging.getLogger(__name__)


class InlineSignals:
    """The executor's side of a context, in this process. See :class:`stem_kombu.context.Signals`."""

    __slots__ = ("_job", "_next_report", "_observer", "_pid", "pending")

    def __init__(self, job: Job, observer: Observer) -> None:
        self._job = job
        self._observer = observer
        self._next_report = 0.0
        self._pid = machine.getpid()
        self.pending = PendingStop(job.message.task_id)

    def check(self) -> None:
        if (error := self.pending.take()) is not None:
            raise error

    def revoked(self) -> Revocation | None:
        return self.pending.revocation

    def heartbeat(self) -> None:
        if (error := self.pending.take()) is not None:
            raise error
        now = monotonic()
        if now >= self._next_report:
            self._next_report = now + timeouts.CHECKPOINT_GATE
            if self._is_here():
                self._observer.heartbeat(self._job)

    def progress(self, fraction: float | None, data: Mapping[str, object]) -> None:
        checked = checked_progress(data)
        if self._is_here():
            self._observer.progress(self._job, fraction, checked)

    def extend_lease(self, seconds: float) -> None:
        if self._is_here():
            self._observer.extend_lease(self._job, seconds)

    def _is_here(self) -> bool:
        """Whether this is the worker: in a copy that the handler has forked, other threads' locks stay taken for ever."""
        return machine.getpid() == self._pid


class _Run:
    """One job in a slot. ``begun``: the thread or the loop has come to it, and its handler is called next. ``done`` is set with
    the first report of its end; later reports are dropped."""

    def __init__(self, slot: int, job: Job, observer: Observer) -> None:
        self.slot = slot
        self.job = job
        self.signals = InlineSignals(job, observer)
        self.future: asyncio.Future[Outcome] | None = None
        self.timers: list[threads.Timer] = []
        self.begun = self.done = False


class InlineExecutor:
    """An :class:`~stem_kombu.execution.base.Executor` in this process."""

    def __init__(self, slots: int, observer: Observer, *, clock: Clock = SYSTEM) -> None:
        self.slots = slots
        self._observer = observer
        self._clock = clock
        # Taken by name: entering a condition costs several times what entering its lock does.
        self._lock = threads.RLock()
        self._cond = threads.Condition(self._lock)
        self._waiting: collections.deque[Job] = collections.deque()
        self._runs: dict[int, _Run] = {}
        #: The threads with a job that neither waits nor runs: it is about to begin, or its end is being told. One may be
        #: named twice, as the end of one job has others submitted.
        self._in_hand: list[threads.Thread] = []
        self._tasks_done = [0] * slots
        self._free: list[int] = []
        self._threads = ThreadPool("stem-inline")
        self._coroutines = CoroutineLoop(self._run_async, self._cut_off)
        self._running = False
        self._hurry = threads.Event()
        #: A start while a stop waits for what runs comes after it.
        self._lifecycle = threads.Lock()

    def start(self) -> None:
        with self._lifecycle, self._lock:
            if not self._running:
                self._running = True
                self._hurry.clear()
                self._threads.open()
                self._free = [
                    slot for slot in reversed(range(self.slots)) if slot not in {r.slot for r in self._runs.values()}
                ]

    def submit(self, job: Job) -> None:
        with self._lock:
            running = self._running
            if running:
                self._waiting.append(job)
        if running:
            self._assign()
        else:
            self._observer.ended(job, Outcome(Ending.RELEASED))

    def stop_job(
        self, token: int, why: Stop, revocation: Revocation | None = None, _ladder: Ladder | None = None
    ) -> bool:
        with self._lock:
            run = self._runs.get(token)
        if run is None:
            return False
        run.signals.pending.set(why, revocation)
        if run.future is not None:
            try:
                run.future.get_loop().call_soon_threadsafe(run.future.cancel)
            except RuntimeError:
                pass  # a handler has closed the loop, whose thread is about to find that out
        return True

    def is_about_to_begin(self, token: int) -> bool:
        """Whether this job has its slot, and its handler was not called yet."""
        run = self._runs.get(token)
        return run is not None and not run.begun

    def withdraw(self, token: int) -> bool:
        with self._lock:
            for job in self._waiting:
                if job.token == token:
                    self._waiting.remove(job)
                    break
            else:
                return False
        self._observer.ended(job, Outcome(Ending.RELEASED))
        return True

    def view(self) -> Sequence[SlotView]:
        """The slots in use; there are as many more idle ones as ``slots`` allows, and they cost nothing."""
        with self._lock:
            runs = sorted(self._runs.values(), key=attrgetter("slot"))
            return [
                SlotView(
                    run.slot,
                    machine.getpid(),
                    "stopping" if run.signals.pending else "running",
                    run.job.message.task_id,
                    self._tasks_done[run.slot],
                    None,
                )
                for run in runs
            ]

    def runs_caller(self) -> bool:
        """Whether the calling thread or coroutine is a handler that runs here, or tells what became of one: a :meth:`stop`
        would wait for it."""
        context = running_context()
        with self._lock:
            return threads.current_thread() in self._in_hand or (
                context is not None and any(run.signals is context._signals for run in self._runs.values())
            )

    def stop(self, timeout: float | None = None) -> None:
        with self._lifecycle:
            self._stop(timeout)

    def _stop(self, timeout: float | None) -> None:
        with self._lock:
            if not self._running:
                return
            self._running = False
            released, self._waiting = list(self._waiting), collections.deque()
        for job in released:
            self._observer.ended(job, Outcome(Ending.RELEASED))
        with self._lock:
            self._cond.wait_for(self._is_settled, timeout)
            stuck = list(self._runs.values())
        for run in stuck:
            self.stop_job(run.job.token, Stop.SHUTDOWN)
        with self._lock:
            stuck = (
                [] if self._cond.wait_for(self._is_empty, timeouts.INLINE_RELEASE_GRACE) else list(self._runs.values())
            )
        for run in stuck:
            logger.warning(
                "task %s reached no checkpoint; its thread is abandoned, and the task runs on another worker",
                run.job.message.task_id,
            )
            self._end(run, Outcome(Ending.RELEASED))
        self._threads.stop()
        self._coroutines.stop(timeouts.INLINE_RELEASE_GRACE)

    def hurry(self) -> None:
        """While :meth:`stop` waits: release what runs now."""
        self._hurry.set()
        with self._lock:
            self._cond.notify_all()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _assign(self, *, takes_one: bool = False) -> _Run | None:
        """Give waiting jobs the free slots, in the calling thread. Where it ``takes_one``, having freed a slot, the first that
        needs a thread is returned, to be run by the caller: to hand it over to another thread takes as long as a short task."""
        while True:
            with self._lock:
                if not self._waiting or not self._free or not self._running:
                    return None
                job = self._waiting.popleft()
                slot = self._free.pop()
                self._in_hand.append(threads.current_thread())
            try:
                run = self._begin(job, slot)
            finally:
                self._let_go()
            if run is None:
                continue
            try:
                self._observer.started(job, machine.getpid())
                self._set_timers(run)
                if job.task.is_async:
                    self._coroutines.give(run)
                elif takes_one:
                    return run
                else:
                    self._threads.run(partial(self._work, run))
            except (OSError, RuntimeError) as error:
                # Out of descriptors or threads: another worker may have some. The pause keeps the job from coming back
                # at full speed.
                logger.error("task %s can't be started here and returns to its queue: %s", job.message.task_id, error)
                self._hurry.wait(timeouts.INLINE_PAUSE)
                self._end(run, Outcome(Ending.RELEASED))

    def _begin(self, job: Job, slot: int) -> _Run | None:
        """The run of the job, unless it is refused, which is told then."""
        instead = self._observer.may_start(job) or refusal(job.task, job.message)
        if instead is not None:
            with self._lock:
                self._free.append(slot)
            self._observer.ended(job, instead)
            return None
        run = _Run(slot, job, self._observer)
        with self._lock:
            self._runs[job.token] = run
        return run

    def _work(self, run: _Run | None) -> None:
        while run is not None:
            run.begun = True
            try:
                outcome = call(run.job.task, run.job.message, self._context(run))
            except BaseException as error:  # noqa: BLE001 - one that another thread has set off in this one
                outcome = failure(error)
            run = self._end(run, outcome, takes_one=True)

    def _cut_off(self, run: _Run, error: BaseException) -> None:
        self._end(run, failure(error))

    async def _run_async(self, run: _Run) -> None:
        def cancelled_by() -> BaseException | None:
            return run.signals.pending.take()

        run.begun = True
        try:
            run.future = asyncio.Task(call_async(run.job.task, run.job.message, self._context(run), cancelled_by))
            if run.signals.pending:
                run.future.cancel()  # a stop was requested before it could begin
            outcome = await run.future
        except asyncio.CancelledError:
            # Cancelled before its first step, so that call_async never saw it.
            error = run.signals.pending.take()
            outcome = (
                Outcome(Ending.CANCELLED, revocation=error.revocation)
                if error is not None and hasattr(error, "revocation")
                else Outcome(Ending.RELEASED)
                if error is not None
                else failure(asyncio.CancelledError("the handler or another task cancelled it"))
            )
        except BaseException as error:  # noqa: BLE001 - the boundary: whatever it is, it is this run's end
            outcome = failure(error)
        self._end(run, outcome)

    def _end(self, run: _Run, outcome: Outcome, *, takes_one: bool = False) -> _Run | None:
        """Tell of the end of a run, and give its slot to the next; see :meth:`_assign`."""
        with self._lock:
            if run.done:
                return None
            run.done = True
            for timer in run.timers:
                timer.cancel()
            del self._runs[run.job.token]
            self._tasks_done[run.slot] += 1
            self._free.append(run.slot)
            self._in_hand.append(threads.current_thread())
        try:
            self._observer.ended(run.job, outcome)
        except BaseException:
            self._let_go()
            self._assign()
            raise
        self._let_go()
        return self._assign(takes_one=takes_one)

    def _let_go(self) -> None:
        with self._lock:
            self._in_hand.remove(threads.current_thread())
            if not self._running:
                self._cond.notify_all()  # a stop waits for it

    def _context(self, run: _Run) -> TaskContext:
        return context_of(run.job.message, run.signals, is_isolate=False)

    def _set_timers(self, run: _Run) -> None:
        for limit, why in ((run.job.soft_time_limit, Stop.SOFT_TIME_LIMIT), (run.job.time_limit, Stop.TIME_LIMIT)):
            if limit is not None:
                timer = threads.Timer(limit, self.stop_job, (run.job.token, why))
                timer.daemon = True
                run.timers.append(timer)
                timer.start()

    def _is_empty(self) -> bool:
        return not self._runs and not self._in_hand

    def _is_settled(self) -> bool:
        return self._is_empty() or self._hurry.is_set()
