"""One PostgreSQL connection for the length of one operation: its statements, their settings and their time limits.

Connections are used in psycopg2's asynchronous mode and waited for here, against a deadline: in the blocking mode nothing
bounds the wait for a server that is stopped or unreachable while its host still acknowledges packets.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency.poller import POLLIN, POLLOUT, poller

if TYPE_CHECKING:
    from psycopg2.extensions import connection as PostgresConnection
    from psycopg2.extensions import cursor as Cursor

#: What a statement's placeholders stand for, by their places or names.
Parameters: TypeAlias = Sequence[object] | Mapping[str, object] | None

#: What precedes a statement that is a transaction of its own.
_READ = b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "
#: What an array's text has a backslash before.
_ESCAPED, _BEFORE = re.compile(r'["\\]'), r"\\\g<0>"


class TimedOut(Exception):
    """The server did not answer before the deadline; the connection is of no more use."""

    pgcode: str | None = None


class PostgresSession:
    """One connection for the length of one operation. Statements use psycopg2's ``%s`` and ``%(name)s``.

    Isolation level and time limits are named in each transaction and end with it. Nothing is set on the session: behind
    PgBouncer the server's connection belongs to other programs a moment later. Outside of a transaction that :meth:`begin`
    opened, each statement is one of its own, together with its settings: they travel as one query.
    """

    def __init__(self, connection: PostgresConnection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        limit = int(timeout * 1000)
        self._settings = f"SET LOCAL statement_timeout = {limit}; SET LOCAL lock_timeout = {limit}; ".encode()
        self._in_transaction = False

    def is_pooled(self) -> bool:
        """Whether a pooler, such as PgBouncer, stands before the server: at the login it told another process number than that
        of the process that answers."""
        return self.rows("SELECT pg_backend_pid()") != [(self._connection.info.backend_pid,)]

    def begin(self) -> None:
        """Open a transaction for the statements that follow."""
        self._executed(b"BEGIN ISOLATION LEVEL READ COMMITTED; " + self._settings, None).close()
        self._in_transaction = True

    def commit(self) -> None:
        """Return once everything since :meth:`begin` is durable."""
        self._executed(b"COMMIT", None).close()
        self._in_transaction = False

    def rows(self, statement: str | bytes, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """Every row that the statement returns; an empty list for one that returns none."""
        cursor = self._executed(statement, parameters)
        rows: list[tuple[object, ...]] = cursor.fetchall() if cursor.description else []
        cursor.close()
        return rows

    def execute(self, statement: str | bytes, parameters: Parameters = None) -> int:
        """How many rows the statement touched."""
        cursor = self._executed(statement, parameters)
        count: int = cursor.rowcount
        cursor.close()
        return count

    def values(self, template: str, rows: Sequence[Sequence[object]]) -> bytes:
        """The rows as the text of a VALUES list, quoted by the driver; ``template`` is like ``(%s, %s::jsonb)``."""
        with self._connection.cursor() as cursor:
            return b",".join(cursor.mogrify(template, row) for row in rows)

    def _executed(self, statement: str | bytes, parameters: Parameters) -> Cursor:
        cursor = self._connection.cursor()
        text = cursor.mogrify(statement, parameters)
        cursor.execute(text if self._in_transaction or text.startswith(b"BEGIN") else _READ + self._settings + text)
        wait_for(self._connection, SYSTEM.monotonic() + self._timeout + min(timeouts.POSTGRES_GRACE, self._timeout))
        return cursor


def array_text(values: Sequence[str | None]) -> str:
    """The values as the text of an array, for a parameter of ``%s::text[]`` or of another type's array.

    The driver quotes one long text in a tenth of the time that it takes for a list.
    """
    different = set(values)
    quoted = {value: "NULL" if value is None else f'"{value}"' for value in different}
    if _ESCAPED.search("".join(filter(None, different))):
        quoted = {value: text if value is None else _escaped(value) for value, text in quoted.items()}
    return f"{{{','.join([quoted[value] for value in values])}}}"


def _escaped(value: str) -> str:
    return f'"{_ESCAPED.sub(_BEFORE, value)}"'


def close_inherited(connection: PostgresConnection) -> None:
    """Close the parent's connection in a forked child.

    Closing alone would tell the server to end the parent's session. The descriptor is pointed at nothing first, so that
    neither this nor the interpreter's exit can write to the parent's socket.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, connection.fileno())
    os.close(nothing)
    connection.close()


def wait_for(connection: PostgresConnection, deadline: float) -> None:
    """Return when the connection has done what it was asked; raises :class:`TimedOut` at the deadline."""
    extensions = importlib.import_module("psycopg2.extensions")
    while (state := connection.poll()) != extensions.POLL_OK:
        remaining = deadline - SYSTEM.monotonic()
        if remaining <= 0:
            raise TimedOut("the deadline passed")
        _wait_for_socket(connection.fileno(), state == extensions.POLL_READ, remaining)


def _wait_for_socket(descriptor: int, reading: bool, seconds: float) -> None:
    waiting = poller()
    waiting.register(descriptor, POLLIN if reading else POLLOUT)
    waiting.poll(seconds * 1000)
