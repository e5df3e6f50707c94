"""Messages of failed tasks in a SQLite file, beside the task states."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from stem_kombu.backends.failed import MOST, MOST_BYTES, FailedMessage, FailedMessages
from stem_kombu.clock import SYSTEM, Clock, epoch_us, from_epoch_us
from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.sqlite import SqliteDatabase

SCHEMA = Schema.of(
    (
        """CREATE TABLE IF NOT EXISTS stem_failed_messages (
            namespace TEXT NOT NULL, task_id TEXT NOT NULL, expires_us INTEGER NOT NULL, size INTEGER NOT NULL,
            message TEXT NOT NULL, PRIMARY KEY (namespace, task_id))""",
        """CREATE INDEX IF NOT EXISTS stem_failed_messages_expiry
            ON stem_failed_messages (namespace, expires_us, size)""",
    )
)
_KEEP = """INSERT OR REPLACE INTO stem_failed_messages (namespace, task_id, expires_us, size, message)
    VALUES (?, ?, ?, ?, ?)"""
_SIZES = "SELECT rowid, size FROM stem_failed_messages WHERE namespace = ? ORDER BY expires_us DESC, rowid DESC"
_TOTAL = "SELECT count(*), coalesce(sum(size), 0) FROM stem_failed_messages WHERE namespace = ?"
_FOUND = "SELECT task_id, message, expires_us, rowid FROM stem_failed_messages WHERE namespace = ? AND expires_us > ?"
_PAGE = f"{_FOUND} AND (expires_us, rowid) < (?, ?) ORDER BY expires_us DESC, rowid DESC LIMIT 100"


class SqliteFailedMessages(FailedMessages):
    """In one file, for the processes of one host. Times are by the host's clock."""

    def __init__(self, path: Path, *, create_folder: bool = False, clock: Clock = SYSTEM) -> None:
        self._database = SqliteDatabase(path, schema=SCHEMA, purpose="result backend", create_folder=create_folder)
        self._clock = clock

    def keep(self, namespace: str, messages: Sequence[FailedMessage], life: float) -> None:
        def operation(connection: sqlite3.Connection) -> None:
            now_us = self._now_us()
            expires_us = now_us + int(life * 1_000_000)
            rows = [(namespace, one.task_id, expires_us, one.size, one.text) for one in messages]
            connection.executemany(_KEEP, rows)
            connection.execute("DELETE FROM stem_failed_messages WHERE expires_us <= ?", (now_us,))
            count, size = connection.execute(_TOTAL, (namespace,)).fetchone()
            if count > MOST or size > MOST_BYTES:
                beyond = too_many(connection.execute(_SIZES, (namespace,)))
                connection.executemany("DELETE FROM stem_failed_messages WHERE rowid = ?", beyond)

        self._database.write(operation)

    def get(self, namespace: str, task_id: str) -> FailedMessage | None:
        values = (namespace, self._now_us(), task_id)
        rows = self._database.rows(f"{_FOUND} AND task_id = ?", values)
        return _message(rows[0]) if rows else None

    def scan(self, namespace: str) -> Iterator[FailedMessage]:
        at = (2**63 - 1, 2**63 - 1)
        now_us = self._now_us()

        def page(connection: sqlite3.Connection) -> list[tuple[str, str, int, int]]:
            return connection.execute(_PAGE, (namespace, now_us, *at)).fetchall()

        while rows := self._database.read(page):
            yield from map(_message, rows)
            at = rows[-1][2:]

    def close(self) -> None:
        self._database.close()

    def _now_us(self) -> int:
        return epoch_us(self._clock.utcnow())


def too_many(rows: Iterator[tuple[int, int]]) -> list[tuple[int]]:
    """The first columns of those rows, the newest first with their sizes, that are beyond the bounds."""
    beyond, size = [], 0
    for number, (row, bytes_) in enumerate(rows, 1):
        size += bytes_
        if number > MOST or size > MOST_BYTES:
            beyond.append((row,))
    return beyond


def _message(row: tuple[str, str, int, int]) -> FailedMessage:
    return FailedMessage(row[0], row[1], from_epoch_us(row[2]))
