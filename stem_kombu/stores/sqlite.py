"""Revocations in a SQLite file, which may hold Stem's other tables as well."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path

from stem_kombu import chance
from stem_kombu.clock import SYSTEM, Clock, epoch_us
from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_page import live
from stem_kombu.stores import sqlite_records
from stem_kombu.stores.base import Glance, RecordKeepingStore
from stem_kombu.stores.batch import BEFORE_ALL, CEILING, proofs_text, sane_version
from stem_kombu.stores.read_ahead import pages_from
from stem_kombu.stores.records import Change, Changed, changed, checked, named, tasks_of
from stem_kombu.stores.sql_rows import is_readable, readable
from stem_kombu.stores.sqlite_check import TABLE, FileCheck
from stem_kombu.stores.sqlite_pages import (
    COLUMNS,
    PAGE,
    Found,
    columns_of,
    following,
    lists_after,
    page_of_columns,
    rows_after,
)

logger = logging.getLogger(__name__)

SCHEMA = Schema.of(
    (
        # With row ids, so that rows lie in the order of their versions: they are read in it, and by their random ids each would
        # be a page of the file for itself. Files of stem-kombu 0.1.0 have them so, and are read and written as they are.
        """CREATE TABLE IF NOT EXISTS stem_revocations (
            namespace TEXT NOT NULL, task_id TEXT NOT NULL, version INTEGER NOT NULL, issued_us INTEGER NOT NULL,
            terminate INTEGER NOT NULL, reason TEXT, requested_by TEXT, expires_us INTEGER,
            PRIMARY KEY (namespace, task_id))""",
        "CREATE UNIQUE INDEX IF NOT EXISTS stem_revocations_version ON stem_revocations (namespace, version)",
        """CREATE INDEX IF NOT EXISTS stem_revocations_expiry ON stem_revocations (namespace, expires_us)
            WHERE expires_us IS NOT NULL""",
        """CREATE TABLE IF NOT EXISTS stem_revocation_versions (
            namespace TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID""",
        *sqlite_records.TABLES,
    ),
    columns=[("stem_revocations", "proofs", "TEXT")],
)
_CHANGES = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS.split(", "))
_UPSERT = f"""INSERT INTO stem_revocations (namespace, {COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)
    ON CONFLICT (namespace, task_id) DO UPDATE SET {_CHANGES}"""
#: Ids per look-up; SQLite before 3.32 takes at most 999 parameters.
_LOOKUP = 900


class SqliteRevokeStore(RecordKeepingStore):
    """Revocations in one file, for the processes of one host. Times are by the host's clock.

    Memory: one page of rows. Durable: COMMIT with ``synchronous=FULL``. ``create_folder`` makes missing folders, for
    the embedded default; a folder that the user named must exist.
    """

    def __init__(self, path: Path, *, clock: Clock = SYSTEM, create_folder: bool = False) -> None:
        self._database = SqliteDatabase(path, schema=SCHEMA, purpose="revoke store", create_folder=create_folder)
        self._check = FileCheck(self._database, path, SCHEMA)
        self._clock = clock
        self.url = self._database.url
        self._kept = sqlite_records.SqliteRecords(self._database, self.quarantine)

    def change(self, namespace: str, change: Change) -> Changed:
        change = checked(change)

        def operation(connection: sqlite3.Connection) -> Changed:
            held = self._held(connection, namespace, tasks_of(change))
            versions = sqlite_records.versions(connection, namespace, named(change))
            highest = _revision(connection, namespace)
            done = changed(change, held, versions, namespace=namespace, highest=highest, now=self._clock.utcnow())
            revocations = (*done.revocations, *done.ended)
            connection.executemany(_UPSERT, [(namespace, *_row(record)) for record in revocations])
            sqlite_records.write(connection, namespace, done.records, change.forgotten)
            if done.version:
                connection.execute(
                    "INSERT OR REPLACE INTO stem_revocation_versions VALUES (?, ?)", (namespace, done.version)
                )
            return done

        return Changed() if change.is_empty else self._database.write(operation)

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        return chain.from_iterable(self._checked_pages(namespace, version))

    def load(self, namespace: str) -> Iterator[Revocation]:
        return chain.from_iterable(self._checked_pages(namespace, None))

    def pages(self, namespace: str, version: int | None = None) -> Iterator[Sequence[Revocation]]:
        """See :meth:`RevokeStore.pages`. What is read of a large file is checked meanwhile, and where its indexes had to be
        mended, it comes once more."""
        if (version is not None and version > 0) or not self._takes_long_to_check():
            yield from self._checked_pages(namespace, version)
            return
        with ThreadPoolExecutor(1, "stem-store-compare") as comparer:
            comparing = comparer.submit(self._check.agrees, namespace)
            yield from self._pages(namespace, version)
            agrees = comparing.result()
        if agrees:
            self._check.go_on()
        elif self._check.whole():
            yield from self._pages(namespace, version)

    def _checked_pages(self, namespace: str, version: int | None) -> Iterator[Sequence[Revocation]]:
        if version is None or version <= 0:
            self._check.whole()
        yield from self._pages(namespace, version)

    def _pages(self, namespace: str, version: int | None) -> Iterator[Sequence[Revocation]]:
        now, after = self._clock.utcnow(), version
        if after is None or after <= 0:
            self.quarantine.forget([namespace])
            after = BEFORE_ALL
        for found in pages_from(after, partial(self._found, namespace), following):
            page = self._page(namespace, found)
            if page := page if version is not None else live(page, now):
                yield page

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        held = self._database.read(partial(self._held, namespace=namespace, task_ids=[task_id])).get(task_id)
        return None if held is None or held.is_expired(self._clock.utcnow()) else held

    def glance(self, namespace: str, task_ids: Sequence[str]) -> Glance:
        def operation(connection: sqlite3.Connection) -> Glance:
            held = self._held(connection, namespace, task_ids)
            return Glance(str(self._database.identity), _revision(connection, namespace), held)

        return self._database.read(operation)

    def revision(self, namespace: str) -> int:
        return self._database.read(partial(_revision, namespace=namespace))

    def prune(self, namespace: str) -> int:
        return self.prune_after(namespace, 0.0)

    def prune_after(self, namespace: str, grace: float) -> int:
        last_us = epoch_us(self._clock.utcnow()) - int(grace * 1_000_000)
        condition = "FROM stem_revocations WHERE namespace = ? AND expires_us <= ?"
        found = f"SELECT 1 {condition} LIMIT 1"
        # One statement finds and deletes, under the write lock: what replaced an expired record is not touched (G5).
        delete = f"DELETE {condition} AND task_id IN (SELECT task_id {condition} LIMIT {PAGE})"
        expired = (namespace, last_us)
        pruned = 0
        while self._database.rows(found, expired):
            pruned += self._database.execute(delete, expired * 2)
        return pruned

    def problems(self, namespace: str) -> list[str]:
        return self._database.problems(TABLE)

    def repair(self, namespace: str) -> list[str]:
        """See :meth:`RevokeStore.repair`. What can't be read goes to the table ``stem_revocations_set_aside``."""
        done = []
        if self.problems(namespace):
            self._check.whole()
            done.append("the indexes of stem_revocations were rebuilt")
        rows = [row for row in self._every_row(namespace) if not is_readable(namespace, row)]

        def operation(connection: sqlite3.Connection) -> None:
            connection.execute(f"CREATE TABLE IF NOT EXISTS stem_revocations_set_aside (namespace, {COLUMNS})")
            for row in rows:
                connection.execute(
                    f"INSERT INTO stem_revocations_set_aside VALUES (?{',?' * len(row)})", (namespace, *row)
                )
                connection.execute(
                    "DELETE FROM stem_revocations WHERE namespace = ? AND task_id = ?", (namespace, row[0])
                )

        if rows:
            self._database.write(operation)
            done.append(f"{len(rows)} records that can't be read were moved to stem_revocations_set_aside")
        return done

    def _every_row(self, namespace: str) -> list[tuple[object, ...]]:
        statement = f"SELECT {COLUMNS} FROM stem_revocations WHERE namespace = ?"
        return self._database.rows(statement, (namespace,))

    def now(self) -> datetime:
        return self._clock.utcnow()

    def check(self, namespace: str) -> list[str]:
        marker = f"stem-health-{chance.token_hex(8)}"

        def written(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO stem_revocation_versions (namespace, version) VALUES (?, 0)", (marker,))
            connection.execute("DELETE FROM stem_revocation_versions WHERE namespace = ?", (marker,))

        self._database.write(written)
        return []

    def ping(self) -> None:
        self._database.read(partial(_revision, namespace=""))

    def close(self) -> None:
        self._check.close()
        self._database.close()

    def _found(self, namespace: str, version: int) -> Found:
        found = self._database.read(partial(lists_after, namespace=namespace, version=version))
        return found or self._database.read(partial(rows_after, namespace=namespace, version=version))

    def _page(self, namespace: str, found: Found) -> Sequence[Revocation]:
        rows = found.rows
        if found.lists and found.count:
            columns = columns_of(found)
            if columns is not None and (page := page_of_columns(namespace, columns)) is not None:
                return page
            if columns is not None:
                rows = list(zip(*columns, strict=True))
            else:
                rows = self._database.read(partial(rows_after, namespace=namespace, version=found.after)).rows
        records = (readable(namespace, row, self.quarantine) for row in rows)
        return [record for record in records if record is not None]

    def _takes_long_to_check(self) -> bool:
        self.ping()  # which opens the file
        return self._check.takes_long()

    def _held(self, connection: sqlite3.Connection, namespace: str, task_ids: Sequence[str]) -> dict[str, Revocation]:
        held: dict[str, Revocation] = {}
        for start in range(0, len(task_ids), _LOOKUP):
            part = task_ids[start : start + _LOOKUP]
            marks = ",".join("?" * len(part))
            statement = f"SELECT {COLUMNS} FROM stem_revocations WHERE namespace = ? AND task_id IN ({marks})"
            for row in connection.execute(statement, (namespace, *part)):
                if (record := readable(namespace, row, self.quarantine)) is not None:
                    held[row[0]] = record
        return held


def _revision(connection: sqlite3.Connection, namespace: str) -> int:
    """The highest version that was given: by the counter, and by the records should the counter be damaged or gone."""
    counter = "SELECT version FROM stem_revocation_versions WHERE namespace = ?"
    highest = f"SELECT max(version) FROM stem_revocations WHERE namespace = ? AND version < {CEILING}"
    return sane_version(*connection.execute(f"SELECT ({counter}), ({highest})", (namespace, namespace)).fetchone())


def _row(record: Revocation) -> tuple[object, ...]:
    return (
        record.task_id,
        record.version,
        epoch_us(record.issued_at),
        int(record.terminate),
        record.reason,
        record.requested_by,
        None if record.expires_at is None else epoch_us(record.expires_at),
        proofs_text(record),
    )
