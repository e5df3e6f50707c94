"""Revocations in SQLite by pages of columns, found in one step: the interpreter is free for other threads while SQLite looks."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from stem_kombu.fields import items, json_value
from stem_kombu.revocation_page import RevocationPage, page_of

COLUMNS = "task_id, version, issued_us, terminate, reason, requested_by, expires_us, proofs"
#: Rows of a page: the connection is free for other threads between two pages.
PAGE = 4000
_HERE = f"FROM stem_revocations WHERE namespace = ? AND version > ? ORDER BY version LIMIT {PAGE}"
_ROWS = f"SELECT {COLUMNS} {_HERE}"
_LISTED = ", ".join(f"json_group_array({name})" for name in COLUMNS.split(", "))
#: One row, whose columns are JSON lists: a step for each row would wait for the interpreter each time.
_LISTS = f"SELECT count(*), max(version), {_LISTED} FROM (SELECT {COLUMNS} {_HERE})"  # noqa: S608 - names of this module

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What stands behind a version: as JSON lists, or row by row where it can't be read so."""

    after: int
    count: int
    last: int
    lists: Sequence[str] = ()
    rows: Sequence[Row] = ()


def lists_after(connection: sqlite3.Connection, namespace: str, version: int) -> Found | None:
    """The page behind the version as JSON; ``None`` where SQLite has no JSON, or a record holds what JSON can't."""
    try:
        count, last, *lists = connection.execute(_LISTS, (namespace, version)).fetchone()
    except sqlite3.OperationalError as error:
        if any(words in str(error) for words in ("JSON", "json_", "UTF-8")):
            return None
        raise
    if count and type(last) is not int:
        return None
    return Found(version, count, last if count else version, lists)


def rows_after(connection: sqlite3.Connection, namespace: str, version: int) -> Found:
    """The page behind the version, row by row."""
    rows = connection.execute(_ROWS, (namespace, version)).fetchall()
    last = next((number for _, number, *_ in reversed(rows) if type(number) is int), version)
    return Found(version, len(rows), last, rows=rows)


def following(found: Found) -> int | None:
    """The version behind which the next page stands."""
    return None if found.count < PAGE or found.last == found.after else found.last


def columns_of(found: Found) -> Sequence[Sequence[object]] | None:
    """The lists, parsed; ``None`` where one of them is not JSON, as of an infinite number."""
    try:
        return [items(json_value(text), "a column", most=PAGE) for text in found.lists]
    except ValueError:
        return None


def page_of_columns(namespace: str, columns: Sequence[Sequence[object]]) -> RevocationPage | None:
    """The page of these columns; ``None`` where a record has proofs, or can't be read."""
    task_ids, versions, issued_us, flags, reasons, requesters, ends, proofs = columns
    if set(map(type, flags)) != {int} or not set(flags) <= {0, 1} or any(proof is not None for proof in proofs):
        return None
    return page_of(namespace, (task_ids, versions, issued_us, list(map(bool, flags)), reasons, requesters, ends))
