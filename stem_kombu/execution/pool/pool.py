"""Isolates: children with one pipe each, and one thread that assigns jobs, reads frames, stops, reaps and replaces.

A job is handed to a named child, so the pool always knows which child runs which attempt (G8). Where jobs are short and
more of them wait than there are children, each child has a queue of its next ones (:mod:`stem_kombu.execution.pool.job_queue`). A
death is noticed at once by the pipe's end or the process's sentinel, whichever comes first; the other children never
notice (G18).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.calls import call_each
from stem_kombu.concurrency.service import pulses_here
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.errors import ExecutionError
from stem_kombu.execution.base import Job, Observer, Stop
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.frames import (
    ChildState,
    Declined,
    ExtendLease,
    Finished,
    LoadFailed,
    ProtocolFault,
    Report,
    Started,
    StopJob,
)
from stem_kombu.execution.leftovers import LeftoverReaper
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.children import Children, ChildWatch
from stem_kombu.execution.pool.losses import lost_as, lost_with
from stem_kombu.execution.pool.scheduler import JobScheduler
from stem_kombu.execution.pool.spawning import ChildSpawner
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.slots import SlotView

logger = logging.getLogger(__name__)

Call = Callable[[], object]


class IsolatePool:
    """An :class:`~stem_kombu.execution.base.Executor` of child processes.

    ``setup`` is what a child loads; text is ``module:attribute`` of the application. Children are replaced after
    ``max_tasks_per_child`` tasks, or when larger than ``max_rss_per_child`` bytes after one.
    """

    def __init__(
        self,
        slots: int,
        setup: ChildSetup | str,
        observer: Observer,
        *,
        max_tasks_per_child: int | None = None,
        max_rss_per_child: int | None = None,
        start_method: str = "forkserver",
        clock: Clock = SYSTEM,
    ) -> None:
        self.slots = slots
        setup = ChildSetup(setup) if isinstance(setup, str) else setup
        setup = replace(setup, max_rss=max_rss_per_child, is_fork=start_method == "fork")
        self._max_tasks, self._max_rss = max_tasks_per_child, max_rss_per_child
        self._observer, self._clock = observer, clock
        self._lock, self._lifecycle = threads.RLock(), threads.RLock()
        self._children = Children()
        self._scheduler = JobScheduler(self._children, max_tasks_per_child)
        self._spawner, self._leftovers = ChildSpawner(setup, start_method, clock), LeftoverReaper(clock)
        self._stopping = False
        self._release_at: float | None = None
        self._pipe, self._pulse = WakePipe(), pulses_here().thread("pool", timeouts.MOVES)
        self._thread: threads.Thread | None = None
        self._settled = threads.Condition(self._lock)
        self.lost: dict[str, int] = {}

    # -- from any thread ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Return once every child has loaded the application.

        Raises :class:`~stem_kombu.errors.ExecutionError` when they can't; then no child is left.
        """
        with self._lifecycle:
            if self._thread is not None:
                return
            self._stopping, self._release_at = False, None
            self._leftovers.begin()
            self._spawner.begin()
            self._pipe.open()
            thread = threads.Thread(target=self._supervise, name="stem-pool", daemon=True)
            try:
                thread.start()
                self._thread = thread
                with self._lock:
                    for slot in range(self.slots):
                        self._children[slot] = self._spawner.spawn(slot, self.descriptors)
                self._pipe.wake()  # else it would see them a second later, where it waits already
            except BaseException:  # short of threads or processes
                self.stop(0.0)
                self._spawner.end()
                self._pipe.close()
                raise
            with self._settled:
                ready = self._settled.wait_for(self._all_ready_or_failed, timeouts.CHILDREN_START)
                problem = self._spawner.problem(ready=ready)
            if problem is not None:
                self.stop(0.0)  # before another start can find it running
                raise ExecutionError(self._spawner.explain(problem), hint=self._spawner.hint)

    def submit(self, job: Job) -> None:
        with self._lock:
            stopping = self._stopping or self._thread is None
            if not stopping:
                self._scheduler.append(job)
            wanted = self._scheduler.is_wanted  # a child that becomes idle later takes what waits by then
        if stopping:
            self._observer.ended(job, Outcome(Ending.RELEASED))
        elif wanted:
            self._pipe.wake()

    def stop_job(
        self, token: int, why: Stop, revocation: Revocation | None = None, ladder: Ladder | None = None
    ) -> bool:
        order = StopJob(token, why, revocation)
        with self._lock:
            if (child := self._children.running(token)) is not None:
                child.send(order)
                if ladder is not None and revocation is not None:
                    child.arm(revocation, ladder)
                    self._scheduler.recall(child)
                    self._pipe.wake()
            elif (child := self._scheduler.begun_by(token)) is not None:
                child.stop_queued(order)
        return child is not None

    def withdraw(self, token: int) -> bool:
        with self._lock:
            job = self._scheduler.take(token)
        if job is not None:
            self._observer.ended(job, Outcome(Ending.RELEASED))
        return job is not None

    def resize(self, slots: int) -> None:
        """Have so many children from now on: what lacks is started at once, what is too many goes after what it runs."""
        with self._lock:
            self.slots = slots
            if self._thread is not None and not self._stopping:
                self._spawner.fill(slots, self._children, self._clock.monotonic())
            for child in self._children.mark_surplus(slots):
                self._scheduler.recall(child)
        self._pipe.wake()

    def set_log_levels(self, levels: Mapping[str, str]) -> None:
        """Have these loggers of the children log from these levels on, and all others from their own."""
        with self._lock:
            self._children.set_levels(levels)
        self._pipe.wake()

    @property
    def retiring(self) -> int:
        """How many children are too many, and run something yet."""
        with self._lock:
            return sum(child.is_surplus and child.job is not None for child in self._children.values())

    def view(self) -> Sequence[SlotView]:
        with self._lock:
            return self._children.views()

    def stop(self, timeout: float | None = None) -> None:
        with self._lifecycle:
            if (thread := self._thread) is None:
                return
            with self._lock:
                self._stopping = True
                released = self._scheduler.take_all()
                if timeout is not None:
                    self._release_at = self._clock.monotonic() + timeout
            for job in released:
                self._observer.ended(job, Outcome(Ending.RELEASED))
            self._pipe.wake()
            thread.join()
            self._thread = None
            self._spawner.end()
            self._pipe.close()

    def hurry(self) -> None:
        """While :meth:`stop` waits: release what runs now."""
        with self._lock:
            self._release_at = self._clock.monotonic()
        self._pipe.wake()

    # -- the supervisor's thread ------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        watch, tend_at = ChildWatch(self._pipe.reader, self._pulse, self._clock), -inf
        while True:
            try:
                if (now := self._clock.monotonic()) >= tend_at:
                    self._tend()
                tend_at = -inf  # after a turn that fails
                with self._lock:
                    if self._stopping and not self._children:
                        break
                    watch.follow(self._children.values())
                    wait, rest = self._next_wait(), self._scheduler.rest(now)
                    tend = self._stopping or len(self._children) > self.slots
                for child in watch.wait(wait, rest):
                    if child is None:
                        self._pipe.drain()
                        tend = True  # or whatever else it was woken for
                    else:
                        self._receive(child)
                tend_at = -inf if tend else now + wait
            except Exception:
                # The boundary of the thread that everything here depends on: it must outlive any single surprise.
                logger.exception("the pool's supervisor goes on after an unexpected error")
                self._clock.sleep(0.05)
        watch.close()

    def _receive(self, child: ChildHandle) -> None:
        """Take what a child sends, and reap it when it has ended."""
        calls: list[Call] = []
        with self._lock:
            if not self._children.holds(child):
                return
            if child.unsent:
                child.flush()
            try:
                frames, ended = child.receive()
                for frame in frames:
                    if (call := self._take(child, frame)) is not None:
                        calls.append(call)
            except ProtocolFault as fault:
                logger.error("child %d broke the protocol and is replaced: %s", child.pid, fault)
                child.kill()
                ended = True
            # A child that has just spoken is alive as far as this turn is concerned; its end is another event.
            if ended or (not frames and child.has_exited()):
                calls += self._reap(child)
        # To assign comes first: the child need not idle while its last job is settled.
        call_each(iter([self._assign, *calls]))

    def _take(self, child: ChildHandle, frame: object) -> Call | None:
        """What to tell the worker of a frame. Under the lock."""
        token = getattr(frame, "token", None)
        if isinstance(frame, Declined) and (declined := child.queue.jobs.pop(frame.token, None)) is not None:
            child.accept(frame)
            child.forget_recent_runtime()
            self._scheduler.wait_again(declined)
            return None
        if token is not None and (child.job is None or child.job.token != token) and not child.begins_queued(token):
            raise ProtocolFault(f"{type(frame).__name__} for token {token}, which it doesn't have")
        job, climb = child.job, child.climb
        child.accept(frame)
        observer = self._observer
        if isinstance(frame, LoadFailed):
            child.load_failure = frame
        elif job is None:  # Ready
            self._spawner.loaded(child.fresh_rss_bytes)
            self._children.loaded(child)
            self._settled.notify_all()
        elif isinstance(frame, Started):
            return partial(observer.started, job, child.pid)
        elif isinstance(frame, Report):
            if frame.data is None:
                return partial(observer.heartbeat, job)
            return partial(observer.progress, job, frame.fraction, frame.data)
        elif isinstance(frame, ExtendLease):
            return partial(observer.extend_lease, job, frame.seconds)
        elif isinstance(frame, Finished):
            self._scheduler.finished(job, self._clock.monotonic())
            if not self._stopping and child.is_used_up(self._max_tasks, self._max_rss):
                self._replace(child)
            return partial(observer.ended, job, frame.outcome if climb is None else climb.told(frame.outcome))
        return None

    def _reap(self, child: ChildHandle) -> list[Call]:
        """Free what belonged to a dead child, tell how its job ended, and schedule a replacement. Under the lock."""
        if (lost := lost_as(child)) is not None:
            self.lost[lost] = self.lost.get(lost, 0) + 1
        child.kill()
        child.kill_what_it_left()
        end = child.describe_end()
        self._scheduler.recall(child)
        child.close()
        del self._children[child.slot]
        self._settled.notify_all()
        retired, started = child.state is ChildState.RETIRING, child.state is not ChildState.STARTING
        self._spawner.died(started=started, load_failure=child.load_failure)
        if not self._stopping and child.slot < self.slots and (not retired or child.load_failure is not None):
            self._spawner.schedule_replacement(child.slot)
        return [partial(self._observer.ended, *lost) for lost in lost_with(child, end, self._scheduler)]

    def _tend(self) -> None:
        """Do all that is due: replacements, time limits, shutdown, and jobs for idle children."""
        now = self._clock.monotonic()
        if now >= self._leftovers.due:
            self._leftovers.tend(now)
        self._climb(now)
        released: list[Job] = []
        with self._lock:
            due = self._spawner.take_due(inf if self._stopping else now)
            for slot in () if self._stopping else due:
                if (child := self._spawner.try_spawn(slot, self.descriptors)) is not None:
                    self._children[slot] = child
                self._settled.notify_all()
            for child in list(self._children.values()):
                child.enforce_limits(now)
                if child.is_surplus and child.is_free and not self._stopping:
                    self._replace(child)
            self._scheduler.recall_overdue(now)
            if self._stopping:
                released = self._scheduler.take_all()
                # All that the children have in their queues and have not begun is taken back by now.
                self._children.wind_down(now, self._release_at)
        for job in released:
            self._observer.ended(job, Outcome(Ending.RELEASED))
        self._assign()

    def _climb(self, now: float) -> None:
        """Take the steps of ladders that are due. What a child has sent is read first: its task may have ended."""
        with self._lock:
            due = [child for child in self._children.values() if child.climb is not None and child.climbs_at <= now]
        for child in due:
            self._receive(child)
            with self._lock:
                if self._children.holds(child):
                    child.take_step(now)

    def _assign(self) -> None:
        """Give the jobs that wait to children that are free, or that will soon be."""
        while True:
            with self._lock:
                turn = None if self._stopping else self._scheduler.next_turn()
            if turn is None:
                return
            job, child = turn
            if (instead := self._observer.may_start(job)) is not None:
                self._observer.ended(job, instead)
                continue
            with self._lock:
                if not self._scheduler.give(job, child):
                    return

    def _replace(self, child: ChildHandle) -> None:
        """Retire a child that runs no further task; another one takes its slot at once, if it still is one. Under the lock."""
        self._scheduler.recall(child)
        now = self._clock.monotonic()
        child.retire(now)
        if (slot := self._children.leave_slot(child)) < self.slots:
            self._spawner.due[slot] = now

    @property
    def descriptors(self) -> list[int]:
        """What no forked process may keep: it would hide this one's death from its children."""
        return [*{self._pipe.reader, self._pipe.writer}, *self._spawner.descriptors, *self._children.descriptors()]

    def _next_wait(self) -> float:
        """Seconds until something is due; a second at most, so that a lost wake-up can't matter for longer."""
        dues = [self._scheduler.due(), *self._spawner.due.values(), *[child.due for child in self._children.values()]]
        now = self._clock.monotonic()
        if self._stopping and self._release_at is not None and self._release_at > now:
            dues.append(self._release_at)
        return min(1.0, max(0.0, min(dues) - now))

    def _all_ready_or_failed(self) -> bool:
        return self._spawner.is_given_up or self._children.have_started(self.slots)
