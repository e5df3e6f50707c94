"""The signals that a terminal, or a service manager, sends to a worker's whole group: they are the worker's to obey.

A new process is born with them held back, so that there is no moment in which one ends it, and ignores them from its first
line of ours on.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: Ctrl-C, and what systemd sends to each process of a service.
_TO_THE_GROUP = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """Start processes in here: they inherit the mask of this thread. What comes meanwhile another thread takes, or this one
    afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_from_now_on() -> None:
    """In the main thread of a process that was started so; what was held back is forgotten."""
    for number in _TO_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_THE_GROUP)
