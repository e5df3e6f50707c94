"""Threads, locks, pipes, signals and processes of the simulated machine: what stands in for
:mod:`stem_kombu.concurrency.threads` and :mod:`stem_kombu.machine`."""

from __future__ import annotations

import queue as real_queue
import select as real_select
import selectors as real_selectors
import signal as real_signal
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from tests.simulation.kernel import KERNEL, NOWHERE, Killed, Process, Thread

# -- threading ----------------------------------------------------------------------------------------------------------


class Lock:
    __slots__ = ("_locked", "_waiters")

    def __init__(self) -> None:
        self._locked = False
        self._waiters: deque[Thread] | None = None

    def __enter__(self) -> bool:
        kernel = KERNEL
        kernel.fuel -= 1
        if kernel.fuel < 0:
            kernel.yield_now()
        while self._locked:
            if kernel.over:
                raise Killed
            if self._waiters is None:
                self._waiters = deque()
            self._waiters.append(kernel.thread)
            kernel.block()
        self._locked = True
        return True

    def __exit__(self, *_: object) -> None:
        self._locked = False
        if self._waiters:
            KERNEL.wake(self._waiters.popleft())

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not blocking and self._locked:
            return False
        deadline = KERNEL.now + timeout
        while timeout >= 0 and self._locked:
            if KERNEL.now >= deadline:
                return False
            if self._waiters is None:
                self._waiters = deque()
            self._waiters.append(KERNEL.thread)
            if not KERNEL.block(deadline - KERNEL.now):
                self._waiters.remove(KERNEL.thread)
        return self.__enter__()

    def release(self) -> None:
        self.__exit__()

    def locked(self) -> bool:
        return self._locked


class RLock:
    __slots__ = ("_count", "_owner", "_waiters")

    def __init__(self) -> None:
        self._owner: Thread | None = None
        self._count = 0
        self._waiters: deque[Thread] | None = None

    def __enter__(self) -> bool:
        kernel = KERNEL
        me = kernel.current or _OUTSIDE
        if self._owner is not me:
            kernel.fuel -= 1
            if kernel.fuel < 0:
                kernel.yield_now()
            while self._owner is not None:
                if kernel.over:
                    raise Killed
                if self._waiters is None:
                    self._waiters = deque()
                self._waiters.append(kernel.thread)
                kernel.block()
            self._owner = me
        self._count += 1
        return True

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self._count <= 0:
            self._owner, self._count = None, 0
            if self._waiters:
                KERNEL.wake(self._waiters.popleft())

    acquire = __enter__

    def release(self) -> None:
        self.__exit__()


_OUTSIDE = Thread(process=NOWHERE)


class Condition:
    __slots__ = ("_lock", "_waiters")

    def __init__(self, lock: Any = None) -> None:
        self._lock = RLock() if lock is None else lock
        self._waiters: list[Thread] = []

    def __enter__(self) -> bool:
        lock = self._lock
        if type(lock) is RLock and lock._owner is None and KERNEL.fuel > 0 and (me := KERNEL.current) is not None:
            # What the lock does where nobody has it and nobody is quicker, without a second call.
            KERNEL.fuel -= 1
            lock._owner, lock._count = me, 1
            return True
        return bool(lock.__enter__())

    def __exit__(self, *_: object) -> None:
        lock = self._lock
        if type(lock) is RLock and lock._count == 1 and not lock._waiters:
            lock._owner, lock._count = None, 0
            return
        lock.__exit__()

    def wait(self, timeout: float | None = None) -> bool:
        kernel, lock, waiters = KERNEL, self._lock, self._waiters
        me = kernel.current
        assert me is not None
        count = 1
        if type(lock) is RLock:
            count, lock._count = lock._count, 1
        waiters.append(me)
        lock.__exit__()
        told = kernel.block(timeout)
        if me in waiters:
            waiters.remove(me)
        lock.__enter__()
        if type(lock) is RLock:
            lock._count = count
        return told

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        deadline = None if timeout is None else KERNEL.now + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - KERNEL.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, count: int = 1) -> None:
        waiters = self._waiters
        while waiters and count:
            # Which of them wakes is not promised by anybody.
            KERNEL.wake(waiters.pop(int(KERNEL.draw() * len(waiters)) if len(waiters) > 1 else 0))
            count -= 1

    def notify_all(self) -> None:
        if self._waiters:
            self.notify(len(self._waiters))


