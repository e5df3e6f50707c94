"""What tasks note in files, for workers of every library: it loads nothing of Stem, whose memory would count as theirs."""

from __future__ import annotations

import os
import time


def note(path: str, what: str) -> None:
    """Write one line that no other process can tear."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {os.getpid()} {time.monotonic()}\n".encode())
    os.close(descriptor)
