"""Isolates: children with one pipe each, and one thread that assigns, reads, stops, buries and replaces.

A job is handed to a named child, so the pool always knows which child runs which attempt (G8). Where jobs are short and
more of them wait than there are children, each child has its next ones with it (:mod:`stem_kombu.execution.pool.job_queue`). A
death is noticed at once by the pipe's end or the process's sentinel, whichever comes first; the other children never
notice (G18).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.errors import ExecutionError
from stem_kombu.execution.base import Job, Observer, SlotView, Stop
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.frames import (
    ChildState,
    Declined,
    ExtendLease,
    Finished,
    Halt,
    ProtocolFault,
    Report,
    Retire,
    Started,
    Unfit,
)
from stem_kombu.execution.leftovers import LeftoverReaper
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.child_watch import ChildWatch
from stem_kombu.execution.pool.scheduler import HANDOVERS, JobScheduler
from stem_kombu.execution.pool.spawning import START_TIMEOUT, ChildSpawner
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation

logger = logging.getLogger(__name__)

#: Seconds between the order to release and SIGKILL, and for a retired child to be gone.
RELEASE_GRACE = 1.0
RETIRE_GRACE = 5.0


class IsolatePool:
    """An :class:`~stem_kombu.execution.base.Executor` of child processes.

    ``setup`` says how a child becomes one; text is ``module:attribute`` of the application. Children are replaced after
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
        self._setup = replace(setup, max_rss=max_rss_per_child, is_fork=start_method == "fork")
        self._observer = observer
        self._max_tasks = max_tasks_per_child
        self._max_rss = max_rss_per_child
        self._clock = clock
        self._lock = threading.RLock()
        self._lifecycle = threading.RLock()
        self._members: dict[int, ChildHandle] = {}
        self._lineup = JobScheduler(self._members, max_tasks_per_child)
        self._births = ChildSpawner(self._setup, start_method, clock)
        self._leftovers = LeftoverReaper(clock)
        self._stopping = False
        self._release_at: float | None = None
        self._pipe = WakePipe()
        self._thread: threading.Thread | None = None
        self._settled = threading.Condition(self._lock)

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
            self._births.begin()
            self._pipe.open()
            thread = threading.Thread(target=self._supervise, name="stem-pool", daemon=True)
            try:
                thread.start()
                self._thread = thread
                with self._lock:
                    for slot in range(self.slots):
                        self._members[slot] = self._births.spawn(slot, self.descriptors)
            except BaseException:  # short of threads or processes
                self.stop(0.0)
                self._births.end()
                self._pipe.close()
                raise
            with self._settled:
                ready = self._settled.wait_for(self._all_ready_or_unfit, START_TIMEOUT)
                problem = self._births.problem(ready=ready)
            if problem is not None:
                self.stop(0.0)  # before another start can find it running
                raise ExecutionError(self._births.told(problem), hint=self._births.hint)

    def submit(self, job: Job) -> None:
        with self._lock:
            stopping = self._stopping or self._thread is None
            if not stopping:
                self._lineup.append(job)
            # Whoever becomes idle later is given what waits by then.
            wanted = self._lineup.is_wanted
        if stopping:
            self._observer.ended(job, Outcome(Ending.RELEASED))
        elif wanted:
            self._pipe.wake()

    def stop_job(self, token: int, why: Stop, revocation: Revocation | None = None) -> bool:
        with self._lock:
            if (member := self._running(token)) is not None:
                member.send(Halt(token, why, revocation))
                return True
            if (member := self._lineup.begun_by(token)) is not None:
                member.halt_ahead(Halt(token, why, revocation))
                return True
        return False

    def withdraw(self, token: int) -> bool:
        with self._lock:
            job = self._lineup.take(token)
        if job is None:
            return False
        self._observer.ended(job, Outcome(Ending.RELEASED))
        return True

    def view(self) -> Sequence[SlotView]:
        with self._lock:
            return [member.view() for slot, member in sorted(self._members.items()) if slot >= 0]

    def stop(self, timeout: float | None = None) -> None:
        with self._lifecycle:
            thread = self._thread
            if thread is None:
                return
            with self._lock:
                self._stopping = True
                released = self._lineup.take_all()
                if timeout is not None:
                    self._release_at = self._clock.monotonic() + timeout
            for job in released:
                self._observer.ended(job, Outcome(Ending.RELEASED))
            self._pipe.wake()
            thread.join()
            self._thread = None
            self._births.end()
            self._pipe.close()

    def hurry(self) -> None:
        """While :meth:`stop` waits: release what runs now."""
        with self._lock:
            self._release_at = self._clock.monotonic()
        self._pipe.wake()

    # -- the supervisor's thread ------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        watch = ChildWatch(self._pipe.reader)
        while True:
            try:
                self._tend()
                with self._lock:
                    if self._stopping and not self._members:
                        break
                    watch.follow(self._members.values())
                    wait = self._next_wait()
                for member in watch.wait(wait):
                    if member is None:
                        self._pipe.drain()
                    else:
                        self._hear(member)
            except Exception:
                # The boundary of the thread that everything here depends on: it must outlive any single surprise.
                logger.exception("the pool's supervisor goes on after an unexpected error")
                self._clock.sleep(0.05)
        watch.close()

    def _hear(self, member: ChildHandle) -> None:
        """Take what a child says, and bury it when it has ended."""
        calls: list[Callable[[], None]] = []
        with self._lock:
            if self._members.get(member.slot) is not member:
                return
            member.flush()
            try:
                frames, ended = member.receive()
                for frame in frames:
                    calls += self._take(member, frame)
            except ProtocolFault as fault:
                logger.error("child %d broke the protocol and is replaced: %s", member.pid, fault)
                member.kill()
                ended = True
            # A child that has just spoken is alive as far as this turn is concerned; its end is another event.
            if ended or (not frames and member.has_exited()):
                calls += self._bury(member)
        with ExitStack() as told:  # each of them, whatever comes of the one before it
            for call in reversed(calls):
                told.callback(call)
            self._assign()  # first of all: the child need not idle while its last job is settled

    def _take(self, member: ChildHandle, frame: object) -> list[Callable[[], None]]:
        """What the worker is told of a frame. Under the lock."""
        token = getattr(frame, "token", None)
        if isinstance(frame, Declined) and (declined := member.ahead.jobs.pop(frame.token, None)) is not None:
            member.accept(frame)
            member.forget_pace()
            self._lineup.wait_again(declined)
            return []
        if token is not None and (member.job is None or member.job.token != token) and not member.begins_ahead(token):
            raise ProtocolFault(f"{type(frame).__name__} for token {token}, which it doesn't have")
        job = member.job
        member.accept(frame)
        observer = self._observer
        if isinstance(frame, Unfit):
            member.unfit = frame
        elif job is None:  # Ready
            self._births.succeeded(member.fresh_rss_bytes)
            self._settled.notify_all()
        elif isinstance(frame, Started):
            return [lambda: observer.started(job, member.pid)]
        elif isinstance(frame, Report):
            if frame.data is None:
                return [lambda: observer.heartbeat(job)]
            fraction, data = frame.fraction, frame.data
            return [lambda: observer.progress(job, fraction, data)]
        elif isinstance(frame, ExtendLease):
            seconds = frame.seconds
            return [lambda: observer.extend_lease(job, seconds)]
        elif isinstance(frame, Finished):
            self._lineup.forget(job)
            self._recycle_if_due(member)
            outcome = frame.outcome
            return [lambda: observer.ended(job, outcome)]
        return []

    def _bury(self, member: ChildHandle) -> list[Callable[[], None]]:
        """Say how the dead child's job ended, and see to a successor. Under the lock."""
        member.kill()
        member.kill_what_it_left()
        end = member.describe_end()
        self._lineup.recall(member)
        member.close()
        del self._members[member.slot]
        self._settled.notify_all()
        retired, started = member.state is ChildState.RETIRING, member.state is not ChildState.STARTING
        self._births.died(started=started, unfit=member.unfit)
        if not self._stopping and (not retired or member.unfit is not None):
            self._births.succeed(member.slot)
        job, member.job = member.job, None
        # What it was about to begin: the handler was never called, so another child may have it as if nothing had happened.
        handed = list(member.ahead.jobs.values())
        if job is not None and member.state is ChildState.HANDED and member.verdict is None:
            handed, job = [job, *handed], None
        elif job is None and not handed and not retired and started:
            logger.warning("idle %s; it is replaced", end)
        lost = [] if job is None else [(job, f"{end} while it ran task {job.message.task_id}")]
        for one in handed:
            if not self._lineup.hand_over(one):
                given = f"{HANDOVERS + 1} children in a row ended with it"
                lost.append((one, f"task {one.message.task_id} never began: {given}, the last: {end}"))
        return [self._end_of_lost(one, text, member.verdict) for one, text in lost]

    def _end_of_lost(self, job: Job, text: str, verdict: Outcome | None) -> Callable[[], None]:
        """What the worker is told of a job that went with its child. Under the lock."""
        self._lineup.forget(job)
        if verdict is None:
            logger.error("%s", text, extra={"task_id": job.message.task_id})
        lost = Outcome(Ending.LOST, error=TaskError("ChildLost", text)) if verdict is None else verdict
        return lambda: self._observer.ended(job, lost)

    def _tend(self) -> None:
        """Everything that is due: successors, time limits, shutdown, and jobs for idle children."""
        now = self._clock.monotonic()
        self._leftovers.tend(now)
        released: list[Job] = []
        with self._lock:
            for slot, due in list(self._births.due.items()):
                if self._stopping or due <= now:
                    del self._births.due[slot]
                    if not self._stopping:
                        self._respawn(slot)
            for member in self._members.values():
                member.enforce_limits(now)
            self._lineup.recall_overdue(now)
            if self._stopping:
                released = self._lineup.take_all()
                self._wind_down(now)
        for job in released:
            self._observer.ended(job, Outcome(Ending.RELEASED))
        self._assign()

    def _assign(self) -> None:
        """Give the jobs that wait to children that are free, or that will soon be."""
        while True:
            with self._lock:
                turn = None if self._stopping else self._lineup.next_turn()
            if turn is None:
                return
            job, member = turn
            if (instead := self._observer.may_start(job)) is not None:
                self._observer.ended(job, instead)
                continue
            with self._lock:
                if not self._lineup.give(job, member):
                    return

    def _wind_down(self, now: float) -> None:
        """Retire what is idle; once the time is up, release what runs, then by force. Under the lock, and once all that
        lay ahead and has not begun is taken back."""
        for member in self._members.values():
            if member.is_free or member.state is ChildState.STARTING:
                member.send(Retire())
                member.gone_deadline = now + RETIRE_GRACE
            elif self._release_at is not None and now >= self._release_at and member.verdict is None:
                if member.job is not None or member.ahead.jobs:
                    member.verdict = Outcome(Ending.RELEASED)
                    member.hard_deadline = member.soft_deadline = None
                    member.gone_deadline = now + RELEASE_GRACE
                if member.job is not None:
                    member.send(Halt(member.job.token, Stop.SHUTDOWN))
                for begun in member.ahead.jobs:
                    member.halt_ahead(Halt(begun, Stop.SHUTDOWN))

    def _recycle_if_due(self, member: ChildHandle) -> None:
        full = self._max_tasks is not None and member.tasks_done >= self._max_tasks
        fat = self._max_rss is not None and member.rss_bytes is not None and member.rss_bytes >= self._max_rss
        if (full or fat) and not self._stopping:
            self._lineup.recall(member)  # all that it had: it takes none any more
            member.send(Retire())
            member.gone_deadline = self._clock.monotonic() + RETIRE_GRACE
            # Its successor takes the slot at once; the old child is kept under a slot number that nobody sees.
            del self._members[member.slot]
            slot, member.slot = member.slot, -member.pid
            self._members[member.slot] = member
            self._births.due[slot] = self._clock.monotonic()

    def _respawn(self, slot: int) -> None:
        try:
            self._members[slot] = self._births.spawn(slot, self.descriptors)
        except Exception as error:  # noqa: BLE001 - whatever keeps a child from starting, the others go on
            self._births.failed(slot, error)
            self._settled.notify_all()

    @property
    def descriptors(self) -> list[int]:
        """What no forked process may keep: it would hide this one's death from its children."""
        members = list(self._members.values())
        own = (self._pipe.reader, self._pipe.writer, *self._births.descriptors)
        return [*own, *(one for member in members for one in member.descriptors)]

    def _next_wait(self) -> float:
        """Seconds until something is due; a second at most, so that a lost wake-up can't matter for longer."""
        dues = [self._lineup.due, *self._births.due.values()]
        for member in self._members.values():
            dues += member.dues
        now = self._clock.monotonic()
        if self._stopping and self._release_at is not None and self._release_at > now:
            dues.append(self._release_at)
        return min(1.0, max(0.0, min(dues) - now))

    def _running(self, token: int) -> ChildHandle | None:
        return next((m for m in self._members.values() if m.job is not None and m.job.token == token), None)

    def _all_ready_or_unfit(self) -> bool:
        states = [member.state for member in self._members.values()]
        return self._births.hopeless or (
            len(states) >= self.slots and all(state is not ChildState.STARTING for state in states)
        )
