"""Control records in PostgreSQL, beside the revocations: the statements that the store runs in its own transactions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from stem_kombu.clock import epoch_us
from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.postgres_session import PostgresSession
from stem_kombu.stores.quarantine import Quarantine
from stem_kombu.stores.records import ControlRecord
from stem_kombu.stores.sql_records import COLUMNS, SqlRecords

TABLES = (
    """CREATE TABLE IF NOT EXISTS stem_control_records (
        namespace text NOT NULL, place text NOT NULL, key text NOT NULL, version bigint NOT NULL,
        stored_us bigint NOT NULL, expires_us bigint, body text NOT NULL, PRIMARY KEY (namespace, place, key))""",
    """CREATE UNIQUE INDEX IF NOT EXISTS stem_control_records_version
        ON stem_control_records (namespace, place, version)""",
    """CREATE INDEX IF NOT EXISTS stem_control_records_expiry ON stem_control_records (namespace, expires_us)
        WHERE expires_us IS NOT NULL""",
    """CREATE TABLE IF NOT EXISTS stem_control_floors (
        namespace text NOT NULL PRIMARY KEY, version bigint NOT NULL)""",
)
_HERE = "FROM stem_control_records WHERE namespace = %s"


def versions(session: PostgresSession, namespace: str, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The versions of those of the records that there are."""
    if not names:
        return {}
    pairs = session.values("(%s,%s)", names)
    statement = b"SELECT place, key, version FROM stem_control_records WHERE (place, key) IN (VALUES " + pairs + b")"
    rows = session.rows(statement + session.values(" AND namespace = %s", [(namespace,)]))
    return {(place, key): version for place, key, version in rows}


def write(
    session: PostgresSession, namespace: str, records: Sequence[ControlRecord], forgotten: Sequence[tuple[str, str]]
) -> None:
    """Put the records in the place of what is there, and delete the others."""
    if forgotten:
        pairs = session.values("(%s,%s)", forgotten)
        session.execute(
            b"DELETE FROM stem_control_records WHERE (place, key) IN (VALUES "
            + pairs
            + b")"
            + session.values(" AND namespace = %s", [(namespace,)])
        )
    if records:
        changes = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", ")[2:])
        session.execute(
            f"INSERT INTO stem_control_records (namespace, {COLUMNS}) VALUES ".encode()
            + session.values("(%s,%s,%s,%s,%s,%s,%s)", [(namespace, *record.row()) for record in records])
            + f" ON CONFLICT (namespace, place, key) DO UPDATE SET {changes}".encode()
        )


class PostgresRecords(SqlRecords):
    """The records of one database. ``lock`` is the statement that takes the namespace's counter, as writers do."""

    def __init__(self, database: PostgresDatabase, quarantine: Quarantine, lock: str) -> None:
        super().__init__(database.rows, "%s", quarantine)
        self._database = database
        self._lock = lock

    def prune(self, namespace: str, before: datetime) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.prune_records`."""
        expired = (namespace, epoch_us(before))

        def operation(session: PostgresSession) -> int:
            session.rows(self._lock, (namespace,))  # in the same order as writers do
            gone = session.rows(f"DELETE {_HERE} AND expires_us <= %s RETURNING version", expired)
            if gone:
                session.execute(
                    """INSERT INTO stem_control_floors AS held (namespace, version) VALUES (%s, %s)
                        ON CONFLICT (namespace) DO UPDATE SET version = greatest(held.version, excluded.version)""",
                    (namespace, max(version for (version,) in gone)),
                )
            return len(gone)

        if not self._rows(f"SELECT 1 {_HERE} AND expires_us <= %s LIMIT 1", expired):
            return 0
        return self._database.write(operation)
