"""One SQLite connection to the broker's file: transactions with patience, and the knowledge that something changed."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.drivers import forking
from stem_kombu.errors import ConfigurationError
from stem_kombu.transports.sqlite import location, schema
from stem_kombu.transports.sqlite.errors import EmbeddedBrokerUnavailable, is_busy, translated
from stem_kombu.transports.sqlite.options import Options

T = TypeVar("T")
P = ParamSpec("P")

#: Device and inode; ``None`` when there is no file.
Identity = tuple[int, int] | None

_WAL_LIMIT_BYTES = 16 * 1024 * 1024


class Database:
    """An open file. Not thread-safe: whoever shares one brings a lock. Belongs to the process that opened it.

    Its own lock is for forks alone: they wait until nobody is inside SQLite (:mod:`stem_kombu.drivers.forking`).

    Every fault surfaces as a :class:`BrokerError` that names the file.
    """

    def __init__(self, path: Path, options: Options) -> None:
        location.prepare(path)
        self.path = path
        self._options = options
        self._patience = options.busy_timeout
        self._closed = False
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._openings = 0
        #: Whether the path was found to lead to another file, or to none.
        self.replaced = False
        #: The file that it is, once it was opened.
        self.identity: Identity = None
        self._looked_at = float("-inf")
        forking.watch(self)
        try:
            self._sql  # noqa: B018 - opens it
        except sqlite3.Error as error:
            raise translated(error, path) from error

    @property
    def _sql(self) -> sqlite3.Connection:
        """The connection, opened again after a fork. Used under the lock."""
        return self._connection or self._open()

    def _open(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise EmbeddedBrokerUnavailable(f"embedded broker {self.path}: the connection is closed")
            if self._openings:
                self._check_file(at_once=True)  # to go on in another file would lose what is in this one
            # Autocommit, and no waiting inside SQLite: its back-off grows to 100 ms, ours stays at a few.
            self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            configured = False
            try:
                if not self._openings:
                    self.identity = self.identity_now()
                    self._looked_at = SYSTEM.monotonic()
                self._openings += 1
                self._configure(self._connection)
                configured = True
                return self._connection
            finally:
                if not configured:
                    self._let_go()

    def _configure(self, sql: sqlite3.Connection) -> None:
        # Reads the header, so it can meet the lock of whoever makes the file.
        self._patiently(sql.execute, f"PRAGMA synchronous = {self._options.synchronous}")
        if self._patiently(_first_row, sql, "PRAGMA page_count") == (0,):
            # Only counts for a file without pages; on any other it would be a write, with an fsync under the lock.
            self._patiently(sql.execute, "PRAGMA auto_vacuum = INCREMENTAL")
        mode = self._patiently(_first_row, sql, "PRAGMA journal_mode = WAL")
        if mode is None or mode[0] != "wal":
            raise ConfigurationError(
                f"embedded broker {self.path}: its file system can't do write-ahead logging",
                hint="put the file on a local disk",
            )
        self._patiently(sql.execute, f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        if not self._patiently(schema.is_current, sql, self.path):
            with self.write():
                schema.create(sql)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that may write; committed at the end of the block, rolled back by any exception.

        Begins as a writer, so that it can't fail half-way for want of the lock.
        """
        self._check_file()
        try:
            self._patiently(self._begin)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        sql = self._sql
        try:
            yield sql
            sql.execute("COMMIT")
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            try:
                if sql.in_transaction:
                    self._rollback(sql)
            finally:
                self._lock.release()

    def _begin(self) -> None:
        # Under the lock until the transaction is over, but not while it waits for another process's.
        self._lock.acquire()
        try:
            self._sql.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._lock.release()
            raise

    def read(self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one query, from one snapshot."""
        return self.query(_rows, statement, parameters)

    def query(self, ask: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **keywords: P.kwargs) -> T:
        """What ``ask`` returns, called with a connection; it may be called again while the file is locked, and must not write."""
        try:
            return self._patiently(lambda: ask(self._sql, *args, **keywords))
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def data_version(self) -> int:
        """A number that changes when any other connection has committed; costs no page read."""
        try:
            with self._lock:
                version = int(self._sql.execute("PRAGMA data_version").fetchone()[0])
                # Each connection counts for itself: of one that was opened after a fork nothing can be compared.
                return version + (self._openings << 32)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def give_back_space(self) -> None:
        """Return free pages to the file system, at most 8 MB a call, so that no writer waits long.

        Only where this class made the file: a file that a store made first uses its free pages again instead.
        """
        (free,) = self.read("PRAGMA freelist_count")[0]
        if free > 4096:
            # As a script, because Python steps a statement without columns only once, which would free one page only.
            self.query(sqlite3.Connection.executescript, "PRAGMA incremental_vacuum(2048)")

    def _check_file(self, *, at_once: bool = False) -> None:
        # Publishing into a file that somebody removed would succeed and be lost; asking costs a microsecond, once a
        # second.
        if not at_once and SYSTEM.monotonic() - self._looked_at < timeouts.EMBEDDED_FILE_LOOK:
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
        """Close the file for good; may be called twice."""
        with self._lock:
            self._closed = True
            self._let_go()

    def pause(self) -> None:
        """Before a fork: see :mod:`stem_kombu.drivers.forking`."""
        self._lock.acquire()
        self._let_go()

    def resume(self) -> None:
        """After it, in the parent and in the child."""
        self._lock.release()

    def abandon(self) -> None:
        """Forget the file in a forked child: it is the parent's.

        Where something forked past Python's hooks the connection is still open, and SQLite forbids even to close it
        on this side; interpreters close what they collect: hence a reference that nobody gives back.
        """
        self._closed = True
        if self._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._connection = None

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _patiently(self, attempt: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        give_up_at: float | None = None
        pause = 0.0003
        while True:
            try:
                with self._lock:
                    return attempt(*args, **keywords)
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
            SYSTEM.sleep(pause * chance.uniform(0.5, 1.5))
            pause = min(pause * 1.4, 0.004)

    def identity_now(self) -> Identity:
        """Which file the path leads to now."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _rollback(self, sql: sqlite3.Connection) -> None:
        try:
            sql.execute("ROLLBACK")
        except sqlite3.Error:
            # The error that led here is the one worth reporting; a connection that can't roll back is of no more use.
            self.close()


def _rows(
    sql: sqlite3.Connection, statement: str, parameters: Sequence[object] | Mapping[str, object]
) -> list[tuple[object, ...]]:
    return sql.execute(statement, parameters).fetchall()


def _first_row(sql: sqlite3.Connection, statement: str) -> tuple[object, ...] | None:
    found: tuple[object, ...] | None = sql.execute(statement).fetchone()
    return found