class Event:
    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[Thread] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                KERNEL.wake(waiter)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set and (timeout is None or timeout > 0):
            me = KERNEL.current
            assert me is not None
            self._waiters.append(me)
            KERNEL.block(timeout)
            if me in self._waiters:
                self._waiters.remove(me)
        return self._set


class Timer(Thread):
    __slots__ = ("_called_off",)

    def __init__(self, interval: float, function: Callable[..., Any], args: Sequence[Any] = ()) -> None:
        def run() -> None:
            KERNEL.sleep(interval)
            if not self._called_off:
                function(*args)

        self._called_off = False
        super().__init__(target=run, name="timer")

    def cancel(self) -> None:
        self._called_off = True


def current_thread() -> Thread:
    return KERNEL.current or _OUTSIDE


class SimpleQueue:
    __slots__ = ("_items", "_waiters")

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiters: deque[Thread] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiters:
            KERNEL.wake(self._waiters.popleft())

    def get(self, timeout: float | None = None) -> Any:
        KERNEL.checkpoint()
        deadline = None if timeout is None else KERNEL.now + timeout
        left = timeout
        while not self._items:
            if left is not None and left <= 0:
                raise real_queue.Empty
            me = KERNEL.thread
            self._waiters.append(me)
            KERNEL.block(left)
            if me in self._waiters:
                self._waiters.remove(me)
            left = None if deadline is None else deadline - KERNEL.now
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


THREADS: dict[str, Any] = {
    "Thread": Thread,
    "Lock": Lock,
    "RLock": RLock,
    "Condition": Condition,
    "Event": Event,
    "Timer": Timer,
    "SimpleQueue": SimpleQueue,
    "current_thread": current_thread,
}

# -- descriptors --------------------------------------------------------------------------------------------------------


class End:
    """One end of a pipe, or a process's sentinel. Readable when there are bytes, or when the other end is closed."""

    __slots__ = ("blocking", "buffer", "closed", "fd", "hung_up", "owner", "peer", "watchers")

    def __init__(self, fd: int, owner: Process | None) -> None:
        self.fd = fd
        self.owner = owner
        self.buffer = bytearray()
        self.peer: End | None = None
        self.closed = self.hung_up = False
        self.blocking = True
        self.watchers: list[Thread] = []

    @property
    def readable(self) -> bool:
        return bool(self.buffer) or self.hung_up

    def touched(self) -> None:
        if self.watchers:
            watchers, self.watchers = self.watchers, []
            for watcher in watchers:
                KERNEL.wake(watcher)


class MailEnd(End):
    """One reader of a queue of datagrams, of which each goes to one reader. Copies share the queue."""

    __slots__ = ("queue", "readers")

    def __init__(self, fd: int, owner: Process | None, like: MailEnd | None = None) -> None:
        super().__init__(fd, owner)
        self.blocking = False
        self.queue: deque[bytes] = deque() if like is None else like.queue
        self.readers: list[MailEnd] = [] if like is None else like.readers
        self.readers.append(self)

    @property
    def readable(self) -> bool:
        return bool(self.queue)

    def take(self) -> bytes:
        if not self.queue:
            raise BlockingIOError
        return self.queue.popleft()

    def put(self, data: bytes) -> int:
        self.queue.append(bytes(data))
        for reader in self.readers:
            reader.touched()
        return len(data)


class MailSocket:
    """A socket of :func:`socket.socketpair`, of datagrams that go one way."""

    def __init__(self, reader: MailEnd) -> None:
        self._end = reader

    def setblocking(self, blocking: bool) -> None:
        """It never blocks."""

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """It holds what it is given."""

    def fileno(self) -> int:
        return self._end.fd

    def send(self, data: bytes) -> int:
        return self._end.put(data)

    def recv(self, size: int) -> bytes:
        return self._end.take()

    def close(self) -> None:
        if not self._end.closed:
            FDS.close(self._end.fd)


