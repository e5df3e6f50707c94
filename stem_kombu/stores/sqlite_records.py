"""Control records in a SQLite file, beside the revocations: the statements that the store runs in its own transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from stem_kombu.clock import epoch_us
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.stores.quarantine import Quarantine
from stem_kombu.stores.records import ControlRecord
from stem_kombu.stores.sql_records import COLUMNS, SqlRecords

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
_HERE = "FROM stem_control_records WHERE namespace = ?"


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
        f"INSERT OR REPLACE INTO stem_control_records (namespace, {COLUMNS}) VALUES (?,?,?,?,?,?,?)",
        [(namespace, *record.row()) for record in records],
    )


class SqliteRecords(SqlRecords):
    """The records of one file."""

    def __init__(self, database: SqliteDatabase, quarantine: Quarantine) -> None:
        super().__init__(database.rows, "?", quarantine)
        self._database = database

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
