"""A consumer of the embedded broker is woken by what another process writes: by a named pipe beside the file, as a hint.

A process that has written a message writes a byte into ``<broker file>-bell``. Each consumer waits for new bytes (edges) and
takes none out, so that one byte wakes all; a writer that finds the pipe full empties it. Consumers go on polling, as they did
without it: a message is found by polling where there is no pipe, as in a folder that can't be written, on another system than
Linux, or between containers that share the file only. A killed process leaves nothing that others would have to know of.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import threading
from pathlib import Path

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency.wakeup import WakePipe

_FULL = 65_536


def bell_path(path: Path) -> Path:
    """The pipe of a broker's file."""
    return Path(f"{path}-bell")


class Doorbell:
    """The writers' side, one for each file and process. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = bell_path(path)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._closed = False
        self._opened_at = self._rung_at = float("-inf")

    def ring(self) -> None:
        """Wake the consumers of all processes; raises nothing, and never waits. Those that it has just woken still look."""
        now = SYSTEM.monotonic()
        if now - self._rung_at < timeouts.DOORBELL_LOOKING:
            return
        self._rung_at = now
        with self._lock:
            if self._closed:
                return
            try:
                if now - self._opened_at > timeouts.DOORBELL_TRUSTED:
                    self.abandon()
                    self._descriptor, self._opened_at = _opened(self._path), now
                if self._descriptor is not None:
                    _written(self._descriptor)
            except OSError:
                self.abandon()

    def open(self) -> None:
        """Ring again after :meth:`close`."""
        self._closed = False

    def close(self) -> None:
        """Let go of the pipe, and don't ring: a thread that ends late must not open it again."""
        with self._lock:
            self._closed = True
            self.abandon()

    def abandon(self) -> None:
        """The same without the lock: in a forked child, where a thread may have held it that does not exist."""
        descriptor, self._descriptor, self._opened_at = self._descriptor, None, float("-inf")
        if descriptor is not None:
            os.close(descriptor)


class WakeUp(threading.Event):
    """What a consumer waits for: :meth:`set` by a thread of this process, or the bell by another one."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = bell_path(path)
        self._pipe = WakePipe()
        self._lock = threading.Lock()
        self._epoll: select.epoll | None = None
        self._bell: int | None = None
        self._tried = self._waits = self._closed = False

    def set(self) -> None:
        super().set()
        self._pipe.wake()

    def rung(self, seconds: float) -> bool:
        """Whether the bell rang: as :meth:`wait`, which it ends as well. By one thread at a time."""
        if seconds < timeouts.DOORBELL_BUSY or (epoll := self._begun()) is None:
            self.wait(seconds)
            return False
        try:
            # Looked at after the pipe was opened: a thread that set it before that has written nothing into it.
            woken = {descriptor for descriptor, _ in epoll.poll(0 if self.is_set() else seconds)}
            if self._pipe.reader in woken:
                self._pipe.drain()
            return self._bell in woken
        finally:
            with self._lock:
                self._waits = False
                if self._closed:
                    self._let_go()

    def close(self) -> None:
        """Let the descriptors go, once no thread waits for them. It may be set and cleared all the same."""
        with self._lock:
            self._closed = True
            if not self._waits:
                self._let_go()
        self.set()

    def abandon(self) -> None:
        """:meth:`close` in a forked child, where no thread waits and none holds a lock that it will let go of."""
        self._lock = threading.Lock()
        self._closed = True
        self._pipe.abandon()
        self._let_go()

    def __del__(self) -> None:
        self._let_go()  # a connection that was dropped without being closed

    def _begun(self) -> select.epoll | None:
        """What to wait with, open until :meth:`rung` ends; ``None`` where there is no bell."""
        with self._lock:
            if not self._tried and not self._closed:
                self._tried = True
                self._open()
            self._waits = self._epoll is not None
            return self._epoll

    def _open(self) -> None:
        """Wait for the bell as well, where there can be one."""
        epoll = getattr(select, "epoll", None)  # eventlet takes it away
        if epoll is None:
            return
        with contextlib.suppress(OSError):
            os.mkfifo(self._path, 0o600)  # it is there already, most of the time
        with contextlib.suppress(OSError):
            self._bell = _opened(self._path)
            if self._bell is None:
                return
            self._pipe.open()
            self._epoll = epoll(flags=select.EPOLL_CLOEXEC)
            self._epoll.register(self._pipe.reader, select.EPOLLIN)
            self._epoll.register(self._bell, select.EPOLLIN | select.EPOLLET)
            return
        self._let_go()

    def _let_go(self) -> None:
        epoll, self._epoll = self._epoll, None
        bell, self._bell = self._bell, None
        if epoll is not None:
            epoll.close()
        if bell is not None:
            os.close(bell)
        self._pipe.close()


def _opened(path: Path) -> int | None:
    """The pipe, for reading and writing: without a reader it could not be opened to write. ``None`` where there is none."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _written(descriptor: int) -> None:
    """Write a byte; a pipe that is full is emptied first."""
    try:
        os.write(descriptor, b"\0")
    except BlockingIOError:
        with contextlib.suppress(BlockingIOError):
            os.read(descriptor, _FULL)
        with contextlib.suppress(BlockingIOError):
            os.write(descriptor, b"\0")
