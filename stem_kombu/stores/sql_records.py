"""Reading control records from a database, which is alike in SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from stem_kombu.stores.batch import BEFORE_ALL
from stem_kombu.stores.quarantine import Quarantine
from stem_kombu.stores.records import ControlRecord

COLUMNS = "place, key, version, stored_us, expires_us, body"
_PAGE = 1000


class SqlRecords:
    """The records of one database; what can't be read is set aside (G37).

    ``rows`` runs a statement with its values in their order, each written as ``mark``.
    """

    def __init__(
        self, rows: Callable[[str, tuple[object, ...]], list[tuple[object, ...]]], mark: str, quarantine: Quarantine
    ) -> None:
        self._rows = rows
        self._mark = mark
        self._quarantine = quarantine
        self._read = f"SELECT {COLUMNS} FROM stem_control_records WHERE namespace = {mark}"

    def since(self, namespace: str, version: int, places: Collection[str] | None) -> Iterator[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.records_since`."""
        mark, wanted = self._mark, ""
        if places is not None:
            if not places:
                return
            wanted = f"AND place IN ({', '.join([mark] * len(places))})"
        statement = f"{self._read} {wanted} AND version > {mark} ORDER BY version LIMIT {_PAGE}"
        version = BEFORE_ALL if version <= 0 else version
        while True:
            rows, start = self._rows(statement, (namespace, *(places or ()), version)), version
            for row in rows:
                version = row[2] if type(row[2]) is int else version  # a column of SQLite's takes any type
                if (record := self._readable(namespace, row)) is not None:
                    yield record
            if len(rows) < _PAGE or version == start:
                return

    def newest(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.newest_records`."""
        statement = f"{self._read} AND place = {self._mark} ORDER BY version DESC LIMIT {self._mark}"
        found = [self._readable(namespace, row) for row in self._rows(statement, (namespace, place, limit))]
        return [record for record in found if record is not None]

    def one(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        """See :meth:`stem_kombu.stores.base.RevokeStore.record`."""
        rows = self._rows(f"{self._read} AND place = {self._mark} AND key = {self._mark}", (namespace, place, key))
        return self._readable(namespace, rows[0]) if rows else None

    def floor(self, namespace: str) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.floor`."""
        rows = self._rows(f"SELECT version FROM stem_control_floors WHERE namespace = {self._mark}", (namespace,))
        return rows[0][0] if rows and type(rows[0][0]) is int else 0

    def _readable(self, namespace: str, row: tuple[object, ...]) -> ControlRecord | None:
        try:
            return ControlRecord.of(row)
        except (TypeError, ValueError, OverflowError) as error:
            place = f"table stem_control_records, {row[0]!r} {row[1]!r}"
            self._quarantine.add(namespace, place, f"{error}: {str(row)[:120]}")
            return None
