"""SQLite around a fork: while this process forks, no thread is inside SQLite, and no file is open in it.

SQLite keeps a table of its open files per process. A child that inherits it takes itself for the holder of locks which the
kernel never gave it, even through a connection of its own, and can corrupt the file (sqlite.org/howtocorrupt.html,
2.6). It also inherits SQLite's mutexes as they are: one that another thread held at that moment is never let go of, and
the child's first call waits for it for ever. So a fork waits for the calls that run, in every thread, and closes every
connection; parent and child open their own at the next call.

Locks of our own are inherited as they are, too: what may be used on in a child takes new ones there.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class OpenFile(Protocol):
    """Something that has a SQLite connection, and a lock under which alone it uses that."""

    def pause(self) -> None:
        """Take the lock, once no thread is inside, and close the connection; the next call opens another."""

    def resume(self) -> None:
        """Let go of the lock, in the parent or in the child."""


class Inherited(Protocol):
    """Something that a child may go on to use."""

    def renew(self) -> None:
        """In a child: take new locks, as a thread that does not exist here may have held the old ones."""


_files: weakref.WeakSet[OpenFile] = weakref.WeakSet()
_paused: list[OpenFile] = []
_heirlooms: weakref.WeakSet[Inherited] = weakref.WeakSet()
# Held by the thread that forks; a thread that opens a file for the first time takes it while holding the lock of no other file.
_forking = threading.RLock()


def watch(file: OpenFile) -> None:
    """Pause the file during every fork from now on, while something refers to it. Call it before the file is opened."""
    with _forking:
        _files.add(file)


def renew_in_children(thing: Inherited) -> None:
    """Call its ``renew()`` in every child that is forked from now on, while something refers to it."""
    with _forking:
        _heirlooms.add(thing)


def _pause_all() -> None:
    _forking.acquire()
    for file in list(_files):
        file.pause()
        _paused.append(file)


def _resume_all() -> None:
    while _paused:
        _paused.pop().resume()
    _forking.release()


def _renew_all() -> None:
    for thing in list(_heirlooms):
        thing.renew()
    _resume_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause_all, after_in_parent=_resume_all, after_in_child=_renew_all)
