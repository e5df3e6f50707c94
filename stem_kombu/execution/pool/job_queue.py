"""Jobs that a child may begin by itself, so that it does not wait for its worker between two short tasks.

A queue of datagrams between a worker and one of its children. The system hands each datagram to one reader only: the
child, or the worker, which can so take back what the child has not begun. So a job in a child's queue is still a job that
waits: it can be withdrawn, it goes to another child when this one takes long or dies, and it is not lost with the child.
"""

from __future__ import annotations

import socket
from typing import Protocol

from stem_kombu import machine, timeouts
from stem_kombu.clock import Clock, monotonic
from stem_kombu.execution.base import Job
from stem_kombu.execution.frames import Run, decode_alone, encode_alone

#: Jobs in a child's queue at most.
MOST = 16
#: Bytes of a job in a queue, and what the system is asked to hold of them: it may grant less, and is then full sooner.
LARGEST, _HELD = 131_072, 1_048_576


class Descriptor(Protocol):
    """What holds a descriptor, and closes it when it is forgotten."""

    def fileno(self) -> int: ...


class ChildJobQueue:
    """The worker's side. Used under the pool's lock only, and never blocks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._writer, self._reader = machine.datagram_pair()
        self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _HELD)
        self._writer.setblocking(False)
        self._reader.setblocking(False)  # for the child as well: it's the same open socket
        #: By token, in the order given: jobs that the child has been given and has not reported to have begun.
        self.jobs: dict[int, Job] = {}
        #: When (monotonic) the worker takes back what still lies here, unless the child begins something meanwhile.
        self.due = 0.0

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a forked child of another slot must close."""
        return self._writer.fileno(), self._reader.fileno()

    def childs_end(self) -> int:
        """A descriptor for a new process, which makes its :class:`JobQueueReader` of it; the worker's own end stays open."""
        return machine.dup(self._reader.fileno())

    def give(self, job: Job) -> bool:
        """Let the child begin the job once it has ended what it was given before; ``False`` when it is too large or the
        queue is full."""
        # Not the pool's own clock, but the one that Python says is the same in every process of a machine.
        body = encode_alone(Run(job.token, job.message, monotonic() + timeouts.JOB_GOOD_FOR))
        if len(body) > LARGEST:
            return False
        try:
            self._writer.send(body)
        except OSError:
            return False  # full; or the child's end is gone, which is noticed elsewhere
        if not self.jobs:
            self.due = self._clock.monotonic() + timeouts.JOB_STUCK
        self.jobs[job.token] = job
        return True

    def begun(self, token: int, now: float) -> Job:
        """The child has reported that it has begun that one of :attr:`jobs`."""
        self.due = now + timeouts.JOB_STUCK
        return self.jobs.pop(token)

    def take_back(self) -> list[Job]:
        """Every job that the child has not begun, in the order given. What stays in :attr:`jobs` it has begun."""
        self.due = self._clock.monotonic() + timeouts.JOB_STUCK
        returned: list[Job] = []
        while True:
            try:
                body = self._reader.recv(LARGEST)
            except OSError:
                return returned
            returned.append(self.jobs.pop(_run(body).token))

    def close(self) -> None:
        self._writer.close()
        self._reader.close()


class JobQueueReader:
    """The child's side, of which it takes one job after the other."""

    def __init__(self, end: Descriptor) -> None:
        self.descriptor = end.fileno()
        self._end = end
        self._buffer: bytearray | None = None

    def claim(self) -> Run | None:
        """The next job, ``None`` when there is none. It is this child's from now on."""
        if self._buffer is None:
            self._buffer = bytearray(LARGEST)  # once: to make one for each job takes longer than to read a short one
        try:
            length = machine.readv(self.descriptor, [self._buffer])
        except (BlockingIOError, ConnectionResetError):
            return None
        return _run(memoryview(self._buffer)[:length])


def _run(body: bytes | memoryview) -> Run:
    run = decode_alone(body)
    assert isinstance(run, Run)  # nothing else is written to a queue
    return run


def is_stale(run: Run) -> bool:
    """Whether the worker has to look again before that job may begin."""
    return run.good_until is not None and monotonic() > run.good_until
