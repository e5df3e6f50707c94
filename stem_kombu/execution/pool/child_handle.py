"""One child of the pool as its worker sees it: the process, the pipe, and the state that the table of frames allows.

Nothing here blocks: what the pipe doesn't take at once waits in a buffer, so that one suspended child can't hold up the
others.
"""

from __future__ import annotations

import logging
from math import inf
from typing import Protocol

from stem_kombu import machine, timeouts
from stem_kombu.clock import Clock
from stem_kombu.execution import groups
from stem_kombu.execution.base import Job, Stop
from stem_kombu.execution.frames import (
    ChildState,
    Finished,
    FrameReader,
    LoadFailed,
    Ready,
    Retire,
    Run,
    Started,
    StopJob,
    encode,
    transition,
)
from stem_kombu.execution.leftovers import tell_of_strays
from stem_kombu.execution.pool.climb import Climb
from stem_kombu.execution.pool.job_queue import MOST, ChildJobQueue
from stem_kombu.execution.pool.process_facts import name_of_signal
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import EndedHow, Ending, Outcome, TaskError
from stem_kombu.revocation import Revocation
from stem_kombu.slots import SlotView

logger = logging.getLogger(__name__)

_SHOWN = {
    ChildState.STARTING: "starting",
    ChildState.IDLE: "idle",
    ChildState.HANDED: "running",
    ChildState.RUNNING: "running",
    ChildState.STOPPING: "stopping",
    ChildState.RETIRING: "stopping",
}

#: Bytes that are read at once.
_READ = 262_144


class Process(Protocol):
    """What is used of ``billiard.Process``."""

    pid: int
    sentinel: int
    exitcode: int | None

    def join(self, timeout: float | None = None) -> None: ...


