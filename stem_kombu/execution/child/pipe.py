"""A child's end of what leads to its worker: the pipe for orders and reports, and the jobs that it may begin by itself."""

from __future__ import annotations

import os
from collections.abc import Callable

from stem_kombu import machine, timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency import threads
from stem_kombu.execution.frames import Declined, FrameReader, Run, SetLogLevels, encode
from stem_kombu.execution.groups import end_own_group
from stem_kombu.execution.pool.job_queue import JobQueueReader, is_stale
from stem_kombu.logs import LogLevels


class ChildPipe:
    """The child's end: whole frames, blocking both ways. Used by the handler's thread only, but for :meth:`send`."""

    def __init__(self, descriptor: int, job_queue: JobQueueReader | None = None) -> None:
        self.descriptor = descriptor
        #: Jobs that it may begin by itself; ``None`` when it may not any more.
        self.job_queue = job_queue
        self._reader = FrameReader()
        self._orders: list[object] = []
        self._levels = LogLevels()
        self._sending = threads.Lock()
        self._unsent = b""
        self._poll = machine.poll()
        self._poll.register(descriptor, machine.POLLIN)
        self._anything = machine.poll()
        self._anything.register(descriptor, machine.POLLIN)
        if job_queue is not None:
            self._anything.register(job_queue.descriptor, machine.POLLIN)
        self.orphaned = False

    def send(self, frame: object) -> None:
        """Write the frame; nothing happens when the worker is gone."""
        self._write(encode(frame))

    def send_soon(self, frame: object) -> None:
        """Write the frame together with the next one, or before the next wait. By the handler's thread, between jobs."""
        with self._sending:
            self._unsent += encode(frame)

    def next_order(self) -> object | None:
        """Wait for the next frame; ``None`` when the worker is gone."""
        while not self._orders:
            if self.orphaned:
                return None
            if (run := self._claimed()) is not None:
                return run
            self._write(b"")
            if self.job_queue is not None and self.descriptor not in [fd for fd, _ in self._anything.poll()]:
                continue
            if not self._read():
                return None
        return self._orders.pop(0)

    def _claimed(self) -> Run | None:
        """The next job of the queue that may still begin."""
        if self.job_queue is None:
            return None
        try:
            while (run := self.job_queue.claim()) is not None and is_stale(run):
                self.send_soon(Declined(run.token))
        except BaseException:
            self._write(b"")  # what has ended must not be lost with us
            raise
        return run

    def _write(self, encoded: bytes) -> None:
        with self._sending:
            encoded, self._unsent = self._unsent + encoded, b""
            data = memoryview(encoded)
            try:
                while data:
                    data = data[machine.write(self.descriptor, data) :]
            except (BrokenPipeError, ConnectionResetError):
                self.orphaned = True

    def orders_now(self) -> list[object]:
        """Frames that have arrived, without waiting for more."""
        while not self.orphaned and self._poll.poll(0):
            self._read()
        orders, self._orders = self._orders, []
        return orders

    def has_news(self) -> Callable[[int], list[tuple[int, int]]]:
        """The bare system call of a checkpoint."""
        return self._poll.poll

    def watch_over(self, worker: int | None = None) -> None:
        """Exit soon after the worker has died, even in a handler without checkpoints: its task runs elsewhere by then.

        What the child's group still runs ends with it. ``worker`` is a descriptor that is readable once the worker is dead
        (:func:`os.pidfd_open`): a process that the worker's host has forked may keep the worker's end of the pipe open.
        """
        threads.Thread(target=self._lifeline, args=(worker,), name="stem-lifeline", daemon=True).start()

    def _lifeline(self, worker: int | None) -> None:
        end = machine.poll()
        end.register(self.descriptor, 0)  # nothing but the hang-up, which needs no asking for
        if worker is not None:
            end.register(worker, machine.POLLIN)
        end.poll()
        self.orphaned = True
        SYSTEM.sleep(timeouts.ORPHAN_GRACE)
        end_own_group(1)

    def leave_to_original(self) -> None:
        """In a copy of the child that a handler has forked: let go of everything here. It is the original's to take orders
        and to report, and a copy that kept the pipe open would hide the original's death from the worker."""
        descriptors = [self.descriptor] if self.job_queue is None else [self.descriptor, self.job_queue.descriptor]
        self._poll.unregister(self.descriptor)
        self._sending, self._orders, self._unsent = threads.Lock(), [], b""
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in descriptors:
            os.dup2(nothing, descriptor, inheritable=False)  # not closed: the handler's next file would get its number
        os.close(nothing)

    def _read(self) -> bool:
        try:
            data = machine.read(self.descriptor, 262_144)
        except ConnectionResetError:
            data = b""
        if not data:
            self.orphaned = True
            return False
        for frame in self._reader.feed(data):
            if isinstance(frame, SetLogLevels):
                self._levels.set(frame.levels)  # at once, whatever runs
            else:
                self._orders.append(frame)
        return True
