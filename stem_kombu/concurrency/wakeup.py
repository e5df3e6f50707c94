"""A pipe by which any thread wakes one that waits for descriptors."""

from __future__ import annotations

import os
import select
import ssl
import threading
from typing import Any


class WakePipe:
    """Closed until :meth:`open`; both may be called again and again. Waking while it is closed does nothing."""

    def __init__(self) -> None:
        self.reader = self.writer = -1
        self._awake = False
        #: A wake must not write to a descriptor that was closed meanwhile: its number may be another file's by now.
        self._lock = threading.RLock()  # of several turns: a signal handler may wake in the middle of another

    def open(self) -> None:
        with self._lock:
            self.reader, self.writer = os.pipe()
            os.set_blocking(self.reader, False)
            os.set_blocking(self.writer, False)
            self._awake = False

    def wake(self) -> None:
        """Make the reader readable; safe from any thread."""
        if self._awake:
            return  # the thread that drains it looks for work after that, and so finds what was added before this
        self._awake = True
        with self._lock:
            try:
                os.write(self.writer, b"x")
            except OSError:
                pass  # the pipe is full, so its reader is about to wake anyway; or it is closed

    def drain(self) -> None:
        """Take out all that was written."""
        try:
            while os.read(self.reader, 4096):
                pass
        except BlockingIOError:
            pass
        self._awake = False

    def close(self) -> None:
        with self._lock:
            if self.reader >= 0:
                os.close(self.reader)
                os.close(self.writer)
                self.reader = self.writer = -1


def wait_readable(sock: Any, wake: int, seconds: float) -> bool:
    """Whether the socket has something to read, after waiting at most ``seconds`` for it, or until ``wake`` is readable."""
    # A record of TLS may hold several frames, which the descriptor knows nothing of.
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    poller = select.poll()  # not select(), which knows no descriptors above 1023
    poller.register(sock, select.POLLIN)
    poller.register(wake, select.POLLIN)
    descriptor = sock.fileno()
    return any(ready == descriptor for ready, _ in poller.poll(max(0.0, seconds) * 1000))
