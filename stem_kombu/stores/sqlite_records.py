"""Control records in a SQLite file, beside the revocations: the statements that the store runs in its own transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import TypeVar

from stem_kombu.clock import epoch_us
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.stores.batch import BEFORE_ALL
from stem_kombu.stores.quarantine import Quarantine
from stem_kombu.stores.records import ControlRecord

T = TypeVar("T")

TABLES = (
    """CREATE TABLE IF NOT EXISTS stem_control_records (
        namespace TEXT NOT NULL, place TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL,
        stored_us INTEGER NOT NULL, expires_us INTEGER, body TEXT NOT NULL,
        PRIMARY KEY (namespace, place, key)) WITHOUT ROWID""",
    """CREATE UNIQUE INDEX IF NOT EXISTS stem_control_records_version
        ON stem_control_records (namespace, place, version)""",
    """CREATE INDEX IF NOT EXISTS stem_control_records_expiry ON stem_control_records (namespace, expires_us)
        WHERE expires_us IS NOT NULL""",
    """CREATE TABLE IF NOT EXISTS stem_control_floors (
        namespace TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID""",
)
_COLUMNS = "place, key, version, stored_us, expires_us, body"
_HERE = "FROM stem_control_records WHERE namespace = ?"
_PAGE = 1000


def versions(
    connection: sqlite3.Connection, namespace: str, names: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """The versions of those of the records that there are."""
    statement = f"SELECT version {_HERE} AND place = ? AND key = ?"
    found = ((name, connection.execute(statement, (namespace, *name)).fetchone()) for name in names)
    return {name: row[0] for name, row in found if row is not None}


def write(
    connection: sqlite3.Connection,
    namespace: str,
    records: Sequence[ControlRecord],
    forgotten: Sequence[tuple[str, str]],
) -> None:
    """Put the records in the place of what is there, and delete the others."""
    gone = [(namespace, *name) for name in forgotten]
    connection.executemany("DELETE FROM stem_control_records WHERE namespace = ? AND place = ? AND key = ?", gone)
    connection.executemany(
        f"INSERT OR REPLACE INTO stem_control_records (namespace, {_COLUMNS}) VALUES (?,?,?,?,?,?,?)",
        [(namespace, *record.row()) for record in records],
    )


class SqliteRecords:
    """The readers of one database; what can't be read is set aside (G37)."""

    def __init__(self, database: SqliteDatabase, quarantine: Quarantine) -> None:
        self._database = database
        self._quarantine = quarantine

    def since(self, namespace: str, version: int, places: Collection[str] | None) -> Iterator[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.records_since`."""
        wanted = "" if places is None else f"AND place IN ({','.join('?' * len(places))})"
        statement = f"SELECT {_COLUMNS} {_HERE} {wanted} AND version > ? ORDER BY version LIMIT {_PAGE}"
        version = BEFORE_ALL if version <= 0 else version
        while True:
            rows, start = self._rows(statement, (namespace, *(places or ()), version)), version
            for row in rows:
                version = row[2] if type(row[2]) is int else version
                if (record := self._readable(namespace, row)) is not None:
                    yield record
            if len(rows) < _PAGE or version == start:
                return

    def newest(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.newest_records`."""
        statement = f"SELECT {_COLUMNS} {_HERE} AND place = ? ORDER BY version DESC LIMIT ?"
        found = (self._readable(namespace, row) for row in self._rows(statement, (namespace, place, limit)))
        return [record for record in found if record is not None]

    def one(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        """See :meth:`stem_kombu.stores.base.RevokeStore.record`."""
        rows = self._rows(f"SELECT {_COLUMNS} {_HERE} AND place = ? AND key = ?", (namespace, place, key))
        return self._readable(namespace, rows[0]) if rows else None

    def floor(self, namespace: str) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.floor`."""
        rows = self._rows("SELECT version FROM stem_control_floors WHERE namespace = ?", (namespace,))
        return rows[0][0] if rows and type(rows[0][0]) is int else 0

    def prune(self, namespace: str, before: datetime) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.prune_records`."""
        expired = (namespace, epoch_us(before))

        def operation(connection: sqlite3.Connection) -> int:
            highest = f"SELECT max(version) {_HERE} AND expires_us <= ?"
            connection.execute(
                f"""INSERT INTO stem_control_floors SELECT ?, found FROM (SELECT ({highest}) AS found)
                    WHERE found IS NOT NULL ON CONFLICT (namespace) DO UPDATE SET version = max(version, excluded.version)""",
                (namespace, *expired),
            )
            return connection.execute(f"DELETE {_HERE} AND expires_us <= ?", expired).rowcount

        if not self._rows(f"SELECT 1 {_HERE} AND expires_us <= ? LIMIT 1", expired):
            return 0
        return self._database.write(operation)

    def _rows(self, statement: str, given: tuple[object, ...]) -> list[tuple[object, ...]]:
        return self._database.rows(statement, given)

    def _readable(self, namespace: str, row: tuple[object, ...]) -> ControlRecord | None:
        try:
            return ControlRecord.of(row)
        except (TypeError, ValueError, OverflowError) as error:
            place = f"table stem_control_records, {row[0]!r} {row[1]!r}"
            self._quarantine.add(namespace, place, f"{error}: {str(row)[:120]}")
            return None
