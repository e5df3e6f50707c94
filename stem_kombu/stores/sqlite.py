"""Revocations in a SQLite file, which may hold Stem's other tables as well."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from stem_kombu.clock import SYSTEM, Clock, epoch_us, from_epoch_us
from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.errors import StoreCorrupt
from stem_kombu.revocation import Revocation, RevocationDraft, checked_revocation
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.batch import folded, merged, proofs_of, proofs_text

SCHEMA = Schema.of(
    (
        """CREATE TABLE IF NOT EXISTS stem_revocations (
            namespace TEXT NOT NULL, task_id TEXT NOT NULL, version INTEGER NOT NULL, issued_us INTEGER NOT NULL,
            terminate INTEGER NOT NULL, reason TEXT, requested_by TEXT, expires_us INTEGER,
            PRIMARY KEY (namespace, task_id)) WITHOUT ROWID""",
        "CREATE UNIQUE INDEX IF NOT EXISTS stem_revocations_version ON stem_revocations (namespace, version)",
        """CREATE INDEX IF NOT EXISTS stem_revocations_expiry ON stem_revocations (namespace, expires_us)
            WHERE expires_us IS NOT NULL""",
        """CREATE TABLE IF NOT EXISTS stem_revocation_versions (
            namespace TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID""",
    ),
    columns=[("stem_revocations", "proofs", "TEXT")],
)
_COLUMNS = "task_id, version, issued_us, terminate, reason, requested_by, expires_us, proofs"
_CHANGES = ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS.split(", "))
_UPSERT = f"""INSERT INTO stem_revocations (namespace, {_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)
    ON CONFLICT (namespace, task_id) DO UPDATE SET {_CHANGES}"""
#: Rows per read or delete: the connection is free for other threads between two pages.
_PAGE = 2000
#: Ids per look-up; SQLite before 3.32 takes at most 999 parameters.
_LOOKUP = 900


class SqliteRevokeStore(RevokeStore):
    """Revocations in one file, for the processes of one host. Times are by the host's clock.

    Memory: one page of rows. Durable: COMMIT with ``synchronous=FULL``. ``create_folder`` makes missing folders, for
    the embedded default; a folder that the user named must exist.
    """

    def __init__(self, path: Path, *, clock: Clock = SYSTEM, create_folder: bool = False) -> None:
        self._database = SqliteDatabase(path, schema=SCHEMA, purpose="revoke store", create_folder=create_folder)
        self._clock = clock
        self.url = self._database.url

    def save(self, namespace: str, drafts: Sequence[RevocationDraft]) -> list[Revocation]:
        distinct = folded(drafts)
        if not distinct:
            return []

        def operation(connection: sqlite3.Connection) -> list[Revocation]:
            held = self._held(connection, namespace, [draft.task_id for draft in distinct])
            highest = _revision(connection, namespace)
            records = merged(distinct, held, namespace=namespace, highest=highest, now=self._clock.utcnow())
            connection.executemany(_UPSERT, [(namespace, *_row(record)) for record in records])
            connection.execute(
                "INSERT OR REPLACE INTO stem_revocation_versions VALUES (?, ?)", (namespace, records[-1].version)
            )
            return records

        return self._database.write(operation)

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        while True:
            rows = self._page(namespace, version)
            for row in rows:
                record = self._record(namespace, row)
                version = record.version
                yield record
            if len(rows) < _PAGE:
                return

    def load(self, namespace: str) -> Iterator[Revocation]:
        now = self._clock.utcnow()
        return (record for record in self.since(namespace, 0) if not record.is_expired(now))

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        held = self._database.read(lambda connection: self._held(connection, namespace, [task_id])).get(task_id)
        return None if held is None or held.is_expired(self._clock.utcnow()) else held

    def revision(self, namespace: str) -> int:
        return self._database.read(lambda connection: _revision(connection, namespace))

    def prune(self, namespace: str) -> int:
        now_us = epoch_us(self._clock.utcnow())
        condition = "FROM stem_revocations WHERE namespace = ? AND expires_us <= ?"
        found = f"SELECT 1 {condition} LIMIT 1"
        # One statement finds and deletes, under the write lock: what replaced an expired record is not touched (G5).
        delete = f"DELETE {condition} AND task_id IN (SELECT task_id {condition} LIMIT {_PAGE})"
        expired = (namespace, now_us)
        pruned = 0
        while self._database.read(lambda connection: connection.execute(found, expired).fetchone()) is not None:
            pruned += self._database.write(lambda connection: connection.execute(delete, expired * 2).rowcount)
        return pruned

    def now(self) -> datetime:
        return self._clock.utcnow()

    def ping(self) -> None:
        self._database.read(lambda connection: _revision(connection, ""))

    def close(self) -> None:
        self._database.close()

    def _page(self, namespace: str, version: int) -> list[tuple[Any, ...]]:
        statement = f"SELECT {_COLUMNS} FROM stem_revocations WHERE namespace = ? AND version > ? ORDER BY version"
        return self._database.read(
            lambda connection: connection.execute(f"{statement} LIMIT {_PAGE}", (namespace, version)).fetchall()
        )

    def _held(self, connection: sqlite3.Connection, namespace: str, task_ids: list[str]) -> dict[str, Revocation]:
        held: dict[str, Revocation] = {}
        for start in range(0, len(task_ids), _LOOKUP):
            part = task_ids[start : start + _LOOKUP]
            marks = ",".join("?" * len(part))
            statement = f"SELECT {_COLUMNS} FROM stem_revocations WHERE namespace = ? AND task_id IN ({marks})"
            for row in connection.execute(statement, (namespace, *part)):
                held[row[0]] = self._record(namespace, row)
        return held

    def _record(self, namespace: str, row: tuple[Any, ...]) -> Revocation:
        task_id, version, issued_us, terminate, reason, requested_by, expires_us, proofs = row
        try:
            proven_by = proofs_of(proofs)
            issued_at = from_epoch_us(issued_us)
            expires_at = None if expires_us is None else from_epoch_us(expires_us)
            return checked_revocation(
                Revocation(
                    namespace,
                    task_id,
                    version,
                    issued_at,
                    {0: False, 1: True}.get(terminate, terminate),
                    reason,
                    requested_by,
                    expires_at,
                    proven_by,
                )
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise StoreCorrupt(
                f"revoke store {self.url}: table stem_revocations, task {task_id!r}: {error}",
                hint="restore the file from a backup",
            ) from error


def _revision(connection: sqlite3.Connection, namespace: str) -> int:
    statement = "SELECT version FROM stem_revocation_versions WHERE namespace = ?"
    row = connection.execute(statement, (namespace,)).fetchone()
    return 0 if row is None else int(row[0])


def _row(record: Revocation) -> tuple[Any, ...]:
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
