"""What the product imports as ``threading``, ``queue``, ``os``, ``select`` and ``selectors``, on simulated threads."""

from __future__ import annotations

import queue as real_queue
import select as real_select
import selectors as real_selectors
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


threading = SimpleNamespace(
    Thread=Thread,
    Lock=Lock,
    RLock=RLock,
    Condition=Condition,
    Event=Event,
    Timer=Timer,
    current_thread=current_thread,
)


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
        while not self._items:
            left = None if deadline is None else deadline - KERNEL.now
            if left is not None and left <= 0:
                raise real_queue.Empty
            me = KERNEL.thread
            self._waiters.append(me)
            KERNEL.block(left)
            if me in self._waiters:
                self._waiters.remove(me)
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


queue = SimpleNamespace(SimpleQueue=SimpleQueue, Empty=real_queue.Empty)

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


def _socketpair(family: int, kind: int) -> tuple[MailSocket, MailSocket]:
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


def _write(fd: int, data: Any) -> int:
    end = FDS[fd]
    peer = end.peer
    if peer is None or peer.closed:
        del data  # a system call keeps no view of the caller's buffer, as this frame in a traceback would
        raise BrokenPipeError
    peer.buffer += data
    peer.touched()
    return len(data)


def _kill(pid: int, signal: int) -> None:
    for process in KERNEL.processes:
        if process.pid == pid and process.alive:
            if signal:
                KERNEL.kill(process)
            return
    raise ProcessLookupError(pid)


def _exit(status: int) -> None:
    KERNEL.kill(KERNEL.thread.process, status)


def _set_blocking(fd: int, blocking: bool) -> None:
    FDS[fd].blocking = blocking


os = SimpleNamespace(
    pipe=_pipe,
    dup=_dup,
    read=_read,
    write=_write,
    close=FDS.close,
    kill=_kill,
    _exit=_exit,
    set_blocking=_set_blocking,
    getpid=lambda: current_thread().process.pid,
    register_at_fork=lambda **_: None,
    cpu_count=lambda: 2,
    sysconf=lambda name: 4096,
)


socket = SimpleNamespace(socketpair=_socketpair, AF_UNIX=0, SOCK_DGRAM=0)


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


select = SimpleNamespace(poll=_Selector, POLLIN=real_select.POLLIN)
selectors = SimpleNamespace(
    DefaultSelector=_Selector,
    BaseSelector=_Selector,
    EVENT_READ=real_selectors.EVENT_READ,
    EVENT_WRITE=real_selectors.EVENT_WRITE,
)
