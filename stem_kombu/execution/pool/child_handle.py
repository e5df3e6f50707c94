"""One child of the pool as its worker sees it: the process, the pipe, and the state that the table of frames allows.

Nothing here blocks: what the pipe doesn't take at once waits in a buffer, so that one suspended child can't hold up the
others.
"""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

from stem_kombu.clock import Clock
from stem_kombu.execution import groups
from stem_kombu.execution.base import Job, SlotView, Stop
from stem_kombu.execution.frames import (
    ChildState,
    Finished,
    FrameReader,
    Halt,
    Ready,
    Run,
    Started,
    Unfit,
    encode,
    transition,
)
from stem_kombu.execution.leftovers import tell_of_strays
from stem_kombu.execution.pool.job_queue import MOST, MOST_WORK, ChildJobQueue
from stem_kombu.outcome import Ending, Outcome, TaskError

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


class ChildHandle:
    """A child in a slot. Used under the pool's lock only.

    ``has_status``: the system tells how it ended. Of a child of billiard's fork server it does not: that process reaps
    its children unseen, and billiard says 255 of each that did not come to its own last line."""

    def __init__(
        self, slot: int, process: Any, pipe: Any, ahead: ChildJobQueue, clock: Clock, *, has_status: bool = True
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
        #: Seconds (monotonic) by which the process must be gone, after it was told to retire.
        self.gone_deadline: float | None = None
        #: What its job ends as once a kill of ours has taken effect.
        self.verdict: Outcome | None = None
        self.unfit: Unfit | None = None
        self.ahead = ahead
        #: Seconds that its tasks take, as the last ones did; ``None`` where nobody can tell.
        self._pace: float | None = None
        self._started_at = 0.0
        self.descriptor: int = pipe.fileno()
        self.sentinel: int = process.sentinel
        #: Readable once the process is dead, whatever a process that it has forked keeps open; ``None`` where there is none.
        self.pidfd = groups.open_pidfd(process.pid)
        #: Bytes of resident memory before its first task.
        self.fresh_rss_bytes: int | None = None
        self._leads_group = False
        self._born = groups.started_at(process.pid)
        self._pipe = pipe
        self._clock = clock
        self._has_status = has_status
        self._reader = FrameReader()
        self._unsent = bytearray()
        os.set_blocking(self.descriptor, False)

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a forked child of another slot must close."""
        return self.descriptor, *self.ahead.descriptors

    @property
    def sentinels(self) -> tuple[int, ...]:
        """What becomes readable once the process is dead."""
        return (self.sentinel,) if self.pidfd is None else (self.sentinel, self.pidfd)

    @property
    def is_free(self) -> bool:
        """Whether it waits for a job."""
        return self.state is ChildState.IDLE and not self.ahead.jobs

    def room_ahead(self, most_tasks: int | None) -> int:
        """How many more jobs it may be given ahead: short ones only, and none while one that it was handed may still be
        in its pipe, since it would have to begin that first. ``most_tasks``: how many it may run in its life."""
        if self._pace is None or self.state not in (ChildState.IDLE, ChildState.RUNNING):
            return 0
        most = MOST if self._pace * MOST <= MOST_WORK else int(MOST_WORK / self._pace)
        if most_tasks is not None:
            most = min(most, most_tasks - self.tasks_done - (self.job is not None))
        return most - len(self.ahead.jobs)

    def forget_pace(self) -> None:
        """What it was given ahead it doesn't begin soon: it gets nothing more so before another task has ended."""
        self._pace = None

    def hand(self, job: Job) -> None:
        """Have it run the job, for it is free."""
        self.job, self._started_at = job, self._clock.monotonic()
        self.send(Run(job.token, job.message))

    def begins_ahead(self, token: int) -> bool:
        """It speaks of that job for the first time, which it can only have been given ahead; ``False`` if it was not."""
        if self.job is not None or token not in self.ahead.jobs:
            return False
        self._started_at = self._clock.monotonic()
        self.job = self.ahead.begun(token, self._started_at)
        self.state = transition(self.state, Run(token, self.job.message))
        return True

    def halt_ahead(self, halt: Halt) -> None:
        """Tell it to stop a job that it has begun, though it hasn't said so yet; what it says comes before any answer."""
        self._unsent += encode(halt)
        self.flush()

    def send(self, frame: object) -> None:
        """Hand the frame to the pipe, as far as that takes it now."""
        self.state = transition(self.state, frame)
        self._unsent += encode(frame)
        self.flush()

    def flush(self) -> None:
        """Write what waits; a broken pipe is noticed by its end, not here."""
        try:
            while self._unsent:
                written = os.write(self.descriptor, memoryview(self._unsent)[:1_048_576])
                del self._unsent[:written]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()

    def receive(self) -> tuple[list[Any], bool]:
        """The frames that have arrived, and whether the pipe has ended."""
        frames: list[Any] = []
        while True:
            try:
                data = os.read(self.descriptor, _READ)
            except BlockingIOError:
                return frames, False
            except ConnectionResetError:
                data = b""
            if not data:
                return frames, True
            frames.extend(self._reader.feed(data))
            if len(data) < _READ:
                return frames, False  # all there was; its end, if that has come as well, is the next event

    def accept(self, frame: Any) -> None:
        """Move on to the state after the frame."""
        self.state = transition(self.state, frame)
        if isinstance(frame, Ready):
            self._leads_group, self.fresh_rss_bytes = frame.leads_group, frame.rss_bytes
        elif isinstance(frame, Started):
            now, job = self._clock.monotonic(), self.job
            assert job is not None  # the table of frames knows no child that starts without
            self._started_at = now
            self.soft_deadline = None if job.soft_time_limit is None else now + job.soft_time_limit
            self.hard_deadline = None if job.time_limit is None else now + job.time_limit
        elif isinstance(frame, Finished):
            took = self._clock.monotonic() - self._started_at
            # One long task is enough to expect another; only many short ones are to expect the next.
            self._pace = took if self._pace is None or took > self._pace else 0.8 * self._pace + 0.2 * took
            self.tasks_done += 1
            self.rss_bytes = frame.rss_bytes
            self.job = None
            self.soft_deadline = self.hard_deadline = None

    @property
    def dues(self) -> list[float]:
        """When (monotonic) :meth:`enforce_limits` has something to do."""
        return [due for due in (self.soft_deadline, self.hard_deadline, self.gone_deadline) if due is not None]

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
            self.send(Halt(job.token, Stop.SOFT_TIME_LIMIT))

    def kill(self) -> None:
        """SIGKILL to it and, where it leads one, its group; its end is noticed like any other."""
        if not self._is_dead:
            groups.kill(self.pid)

    def kill_what_it_left(self) -> None:
        """Once it is dead: SIGKILL to what its tasks have started and what is still in its group (G28)."""
        if self._leads_group and self.state is not ChildState.RETIRING:
            tell_of_strays(self.pid)
        if self._leads_group and (left := groups.kill_leaderless(self.pid, self._born)):
            logger.info("child %d left %d processes of its group behind, which were killed", self.pid, len(left))

    def has_exited(self) -> bool:
        self.process.join(0)
        return self._is_dead or self.process.exitcode is not None

    @property
    def _is_dead(self) -> bool:
        """Known to have ended; ``False`` also where the system does not tell so at once."""
        return self.pidfd is not None and groups.is_readable(self.pidfd)

    def describe_end(self) -> str:
        """How the process ended, as far as its start method can tell."""
        self.process.join(1.0)
        code = self.process.exitcode
        if code is None:
            return f"child {self.pid} closed its pipe"
        if code == 255 and not self._has_status:
            return f"child {self.pid} was killed or ended itself (the fork server keeps no exit status)"
        if code < 0:
            return f"child {self.pid} was killed by {_name_of_signal(-code)}"
        return f"child {self.pid} left with status {code}"

    def close(self) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        self._pipe.close()
        self.ahead.close()

    def view(self) -> SlotView:
        task_id = None if self.job is None else self.job.message.task_id
        rss = rss_of(self.pid)
        return SlotView(
            self.slot, self.pid, _SHOWN[self.state], task_id, self.tasks_done, self.rss_bytes if rss is None else rss
        )


def _name_of_signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def rss_of(pid: int) -> int | None:
    """Resident memory of a process in bytes, ``None`` where that can't be told."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
