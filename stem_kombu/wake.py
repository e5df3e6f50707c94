"""A pipe by which any thread wakes one that waits for descriptors."""

from __future__ import annotations

import os


class WakePipe:
    """Closed until :meth:`open`; both may be called again and again. Waking while it is closed does nothing."""

    def __init__(self) -> None:
        self.reader = self.writer = -1
        self._awake = False

    def open(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        self._awake = False

    def wake(self) -> None:
        """Make the reader readable; safe from any thread."""
        if self._awake:
            return  # whoever drains it looks at what there is to do after that, and so at what was put there before this
        self._awake = True
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
        if self.reader >= 0:
            os.close(self.reader)
            os.close(self.writer)
            self.reader = self.writer = -1
