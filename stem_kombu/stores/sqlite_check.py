"""Looking for spoiled pages in a SQLite file, once for each file that is opened: SQLite reads fewer rows from them, and says
nothing.

A large file takes seconds. Before a worker consumes, only that is looked for which would hide a record from it: pages that are
no tree, and an index of versions that names other rows than the table has. All else is looked at while it works.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from stem_kombu import timeouts
from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.errors import StoreCorrupt, StoreError

logger = logging.getLogger(__name__)

TABLE = "stem_revocations"
#: Bytes of a file whose check takes a tenth of a second.
LARGE = 16 * 1024 * 1024
#: What the rows of a namespace are, in numbers: how many, which, and which version belongs to which.
_SUMS = "count(*), sum(rowid), sum(version % 1000003), sum(rowid % 1000003 * (version % 1000003))"
#: The same by the table and by its index, at one moment.
_BOTH = f"""SELECT * FROM (SELECT {_SUMS} FROM {TABLE} NOT INDEXED WHERE namespace = ?1),
    (SELECT {_SUMS} FROM {TABLE} INDEXED BY {TABLE}_version WHERE namespace = ?1)"""  # noqa: S608 - names of this module


class FileCheck:
    """Of the file of one store, which is opened once more for what is looked at meanwhile."""

    def __init__(self, database: SqliteDatabase, path: Path, schema: Schema) -> None:
        self._database = database
        self._beside = SqliteDatabase(path, schema=schema, purpose="revoke store")
        self._checked: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def takes_long(self) -> bool:
        """Whether the file, which is open, is to be checked, and is a large one."""
        return self._checked != self._database.identity and self._database.path.stat().st_size > LARGE

    def agrees(self, namespace: str) -> bool:
        """Whether by its index all records of the namespace are found that the table has. By a connection of its own, so that
        others read meanwhile."""
        try:
            found = self._beside.problems(TABLE, quick=True) or not _is_twice_the_same(self._beside, namespace)
        except StoreError:
            return False  # a table without row ids, of stem-kombu 0.1.0, or what the whole check will tell
        return not found

    def go_on(self) -> None:
        """Look for what else may be wrong, in a thread."""
        if not self._is_closed and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._go_on, name="stem-store-check", daemon=True)
            self._thread.start()

    def whole(self) -> bool:
        """Look at all of it. Whether an index was made anew; raises :class:`StoreCorrupt` when the records are spoiled."""
        return self._whole(self._database)

    def close(self) -> None:
        """Look no further."""
        self._is_closed = True
        self._beside.interrupt()
        if self._thread is not None:
            self._thread.join(timeouts.SQLITE_CHECK_END)
        self._beside.close()

    def _go_on(self) -> None:
        try:
            self._whole(self._beside)
        except StoreError as error:
            if not self._is_closed:
                logger.error("%s: %s", self._database.url, error)
        finally:
            self._beside.close()

    def _whole(self, database: SqliteDatabase) -> bool:
        if self._checked is not None and self._checked == database.identity:
            return False
        if problems := database.problems(TABLE):
            logger.warning("%s: %s; rebuilding its indexes", database.url, "; ".join(problems)[:300])
            try:
                database.write(_reindex)
            except StoreCorrupt:
                logger.info("%s: its indexes can't be rebuilt", database.url)
            if still := database.problems(TABLE):
                raise StoreCorrupt(
                    f"revoke store {database.url}: pages of table stem_revocations are spoiled: {still[0]}",
                    hint="restore the file from a backup; stem store export saves what can still be read",
                )
        self._checked = database.identity
        return bool(problems)


def _is_twice_the_same(database: SqliteDatabase, namespace: str) -> bool:
    ((*kept, count, rows, versions, pairs),) = database.rows(_BOTH, (namespace,))
    return kept == [count, rows, versions, pairs]


def _reindex(connection: sqlite3.Connection) -> None:
    connection.execute(f"REINDEX {TABLE}").fetchall()