class Pipe(Protocol):
    """What is used of one end of ``billiard.Pipe``."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class ChildHandle:
    """A child in a slot. Used under the pool's lock only.

    ``has_status``: the system tells how it ended. Of a child of billiard's fork server it does not: that process reaps
    its children unseen, and billiard reports 255 for each that did not reach its own last line."""

    def __init__(
        self, slot: int, process: Process, pipe: Pipe, queue: ChildJobQueue, clock: Clock, *, has_status: bool = True
    ) -> None:
        self.slot = slot
        self.process = process
        self.pid: int = process.pid
        self.state = ChildState.STARTING
        self.job: Job | None = None
        self.tasks_done = 0
        self.rss_bytes: int | None = None
        self.soft_deadline: float | None = None
        self.hard_deadline: float | None = None
        #: When (monotonic) the process must be gone, once it retires.
        self.gone_deadline: float | None = None
        #: Whether the pool has more children than it should: this one goes after what it runs.
        self.is_surplus = False
        #: What its job ends as once a kill of ours has taken effect.
        self.verdict: Outcome | None = None
        self.load_failure: LoadFailed | None = None
        #: The ladder that its job climbs, and whether SIGKILL is on its way to it: what is free no more.
        self.climb: Climb | None = None
        self._is_doomed = False
        self.queue = queue
        #: Seconds that its last tasks took; ``None`` before the first.
        self._recent_runtime: float | None = None
        self._started_at = 0.0
        self.descriptor: int = pipe.fileno()
        self.sentinel: int = process.sentinel
        #: Readable once the process is dead, whatever a process that it has forked keeps open; ``None`` where there is none.
        self.pidfd = machine.open_pidfd(process.pid)
        #: What becomes readable once the process is dead.
        self.sentinels = (self.sentinel,) if self.pidfd is None else (self.sentinel, self.pidfd)
        #: Bytes of resident memory before its first task.
        self.fresh_rss_bytes: int | None = None
        self._leads_group = False
        self._started_ticks = machine.started_at(process.pid)
        self._pipe = pipe
        self._clock = clock
        self._has_status = has_status
        self._reader = FrameReader()
        #: Bytes that the pipe has not taken yet.
        self.unsent = bytearray()
        machine.set_blocking(self.descriptor, False)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a forked child of another slot must close."""
        return self.descriptor, *self.queue.descriptors

    @property
    def is_free(self) -> bool:
        """Whether it waits for a job."""
        return self.state is ChildState.IDLE and not self.queue.jobs and not self._is_doomed

    def room_in_queue(self, most_tasks: int | None) -> int:
        """How many more jobs its queue may take: short ones only, and none while one that it was handed may still be
        in its pipe, since it would have to begin that first. ``most_tasks``: how many it may run in its life."""
        if self._recent_runtime is None or self.is_surplus or self._is_doomed:
            return 0
        if self.state not in (ChildState.IDLE, ChildState.RUNNING):
            return 0
        most = (
            MOST
            if self._recent_runtime * MOST <= timeouts.JOB_QUEUE_WORK
            else int(timeouts.JOB_QUEUE_WORK / self._recent_runtime)
        )
        if most_tasks is not None:
            most = min(most, most_tasks - self.tasks_done - (self.job is not None))
        return most - len(self.queue.jobs)

    def forget_recent_runtime(self) -> None:
        """It does not begin soon what is in its queue: the queue takes nothing more before another task has ended."""
        self._recent_runtime = None

    def assign(self, job: Job) -> None:
        """Send the job to the child, which is free."""
        self.job, self._started_at = job, self._clock.monotonic()
        self.send(Run(job.token, job.message))

    def begins_queued(self, token: int) -> bool:
        """Note that it has begun that job of its queue; ``False`` when the job is not from there."""
        if self.job is not None or token not in self.queue.jobs:
            return False
        self._started_at = self._clock.monotonic()
        self.job = self.queue.begun(token, self._started_at)
        self.state = transition(self.state, Run)
        return True

    def stop_queued(self, halt: StopJob) -> None:
        """Stop a job of its queue that it has begun and has not reported yet; the report arrives before any answer."""
        self.unsent += encode(halt)
        self.flush()

    def send(self, frame: object) -> None:
        """Write the frame to the pipe, as far as the pipe takes it now."""
        self.state = transition(self.state, type(frame))
        self.unsent += encode(frame)
        self.flush()

    def flush(self) -> None:
        """Write what waits; a broken pipe is noticed by its end, not here."""
        try:
            while self.unsent:
                written = machine.write(self.descriptor, memoryview(self.unsent)[:1_048_576])
                del self.unsent[:written]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.unsent.clear()

    def receive(self) -> tuple[list[object], bool]:
        """The frames that have arrived, and whether the pipe has ended."""
        frames: list[object] = []
        while True:
            try:
                data = machine.read(self.descriptor, _READ)
            except BlockingIOError:
                return frames, False
            except ConnectionResetError:
                data = b""
            if not data:
                return frames, True
            frames.extend(self._reader.feed(data))
            if len(data) < _READ:
                return frames, False  # all there was; its end, if that has come as well, is the next event

    def accept(self, frame: object) -> None:
        """Move on to the state after the frame."""
        self.state = transition(self.state, type(frame))
        if isinstance(frame, Started):
            now, job = self._clock.monotonic(), self.job
            assert job is not None  # the table of frames knows no child that starts without
            self._started_at = now
            self.soft_deadline = None if job.soft_time_limit is None else now + job.soft_time_limit
            self.hard_deadline = None if job.time_limit is None else now + job.time_limit
        elif isinstance(frame, Finished):
            took = self._clock.monotonic() - self._started_at
            # One long task is enough to expect another; only many short ones are to expect the next.
            recent = self._recent_runtime
            self._recent_runtime = took if recent is None or took > recent else 0.8 * recent + 0.2 * took
            self.tasks_done += 1
            self.rss_bytes = frame.rss_bytes
            self.job = self.climb = None
            self.soft_deadline = self.hard_deadline = None
        elif isinstance(frame, Ready):
            self._leads_group, self.fresh_rss_bytes = frame.leads_group, frame.rss_bytes

    @property
    def due(self) -> float:
        """When (monotonic) :meth:`enforce_limits` has something to do."""
        dues = [due for due in (self.soft_deadline, self.hard_deadline, self.gone_deadline) if due is not None]
        if self.climb is not None:
            dues.append(self.climbs_at)
        return min(dues, default=inf)

    @property
    def climbs_at(self) -> float:
        """When (monotonic) :meth:`take_step` has something to do."""
        return inf if self.climb is None or self.verdict is not None else self.climb.due

    def arm(self, revocation: Revocation, ladder: Ladder) -> None:
        """Let what it runs climb the ladder from now on. It is given nothing ahead until that has ended: it is stopping."""
        if self.job is None:
            return
        if self.climb is None:
            self.climb = Climb(self.job.token, revocation)
        self.climb.add(revocation, ladder, self._clock.monotonic())

    def take_step(self, now: float) -> None:
        """Send the signal that is due to its group, if it still runs that very job and has begun no other (G27)."""
        climb, job = self.climb, self.job
        if climb is None or job is None or job.token != climb.token or self.verdict is not None:
            return
        if self.queue.jobs:  # it has begun another one, which it has not reported yet
            climb.put_off(now)
        elif (step := climb.step(now, self._clock.utcnow())) is EndedHow.KILL:
            self.verdict = climb.killed()
            self.kill()
        elif step is EndedHow.TERM and not self._is_dead:
            groups.terminate(self.pid)

    def told(self, token: int, outcome: Outcome) -> Outcome:
        """The outcome of that job, with the steps that it climbed."""
        return outcome if self.climb is None or self.climb.token != token else self.climb.told(outcome)

    def retire(self, now: float) -> None:
        """Have it exit, as it runs nothing; it is killed if it has not within a few seconds."""
        self.send(Retire())
        self.gone_deadline = now + timeouts.RETIRE_GRACE

    def release(self, now: float) -> None:
        """Have what it runs go back to the queue at the next checkpoint, and kill it a second later."""
        if self.verdict is not None:
            return
        if self.job is not None or self.queue.jobs:
            self.verdict = Outcome(Ending.RELEASED)
            self.hard_deadline = self.soft_deadline = None
            self.gone_deadline = now + timeouts.CHILD_RELEASE_GRACE
        if self.job is not None:
            self.send(StopJob(self.job.token, Stop.SHUTDOWN))
        for begun in self.queue.jobs:
            self.stop_queued(StopJob(begun, Stop.SHUTDOWN))

    def is_used_up(self, most_tasks: int | None, most_rss: int | None) -> bool:
        """Whether it has run as many tasks, or has as many bytes of resident memory, as a child may."""
        if most_tasks is not None and self.tasks_done >= most_tasks:
            return True
        return most_rss is not None and self.rss_bytes is not None and self.rss_bytes >= most_rss

    def enforce_limits(self, now: float) -> None:
        """Stop or kill what is over its time."""
        job = self.job
        if self.gone_deadline is not None and now >= self.gone_deadline:
            self.gone_deadline = None
            self.kill()
        if job is None or self.verdict is not None:
            return
        if self.hard_deadline is not None and now >= self.hard_deadline:
            text = f"task {job.message.task_id} passed its time limit of {job.time_limit:g} s; its child was killed"
            self.verdict = Outcome(Ending.FAILED, error=TaskError("TimeLimitExceeded", text))
            self.kill()
        elif self.soft_deadline is not None and now >= self.soft_deadline:
            self.soft_deadline = None
            self.send(StopJob(job.token, Stop.SOFT_TIME_LIMIT))

    def kill(self) -> None:
        """SIGKILL to it and, where it leads one, its group; its end is noticed like any other, and it gets no further job."""
        self._is_doomed = True
        if not self._is_dead:
            groups.kill(self.pid)

    def kill_what_it_left(self) -> None:
        """Once it is dead: SIGKILL to what its tasks have started and what is still in its group (G28)."""
        if self._leads_group and self.state is not ChildState.RETIRING:
            tell_of_strays(self.pid)
        if self._leads_group and (left := groups.kill_leaderless(self.pid, self._started_ticks)):
            logger.info("child %d left %d processes of its group behind, which were killed", self.pid, len(left))

    def has_exited(self) -> bool:
        self.process.join(0)
        return self._is_dead or self.process.exitcode is not None

    @property
    def _is_dead(self) -> bool:
        """Known to have ended; ``False`` also where the system does not tell so at once."""
        return self.pidfd is not None and machine.is_readable(self.pidfd)

    def describe_end(self) -> str:
        """How the process ended, as far as its start method can tell."""
        self.process.join(1.0)
        code = self.process.exitcode
        if code is None:
            return f"child {self.pid} closed its pipe"
        if code == 255 and not self._has_status:
            return f"child {self.pid} was killed or ended itself (the fork server keeps no exit status)"
        if code < 0:
            return f"child {self.pid} was killed by {name_of_signal(-code)}"
        return f"child {self.pid} left with status {code}"

    def close(self) -> None:
        if self.pidfd is not None:
            machine.close(self.pidfd)
            self.pidfd = None
        self._pipe.close()
        self.queue.close()

    def view(self) -> SlotView:
        task_id = None if self.job is None else self.job.message.task_id
        rss = machine.rss_bytes(self.pid)
        return SlotView(
            self.slot, self.pid, _SHOWN[self.state], task_id, self.tasks_done, self.rss_bytes if rss is None else rss
        )
