"""One SQLite connection to the broker's file: transactions with patience, and the knowledge that something changed."""

from __future__ import annotations

import ctypes
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from stem_kombu.broker.embedded import location, schema
from stem_kombu.broker.embedded.faults import EmbeddedBrokerUnavailable, is_busy, translated
from stem_kombu.broker.embedded.options import Options
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import ConfigurationError

T = TypeVar("T")

#: Device and inode; ``None`` when there is no file.
Identity = tuple[int, int] | None

_WAL_LIMIT_BYTES = 16 * 1024 * 1024
_LOOK_AT_FILE_EVERY = 1.0


class Database:
    """An open file. Not thread-safe: whoever shares one brings a lock. Belongs to the process that opened it.

    Every fault surfaces as a :class:`BrokerError` that names the file.
    """

    def __init__(self, path: Path, options: Options) -> None:
        location.prepare(path)
        self.path = path
        self._patience = options.busy_timeout
        self._closed = self._ready = False
        #: Whether the path was found to lead to another file, or to none.
        self.replaced = False
        try:
            # Autocommit, and no waiting inside SQLite: its back-off grows to 100 ms, ours stays at a few.
            self._sql = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise translated(error, path) from error
        try:
            self.identity = self.identity_now()
            self._looked_at = SYSTEM.monotonic()
            self._configure(options)
            self._ready = True
        except sqlite3.Error as error:
            raise translated(error, path) from error
        finally:
            if not self._ready:
                self._sql.close()

    def _configure(self, options: Options) -> None:
        # Reads the header, so it can meet the lock of whoever makes the file.
        self._patiently(lambda: self._sql.execute(f"PRAGMA synchronous = {options.synchronous}"))
        if self._patiently(lambda: self._sql.execute("PRAGMA page_count").fetchone()) == (0,):
            # Only counts for a file without pages; on any other it would be a write, with an fsync under the lock.
            self._patiently(lambda: self._sql.execute("PRAGMA auto_vacuum = INCREMENTAL"))
        mode = self._patiently(lambda: self._sql.execute("PRAGMA journal_mode = WAL").fetchone())
        if mode is None or mode[0] != "wal":
            raise ConfigurationError(
                f"embedded broker {self.path}: its file system can't do write-ahead logging",
                hint="put the file on a local disk",
            )
        self._patiently(lambda: self._sql.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}"))
        if not self._patiently(lambda: schema.is_current(self._sql, self.path)):
            with self.write() as sql:
                schema.create(sql)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that may write; committed at the end of the block, rolled back by any exception.

        Begins as a writer, so that it can't fail half-way for want of the lock.
        """
        self._check_file()
        try:
            self._patiently(lambda: self._sql.execute("BEGIN IMMEDIATE"))
            yield self._sql
            self._sql.execute("COMMIT")
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            if self._sql.in_transaction:
                self._rollback()

    def read(self, statement: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """The rows of one query, from one snapshot."""
        return self.query(lambda sql: sql.execute(statement, parameters).fetchall())

    def query(self, ask: Callable[[sqlite3.Connection], T]) -> T:
        """What ``ask`` returns; it may be called again while the file is locked, and must not write."""
        try:
            return self._patiently(lambda: ask(self._sql))
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def data_version(self) -> int:
        """A number that changes when any other connection has committed; costs no page read."""
        try:
            return int(self._sql.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def give_back_space(self) -> None:
        """Return free pages to the file system, at most 8 MB a call, so that no writer waits long.

        Only where this class made the file: a file that a store made first uses its free pages again instead.
        """
        (free,) = self.query(lambda sql: sql.execute("PRAGMA freelist_count").fetchone())
        if free > 4096:
            # As a script, because Python steps a statement without columns only once, which would free one page only.
            self.query(lambda sql: sql.executescript("PRAGMA incremental_vacuum(2048)"))

    def _check_file(self) -> None:
        # Publishing into a file that somebody removed would succeed and be lost; asking costs a microsecond, once a
        # second.
        if SYSTEM.monotonic() - self._looked_at < _LOOK_AT_FILE_EVERY:
            return
        if self.identity_now() == self.identity:
            self._looked_at = SYSTEM.monotonic()
        else:
            self.replaced = True
            raise EmbeddedBrokerUnavailable(
                f"embedded broker {self.path}: the file was removed or replaced while it was open",
                hint="reconnect; stop all workers before removing the file",
            )

    def close(self) -> None:
        """Close the file; may be called twice."""
        if not self._closed:
            self._closed = True
            self._sql.close()

    def abandon(self) -> None:
        """Forget an inherited connection in a forked child without ever closing it.

        SQLite forbids even the closing of a connection on the other side of a fork (sqlite.org/howtocorrupt.html,
        2.6), and interpreters close what they collect: hence a reference that nobody gives back.
        """
        self._closed = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._sql))

    def _patiently(self, attempt: Callable[[], T]) -> T:
        give_up_at: float | None = None
        pause = 0.0003
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            now = SYSTEM.monotonic()
            if give_up_at is None:
                give_up_at = now + self._patience
            elif now >= give_up_at:
                raise EmbeddedBrokerUnavailable(
                    f"embedded broker {self.path}: locked by another process for more than {self._patience:g} s",
                    hint="find the process that keeps a transaction on it open, such as a backup or a SQLite shell",
                )
            SYSTEM.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 1.4, 0.004)

    def identity_now(self) -> Identity:
        """Which file the path leads to now."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _rollback(self) -> None:
        try:
            self._sql.execute("ROLLBACK")
        except sqlite3.Error:
            # The error that led here is the one worth reporting; a connection that can't roll back is of no more use.
            self.close()
