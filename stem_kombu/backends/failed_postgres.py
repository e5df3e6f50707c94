"""Messages of failed tasks in a PostgreSQL database, beside the task states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

from stem_kombu.backends.failed import MOST, MOST_BYTES, FailedMessage, FailedMessages
from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.postgres_session import PostgresSession
from stem_kombu.drivers.schema import Schema
from stem_kombu.settings import TlsSettings

SCHEMA = Schema.of(
    (
        """CREATE TABLE IF NOT EXISTS stem_failed_messages (
            namespace text NOT NULL, task_id text NOT NULL, expires_at timestamptz NOT NULL, size integer NOT NULL,
            message text NOT NULL, PRIMARY KEY (namespace, task_id))""",
        """CREATE INDEX IF NOT EXISTS stem_failed_messages_expiry
            ON stem_failed_messages (namespace, expires_at, size)""",
    )
)
_ROW = "(%s, %s, statement_timestamp() + make_interval(secs => %s), %s, %s)"
_KEEP = b"INSERT INTO stem_failed_messages (namespace, task_id, expires_at, size, message) VALUES "
_AGAIN = b""" ON CONFLICT (namespace, task_id) DO UPDATE
    SET expires_at = excluded.expires_at, size = excluded.size, message = excluded.message"""
_EXPIRED = "DELETE FROM stem_failed_messages WHERE expires_at <= statement_timestamp()"
_TOTAL = "SELECT count(*), coalesce(sum(size), 0) FROM stem_failed_messages WHERE namespace = %s"
_BEYOND = """DELETE FROM stem_failed_messages WHERE (namespace, task_id) IN (SELECT namespace, task_id FROM (
    SELECT namespace, task_id, row_number() OVER newest AS number, sum(size) OVER newest AS total
    FROM stem_failed_messages WHERE namespace = %s
    WINDOW newest AS (ORDER BY expires_at DESC, task_id DESC)) AS counted WHERE number > %s OR total > %s)"""
_FOUND = """SELECT task_id, message, expires_at FROM stem_failed_messages
    WHERE namespace = %s AND expires_at > statement_timestamp()"""
_PAGE = f"{_FOUND} AND (expires_at, task_id) < (%s::timestamptz, %s) ORDER BY expires_at DESC, task_id DESC LIMIT 100"


class PostgresFailedMessages(FailedMessages):
    """In a database, for any number of hosts. Times are by the database's clock."""

    def __init__(self, url: str, *, name: str = "URL", tls: TlsSettings | None = None) -> None:
        self._database = PostgresDatabase(url, schema=SCHEMA, name=name, tls=tls, purpose="result backend")

    def keep(self, namespace: str, messages: Sequence[FailedMessage], life: float) -> None:
        # In the order of their ids, so that two writers can't wait for each other; each id once.
        distinct = {message.task_id: message for message in messages}
        rows = [(namespace, task_id, life, one.size, one.text) for task_id, one in sorted(distinct.items())]

        def operation(session: PostgresSession) -> None:
            if rows:
                session.execute(_KEEP + session.values(_ROW, rows) + _AGAIN)

        self._database.write(operation)
        self._database.execute(_EXPIRED)
        count, size = self._database.rows(_TOTAL, (namespace,))[0]
        if count > MOST or size > MOST_BYTES:
            self._database.execute(_BEYOND, (namespace, MOST, MOST_BYTES))

    def get(self, namespace: str, task_id: str) -> FailedMessage | None:
        values = (namespace, task_id)
        rows = self._database.rows(f"{_FOUND} AND task_id = %s", values)
        return _message(rows[0]) if rows else None

    def scan(self, namespace: str) -> Iterator[FailedMessage]:
        at: tuple[object, str] = ("infinity", "")
        while rows := self._database.read(partial(_read_page, (namespace, *at))):
            yield from map(_message, rows)
            at = rows[-1][2], rows[-1][0]

    def close(self) -> None:
        self._database.close()


def _read_page(values: tuple[object, ...], session: PostgresSession) -> list[tuple[Any, ...]]:
    return session.rows(_PAGE, values)


def _message(row: tuple[Any, ...]) -> FailedMessage:
    expires_at: datetime = row[2].astimezone(timezone.utc)
    return FailedMessage(row[0], row[1], expires_at)
