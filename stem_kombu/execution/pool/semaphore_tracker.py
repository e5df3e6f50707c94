"""Keeps billiard from running its tracker of semaphores for children that have none.

billiard starts that process, 8 MB of an interpreter, with the first child of whatever kind, so that named semaphores are
unlinked even after SIGKILL. Children of a pool speak over pipes and share none. A handler, or the program around the
worker, that makes a semaphore through billiard gets its tracker at that moment, which is what billiard does anyway for
a process without one.

This reaches for attributes that billiard does not document (``_semaphore_tracker._fd``). Where they are called otherwise
one day, the tracker runs as it did.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: Children are begun one at a time: one that ends would close the stand-in under the other.
_beginning = threading.Lock()


@contextmanager
def no_tracker_begun() -> Iterator[None]:
    """Have billiard start processes in here: a tracker that runs is handed to them, but none is started.

    A semaphore that another thread makes meanwhile through billiard is not tracked: nobody unlinks it after SIGKILL.
    """
    tracker = _tracker()
    with _beginning:
        if tracker is None or tracker._fd is not None:
            yield
            return
        stand_in = tracker._fd = os.open(os.devnull, os.O_WRONLY)
        try:
            yield
        finally:
            if tracker._fd == stand_in:
                tracker._fd = None
            os.close(stand_in)


def running_tracker() -> list[int]:
    """The descriptor of the tracker that runs for this process, if one does."""
    tracker = _tracker() if "billiard.semaphore_tracker" in sys.modules else None
    with _beginning:  # else it may be the stand-in of a child that another pool begins
        return [tracker._fd] if tracker is not None and isinstance(tracker._fd, int) else []


def share_tracker(descriptor: int) -> None:
    """In a new child: its semaphores are tracked by the worker's tracker."""
    if (tracker := _tracker()) is not None:
        tracker._fd = descriptor


def leave_billiards_care() -> None:
    """In a new child that billiard has started: let it do what any program may.

    The tracker that it was given may be the stand-in, so that the first semaphore is to start one. A daemonic process may
    have no children; that flag is for the worker's exit, and for what a task may do it means nothing.
    """
    import billiard

    with suppress(AttributeError, AssertionError):
        billiard.current_process().daemon = False
    tracker = _tracker()
    if tracker is None or not isinstance(tracker._fd, int):
        return
    given = os.fstat(tracker._fd)
    if stat.S_ISCHR(given.st_mode) and given.st_rdev == os.stat(os.devnull).st_rdev:
        os.close(tracker._fd)
        tracker._fd = None


def _tracker() -> Any:
    from billiard import semaphore_tracker

    found = getattr(semaphore_tracker, "_semaphore_tracker", None)
    return found if hasattr(found, "_fd") else None
