"""Locks on files that several processes of a host share: waited for with a limit, and of the file that has the name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import ConfigurationError, StoreUnavailable


class FileLocks:
    """``flock`` for the store that ``url`` names. Raises :class:`ConfigurationError` where a system has none."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fcntl = _posix_locks(url)

    @contextlib.contextmanager
    def held(self, file: int, path: Path, *, exclusive: bool) -> Iterator[bool]:
        """Hold the lock of an open file; yields whether the file still has the name by which it was opened.

        Raises :class:`StoreUnavailable` when another process holds it for too long.
        """
        self._acquire(file, self._fcntl.LOCK_EX if exclusive else self._fcntl.LOCK_SH, path)
        try:
            yield named(path, file)
        finally:
            # Said aloud and not left to close(): a child forked meanwhile shares this lock and would keep it.
            self._fcntl.flock(file, self._fcntl.LOCK_UN)

    def _acquire(self, file: int, mode: int, path: Path) -> None:
        deadline = SYSTEM.monotonic() + timeouts.STORE_FILE_LOCK
        pause = 0.0005
        while True:
            try:
                self._fcntl.flock(file, mode | self._fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if SYSTEM.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"revoke store {self.url}: locked by another process for more than {timeouts.STORE_FILE_LOCK:g} s",
                        hint=f"find the process that holds it: fuser {path}",
                    ) from None
            SYSTEM.sleep(pause * chance.uniform(0.5, 1.5))
            pause = min(pause * 2, 0.01)


def named(path: Path, file: int) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        found, held = path.stat(), os.fstat(file)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)


def _posix_locks(url: str) -> ModuleType:
    try:
        import fcntl
    except ImportError as error:
        raise ConfigurationError(
            f"{url!r}: revocations in a plain file need POSIX locks, which this system does not have",
            hint="write sqlite:///path instead",
        ) from error
    return fcntl
