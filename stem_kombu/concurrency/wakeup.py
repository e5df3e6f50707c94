"""A pipe by which any thread wakes one that waits for descriptors; on Linux an eventfd, which is one descriptor and not two."""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING

from stem_kombu import machine
from stem_kombu.concurrency import threads

if TYPE_CHECKING:
    from socket import socket

#: What an eventfd takes: a number of 64 bits.
_ONE = (1).to_bytes(8, sys.byteorder)


class WakePipe:
    """Closed until :meth:`open`; both may be called again and again. Waking while it is closed does nothing."""

    def __init__(self) -> None:
        self.reader = self.writer = -1
        self._awake = False
        #: A wake must not write to a descriptor that was closed meanwhile: its number may be another file's by now.
        self._lock = threads.RLock()  # of several turns: a signal handler may wake in the middle of another

    def open(self) -> None:
        with self._lock:
            self.reader, self.writer = machine.wake_descriptors()
            self._awake = False

    def wake(self) -> None:
        """Make the reader readable; safe from any thread."""
        if self._awake:
            return  # the thread that drains it looks for work after that, and so finds what was added before this
        self._awake = True
        with self._lock:
            try:
                machine.write(self.writer, _ONE)
            except OSError:
                pass  # the pipe is full, so its reader is about to wake anyway; or it is closed

    def drain(self) -> None:
        """Take out all that was written."""
        try:
            while machine.read(self.reader, 4096):
                pass
        except BlockingIOError:
            pass
        self._awake = False

    def close(self) -> None:
        with self._lock:
            if self.reader >= 0:
                for descriptor in {self.reader, self.writer}:
                    machine.close(descriptor)
                self.reader = self.writer = -1

    def abandon(self) -> None:
        """:meth:`close` in a forked child, where a thread may have held the lock that does not exist here."""
        self._lock = threads.RLock()
        self.close()


def wait_readable(sock: socket, wake: int, seconds: float) -> bool:
    """Whether the socket has something to read, after waiting at most ``seconds`` for it, or until ``wake`` is readable."""
    # A record of TLS may hold several frames, which the descriptor knows nothing of.
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    poller = machine.poll()  # not select(), which knows no descriptors above 1023
    poller.register(sock, machine.POLLIN)
    poller.register(wake, machine.POLLIN)
    descriptor = sock.fileno()
    return any(ready == descriptor for ready, _ in poller.poll(max(0.0, seconds) * 1000))
