"""Writing revocations into PostgreSQL's table, page by page; all under the lock of their namespace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TypeVar

from stem_kombu.drivers.postgres_session import PostgresSession, array_text
from stem_kombu.revocation import Revocation
from stem_kombu.stores.batch import proofs_text

#: Rows per statement that reads, writes or deletes: none may come near the time limit of a statement.
PAGE = 5000
_TYPES = {
    "task_id": "text", "version": "bigint", "issued_at": "timestamptz", "terminate": "boolean",
    "reason": "text", "requested_by": "text", "expires_at": "timestamptz", "proofs": "text",
}  # fmt: skip
_REPLACE = "DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _TYPES)
_Item = TypeVar("_Item")


def pages(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """The items, so many at a time as a statement may have."""
    return (items[start : start + PAGE] for start in range(0, len(items), PAGE))


def add(session: PostgresSession, records: Sequence[Revocation]) -> set[str]:
    """Add the records whose tasks have none, and return the tasks of the others: they stay as they are."""
    there: set[str] = set()
    for page in pages(records):
        added = session.execute(*_insert(page, "DO NOTHING"))
        if added < len(page):
            there |= {record.task_id for record in page} - (_tasks(session, page) if added else set())
    return there


def _tasks(session: PostgresSession, records: Sequence[Revocation]) -> set[str]:
    """The tasks whose records these are in the table now: nothing else has their versions."""
    statement = "SELECT task_id FROM stem_revocations WHERE namespace = %s AND version = ANY(%s::bigint[])"
    versions = array_text([str(record.version) for record in records])
    return {task_id for (task_id,) in session.rows(statement, (records[0].namespace, versions))}


def replace(session: PostgresSession, records: Sequence[Revocation]) -> None:
    """Put the records in the place of what is there."""
    for page in pages(records):
        session.execute(*_insert(page, _REPLACE))


def _insert(records: Sequence[Revocation], conflict: str) -> tuple[str, list[object]]:
    """A statement, and its parameters. By columns, which the server takes apart in half the time of rows; a column that has one
    value in all of these records is that value, which neither side spells out for each."""
    shared, arrays = {}, {"task_id": array_text([record.task_id for record in records])}
    versions = [record.version for record in records]
    if versions[-1] - versions[0] == len(versions) - 1:  # they rise
        shared["version"] = f"{versions[0] - 1} + given.place"
    else:
        arrays["version"] = array_text(list(map(str, versions)))
    times = {None: None} | {moment: moment.isoformat() for moment in _moments(records)}
    columns: dict[str, list[str | None]] = {
        "issued_at": [times[record.issued_at] for record in records],
        "terminate": ["true" if record.terminate else "false" for record in records],
        "reason": [record.reason for record in records],
        "requested_by": [record.requested_by for record in records],
        "expires_at": [times[record.expires_at] for record in records],
        "proofs": list(map(proofs_text, records)),
    }
    values: list[object] = [records[0].namespace]
    for name, column in columns.items():
        if column.count(column[0]) == len(column):
            shared[name] = f"%s::{_TYPES[name]}"
            values.append(column[0])
        else:
            arrays[name] = array_text(column)
    chosen = ", ".join(shared.get(name, f"given.{name}") for name in _TYPES)
    statement = f"""INSERT INTO stem_revocations (namespace, {", ".join(_TYPES)})
        SELECT %s, {chosen} FROM unnest({", ".join(f"%s::{_TYPES[name]}[]" for name in arrays)})
        WITH ORDINALITY AS given ({", ".join(arrays)}, place) ON CONFLICT (namespace, task_id) {conflict}"""
    return statement, [*values, *arrays.values()]


def _moments(records: Sequence[Revocation]) -> set[datetime]:
    found = {record.issued_at for record in records} | {record.expires_at for record in records}
    return {moment for moment in found if moment is not None}
