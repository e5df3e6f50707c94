"""Control records in PostgreSQL, beside the revocations: the statements that the store runs in its own transactions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from stem_kombu.clock import epoch_us
from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.postgres_session import PostgresSession
from stem_kombu.stores.batch import BEFORE_ALL
from stem_kombu.stores.quarantine import Quarantine
from stem_kombu.stores.records import ControlRecord

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
_COLUMNS = "place, key, version, stored_us, expires_us, body"
_HERE = "FROM stem_control_records WHERE namespace = %s"
_PAGE = 1000


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
        changes = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[2:])
        session.execute(
            f"INSERT INTO stem_control_records (namespace, {_COLUMNS}) VALUES ".encode()
            + session.values("(%s,%s,%s,%s,%s,%s,%s)", [(namespace, *record.row()) for record in records])
            + f" ON CONFLICT (namespace, place, key) DO UPDATE SET {changes}".encode()
        )


class PostgresRecords:
    """The readers of one database; what can't be read is set aside (G37). ``lock`` is the statement that takes the namespace's
    counter, as writers do."""

    def __init__(self, database: PostgresDatabase, quarantine: Quarantine, lock: str) -> None:
        self._database = database
        self._quarantine = quarantine
        self._lock = lock

    def since(self, namespace: str, version: int, places: Collection[str] | None) -> Iterator[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.records_since`."""
        wanted = "" if places is None else "AND place = ANY(%s)"
        statement = f"SELECT {_COLUMNS} {_HERE} {wanted} AND version > %s ORDER BY version LIMIT {_PAGE}"
        version = BEFORE_ALL if version <= 0 else version
        chosen = [] if places is None else [list(places)]
        while True:
            rows = self._rows(statement, (namespace, *chosen, version))
            for row in rows:
                version = row[2]
                if (record := self._readable(namespace, row)) is not None:
                    yield record
            if len(rows) < _PAGE:
                return

    def newest(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.newest_records`."""
        statement = f"SELECT {_COLUMNS} {_HERE} AND place = %s ORDER BY version DESC LIMIT %s"
        found = (self._readable(namespace, row) for row in self._rows(statement, (namespace, place, limit)))
        return [record for record in found if record is not None]

    def one(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        """See :meth:`stem_kombu.stores.base.RevokeStore.record`."""
        rows = self._rows(f"SELECT {_COLUMNS} {_HERE} AND place = %s AND key = %s", (namespace, place, key))
        return self._readable(namespace, rows[0]) if rows else None

    def floor(self, namespace: str) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.floor`."""
        rows = self._rows("SELECT version FROM stem_control_floors WHERE namespace = %s", (namespace,))
        return int(rows[0][0]) if rows else 0

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

    def _rows(self, statement: str, given: tuple[object, ...]) -> list[tuple[Any, ...]]:
        return self._database.rows(statement, given)

    def _readable(self, namespace: str, row: tuple[object, ...]) -> ControlRecord | None:
        try:
            return ControlRecord.of(row)
        except (TypeError, ValueError, OverflowError) as error:
            place = f"table stem_control_records, {row[0]!r} {row[1]!r}"
            self._quarantine.add(namespace, place, f"{error}: {str(row)[:120]}")
            return None