class Descriptors:
    """The simulated machine's table of descriptors."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._ends: dict[int, End] = {}
        self._next = 3

    def new(self, owner: Process | None) -> End:
        self._next += 1
        end = self._ends[self._next] = End(self._next, owner)
        return end

    def pair(self, owner: Process | None) -> tuple[End, End]:
        ours, theirs = self.new(owner), self.new(owner)
        ours.peer, theirs.peer = theirs, ours
        return ours, theirs

    def mail(self, owner: Process | None, like: MailEnd | None = None) -> MailEnd:
        self._next += 1
        end = self._ends[self._next] = MailEnd(self._next, owner, like)
        return end

    def __getitem__(self, fd: int) -> End:
        try:
            return self._ends[fd]
        except KeyError:
            raise OSError(9, f"no such descriptor {fd}") from None

    def close(self, fd: int) -> None:
        end = self._ends.pop(fd, None)
        if end is None:
            raise OSError(9, f"no such descriptor {fd}")
        end.closed = True
        if end.peer is not None:
            end.peer.hung_up = True
            end.peer.touched()
        end.touched()

    def close_all_of(self, process: Process) -> None:
        for fd in [fd for fd, end in self._ends.items() if end.owner is process]:
            self.close(fd)

    def __len__(self) -> int:
        return len(self._ends)


FDS = Descriptors()


def _pipe() -> tuple[int, int]:
    reader, writer = FDS.pair(KERNEL.current.process if KERNEL.current else None)
    return reader.fd, writer.fd


def _wake_descriptors() -> tuple[int, int]:
    descriptors = _pipe()
    for fd in descriptors:
        FDS[fd].blocking = False
    return descriptors


def _datagram_pair() -> tuple[MailSocket, MailSocket]:
    reader = MailSocket(FDS.mail(KERNEL.thread.process))
    return reader, reader


def _dup(fd: int) -> int:
    end = FDS[fd]
    assert isinstance(end, MailEnd)
    return FDS.mail(end.owner, end).fd


def _read(fd: int, size: int) -> bytes:
    end = FDS[fd]
    if isinstance(end, MailEnd):
        return end.take()
    while not end.buffer:
        if end.hung_up:
            return b""
        if not end.blocking:
            raise BlockingIOError
        end.watchers.append(KERNEL.thread)
        KERNEL.block()
    data = bytes(end.buffer[:size])
    del end.buffer[:size]
    return data


def _readv(fd: int, buffers: list[bytearray]) -> int:
    (buffer,) = buffers
    data = _read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _write(fd: int, data: Any) -> int:
    end = FDS[fd]
    peer = end.peer
    if peer is None or peer.closed:
        del data  # a system call keeps no view of the caller's buffer, as this frame in a traceback would
        raise BrokenPipeError
    peer.buffer += data
    peer.touched()
    return len(data)


class Signals:
    """What tells an observer of signals that are sent; one world's."""

    observe: Callable[[Process, int], None] = staticmethod(lambda process, number: None)


def _kill(pid: int, number: int) -> None:
    _signal([process for process in KERNEL.processes if process.pid == pid and process.alive], number)


def _killpg(group: int, number: int) -> None:
    group = group or KERNEL.thread.process.group
    members = [process for process in KERNEL.processes if process.group == group and process.alive]
    _signal(sorted(members, key=lambda process: process is KERNEL.thread.process), number)


def _signal(processes: list[Process], number: int) -> None:
    """A process takes notice of SIGKILL only: that children take none of SIGTERM is their own code, which does not run here."""
    if not processes:
        raise ProcessLookupError
    for process in processes if number else ():
        # What ends its own group is gone by that; a worker that signals itself has signalled more than a child.
        if process is not KERNEL.thread.process or number != real_signal.SIGKILL:
            Signals.observe(process, number)
        if number == real_signal.SIGKILL:
            KERNEL.kill(process)


def _setpgid(pid: int, group: int) -> None:
    process = KERNEL.thread.process
    process.group = process.pid


def _getpgid(pid: int) -> int:
    for process in KERNEL.processes:
        if process.pid == pid and process.alive:
            return process.group
    raise ProcessLookupError(pid)


