"""One SQLite file, used by any number of threads and processes.

WAL with ``synchronous=FULL``: a COMMIT that returned survives a power cut, and readers never wait for a writer. Waiting
for a lock is done here with short jittered pauses, because SQLite's own busy handler backs off to 100 ms steps and
starves a writer among many.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.drivers import forking
from stem_kombu.drivers.diagnosis import Diagnosis, by_words, store_error
from stem_kombu.drivers.schema import Schema
from stem_kombu.errors import StoreCorrupt, StoreError, StoreUnavailable

T = TypeVar("T")


class SqliteDatabase:
    """A lazily opened connection to one file, shared by the threads of this process under a lock.

    ``read`` and ``write`` run an operation that gets the :class:`sqlite3.Connection`. It must fetch what it needs and
    return plain values: no cursor may outlive it, since the connection is closed before a fork and may be replaced
    between two calls. It may be run again when the file is locked, so it may have no effects but those on the database.

    Raises :class:`StoreUnavailable` when the file can't be opened, is read-only, full, or stays locked for ``timeout``
    seconds, and :class:`StoreCorrupt` when it is no database. Without ``durable`` a power cut may undo the last commits.
    """

    def __init__(
        self,
        path: Path,
        *,
        schema: Schema,
        purpose: str = "store",
        timeout: float = timeouts.SQLITE_LOCK,
        create_folder: bool = False,
        durable: bool = True,
    ) -> None:
        self.path = path
        self.url = f"sqlite://{path}"
        self._schema = schema
        self._purpose = purpose
        self._timeout = timeout
        self._create_folder = create_folder
        self._synchronous = "FULL" if durable else "NORMAL"
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        forking.watch(self)

    def read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """What the operation returns; each of its statements is its own transaction."""
        return self._patiently(operation)

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Every row of one statement, which is a transaction of its own."""

        def operation(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
            return connection.execute(statement, parameters).fetchall()

        return self._patiently(operation)

    def write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """What the operation returns, once everything it did was committed to disk; nothing of it when it raises.

        The write lock is taken first (BEGIN IMMEDIATE), so what the operation reads can't change under it.
        """

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            outcome = operation(connection)
            connection.execute("COMMIT")
            return outcome

        return self._patiently(transaction)

    def execute(self, statement: str, parameters: Sequence[object]) -> int:
        """How many rows the statement has changed, committed as :meth:`write` does."""

        def operation(connection: sqlite3.Connection) -> int:
            return connection.execute(statement, parameters).rowcount

        return self.write(operation)

    @property
    def identity(self) -> tuple[int, int] | None:
        """The file that is open: its device and its number there, which change when another file takes its place."""
        return self._file

    def problems(self, table: str, *, quick: bool = False) -> list[str]:
        """What is wrong with a table and its indexes, in SQLite's words; empty when nothing is. Reads all of them; ``quick``
        takes a tenth of the time, and does not look for each row in the indexes."""
        asked = f"('{table}')" if sqlite3.sqlite_version_info >= (3, 33) else ""
        try:
            found = self.rows(f"PRAGMA {'quick' if quick else 'integrity'}_check{asked}")
        except StoreCorrupt as error:
            return [error.message]
        return [str(line) for (line,) in found if line != "ok"]

    def interrupt(self) -> None:
        """From any thread: have the statement that runs fail, if one does."""
        if (connection := self._connection) is not None:
            with suppress(sqlite3.Error):  # it was closed meanwhile
                connection.interrupt()

    def close(self) -> None:
        """Close the file. May be called twice; the next call opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def pause(self) -> None:
        """Before a fork: see :mod:`stem_kombu.drivers.forking`."""
        self._lock.acquire()
        self.close()

    def resume(self) -> None:
        """After it, in the parent and in the child."""
        self._lock.release()

    def _patiently(self, step: Callable[[sqlite3.Connection], T]) -> T:
        deadline = SYSTEM.monotonic() + self._timeout
        pause, rebuilt = timeouts.SQLITE_FIRST_PAUSE, False
        while True:
            with self._lock:  # let go of between attempts: a thread that waits for another process blocks no other
                try:
                    return step(self._opened())
                except sqlite3.Error as error:
                    self._roll_back()
                    if "no such table" in str(error) and not rebuilt:
                        rebuilt = True  # the file's content was replaced; a new connection makes the schema again
                        self.close()
                    elif not is_locked(error) or SYSTEM.monotonic() > deadline:
                        raise self._translated(error) from error
                except BaseException:
                    self._roll_back()
                    raise
            SYSTEM.sleep(pause * chance.uniform(0.5, 1.5))
            pause = min(pause * 2, timeouts.SQLITE_LONGEST_PAUSE)

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._file == _identity(self.path):
                return self._connection
            self.close()  # the file was deleted or replaced: to go on would write into a file that no other process sees
        connection = self._connect()
        self._connection, self._file = connection, _identity(self.path)
        return connection

    def _connect(self) -> sqlite3.Connection:
        folder = self.path.parent
        if not folder.is_dir():
            if not self._create_folder:
                raise StoreUnavailable(
                    f"{self._purpose} {self.url}: there is no folder {folder}", hint=f"create it: mkdir -p {folder}"
                )
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(
                    f"{self._purpose} {self.url}: can't create the folder {folder}: {error.strerror}",
                    hint="name another place with STEM_BROKER_URL, STEM_RESULT_BACKEND_URL or STEM_REVOKE_STORE_URL",
                ) from error
        connection = sqlite3.connect(str(self.path), timeout=0, isolation_level=None, check_same_thread=False)
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise StoreUnavailable(
                    f"{self._purpose} {self.url}: the file can't use write-ahead logging (it stays in {mode!r} mode)",
                    hint="put it on a local disk, not on a network file system",
                )
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            self._create_missing(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_missing(self, connection: sqlite3.Connection) -> None:
        marks = ",".join("?" * len(self._schema.names))
        count = f"SELECT count(*) FROM sqlite_master WHERE name IN ({marks})"
        complete = connection.execute(count, self._schema.names).fetchone()[0] == len(self._schema.names)
        if complete and all(_has_column(connection, table, column) for table, column, _ in self._schema.columns):
            return
        connection.execute("BEGIN IMMEDIATE")
        for statement in self._schema.statements:
            connection.execute(statement)
        for table, column, type_ in self._schema.columns:
            if not _has_column(connection, table, column):  # another process may have been quicker
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {type_}")
        connection.execute("COMMIT")

    def _translated(self, error: sqlite3.Error) -> StoreError:
        text, where = str(error), f"{self._purpose} {self.url}"
        if any(words in text for words in _CORRUPT):
            return StoreCorrupt(f"{where}: {text}", hint="restore the file from a backup, or name another one")
        if is_locked(error):
            text = f"locked by another process for more than {self._timeout:g} s"
        temporary = Diagnosis("", None) if isinstance(error, sqlite3.OperationalError) else None
        return store_error(where, text, by_words(_MEANING, text) or temporary)


_CORRUPT = ("not a database", "malformed")
_MEANING = (
    ("locked", Diagnosis("", "try again; find the process that holds the lock")),
    ("readonly", Diagnosis("", "make the file and its folder writable for this user")),
    ("read-only", Diagnosis("", "make the file and its folder writable for this user")),
    ("unable to open", Diagnosis("", "check that the path is a file this user may read and write")),
    ("full", Diagnosis("", "make room on its disk")),
)


def _has_column(connection: sqlite3.Connection, table: str, column: str) -> bool:
    found = connection.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone()
    return found is not None


def is_locked(error: sqlite3.Error) -> bool:
    # The error code is public since Python 3.11 only; these texts are SQLite's own and have not changed since 2007.
    return isinstance(error, sqlite3.OperationalError) and ("locked" in str(error) or "locking protocol" in str(error))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
