"""One child of the pool as its worker sees it: the process, the pipe, and the state that the table of frames allows.

Nothing here blocks: what the pipe doesn't take at once waits in a buffer, so that one suspended child can't hold up the
others.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from stem_kombu.clock import Clock
from stem_kombu.execution.base import Job, SlotView
from stem_kombu.execution.frames import ChildState, Finished, FrameReader, encode, transition
from stem_kombu.outcome import Outcome

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


class Member:
    """A child in a slot. Used under the pool's lock only."""

    def __init__(self, slot: int, process: Any, pipe: Any, clock: Clock) -> None:
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
        self.unfit: str | None = None
        self.descriptor: int = pipe.fileno()
        self.sentinel: int = process.sentinel
        self._pipe = pipe
        self._clock = clock
        self._reader = FrameReader()
        self._unsent = bytearray()
        os.set_blocking(self.descriptor, False)

    @property
    def is_busy(self) -> bool:
        return self.job is not None

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

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
        if isinstance(frame, Finished):
            self.tasks_done += 1
            self.rss_bytes = frame.rss_bytes
            self.job = None
            self.soft_deadline = self.hard_deadline = None

    def kill(self) -> None:
        """SIGKILL; its end is noticed like any other."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was quicker

    def has_exited(self) -> bool:
        self.process.join(0)
        return self.process.exitcode is not None

    def describe_end(self) -> str:
        """How the process ended, as far as its start method can tell."""
        self.process.join(1.0)
        code = self.process.exitcode
        if code is None:
            return f"child {self.pid} closed its pipe"
        if code < 0:
            return f"child {self.pid} was killed by signal {-code}"
        if code == 255:
            return f"child {self.pid} was killed, or left with status 255"
        return f"child {self.pid} left with status {code}"

    def close(self) -> None:
        self._pipe.close()

    def view(self) -> SlotView:
        task_id = None if self.job is None else self.job.message.task_id
        rss = rss_of(self.pid)
        return SlotView(
            self.slot, self.pid, _SHOWN[self.state], task_id, self.tasks_done, self.rss_bytes if rss is None else rss
        )


def rss_of(pid: int) -> int | None:
    """Resident memory of a process in bytes, ``None`` where that can't be told."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