def _exit(status: int) -> None:
    KERNEL.kill(KERNEL.thread.process, status)


def _set_blocking(fd: int, blocking: bool) -> None:
    FDS[fd].blocking = blocking


def _runs(pid: int) -> bool:
    return any(process.pid == pid and process.alive for process in KERNEL.processes)


def _stat(process: Process) -> Any:
    # Of :mod:`stem_kombu.machine`, which is not loaded before it has its twin.
    from stem_kombu.machine import ProcessStat

    return ProcessStat(process.pid, "R", 0, process.group, 1, process.pid)


def _stat_of(pid: int) -> Any:
    return next((_stat(process) for process in KERNEL.processes if process.pid == pid and process.alive), None)


def _getpid() -> int:
    return current_thread().process.pid


class _Selector:
    """Both :mod:`select`'s poll objects and :mod:`selectors`' selectors, as far as the product uses them."""

    def __init__(self) -> None:
        self._fds: dict[int, Any] = {}

    def register(self, fd: int, events: int = 0) -> None:
        FDS[fd]
        self._fds[fd] = SimpleNamespace(fd=fd, events=events)

    def unregister(self, fd: int) -> None:
        del self._fds[fd]

    def select(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        found = [(key, 1) for fd, key in self._fds.items() if (end := FDS._ends.get(fd)) is not None and end.readable]
        if found or timeout == 0:
            return found
        me = KERNEL.thread
        ends = [FDS._ends[fd] for fd in self._fds if fd in FDS._ends]
        for end in ends:
            end.watchers.append(me)
        KERNEL.block(timeout)
        for end in ends:
            if me in end.watchers:
                end.watchers.remove(me)
        return [(key, 1) for fd, key in self._fds.items() if (end := FDS._ends.get(fd)) is not None and end.readable]

    def close(self) -> None:
        self._fds.clear()

    # -- select.poll --

    def poll(self, milliseconds: float | None = None) -> list[tuple[int, int]]:
        for fd, key in self._fds.items():
            end = FDS._ends.get(fd)
            if end is None or (end.readable if key.events else end.hung_up):
                return [(fd, 1)]
        if milliseconds == 0:
            return []
        me = KERNEL.thread
        while True:
            ends = [FDS._ends[fd] for fd in self._fds if fd in FDS._ends]
            for end in ends:
                end.watchers.append(me)
            KERNEL.block(None if milliseconds is None else milliseconds / 1000)
            for fd, key in self._fds.items():
                found = FDS._ends.get(fd)
                if found is None or (found.readable if key.events else found.hung_up):
                    return [(fd, 1)]
            if milliseconds is not None:
                return []


MACHINE: dict[str, Any] = {
    "EVENT_READ": real_selectors.EVENT_READ,
    "EVENT_WRITE": real_selectors.EVENT_WRITE,
    "POLLIN": real_select.POLLIN,
    "Selector": _Selector,
    "boot_id": lambda: "simulated",
    "close": FDS.close,
    "datagram_pair": _datagram_pair,
    "dup": _dup,
    "environment_of": lambda pid: None,
    "gethostname": lambda: "host",
    "getpgid": _getpgid,
    "getpgrp": lambda: current_thread().process.group,
    "getpid": _getpid,
    "getsid": lambda pid: 1,
    "is_readable": lambda fd: FDS[fd].readable,
    "kill": _kill,
    "killpg": _killpg,
    "leave_at_once": _exit,
    "load_avg": lambda: None,
    "open_pidfd": lambda pid: None,
    "pid_in_proc": _getpid,
    "pid_namespace": lambda: 1,
    "poll": _Selector,
    "processes": lambda: [_stat(process) for process in KERNEL.processes if process.alive],
    "read": _read,
    "readv": _readv,
    "rss_bytes": lambda pid=None: None,
    "runs": _runs,
    "set_blocking": _set_blocking,
    "setpgid": _setpgid,
    "started_at": lambda pid: pid if _runs(pid) else None,
    "stat_of": _stat_of,
    "user_name": lambda: "operator",
    "wake_descriptors": _wake_descriptors,
    "write": _write,
}
