"""One PostgreSQL database, reached through a few connections that are opened when needed and kept.

psycopg2 is imported when a database is made, never before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.drivers import forking
from stem_kombu.drivers.bulk import time_limit
from stem_kombu.drivers.diagnosis import Diagnosis, store_error
from stem_kombu.drivers.handshake import Endpoint, explained
from stem_kombu.drivers.packages import driver_package
from stem_kombu.drivers.postgres_meanings import meaning_of
from stem_kombu.drivers.postgres_session import Parameters, PostgresSession, TimedOut, close_inherited, wait_for
from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.tls import postgres_options, tls_for
from stem_kombu.errors import ConfigurationError, StoreCorrupt, StoreError
from stem_kombu.redaction import mask_url
from stem_kombu.settings import TlsSettings
from stem_kombu.urls import checked_server_url, checked_url

if TYPE_CHECKING:
    from psycopg2.extensions import connection as PostgresConnection

T = TypeVar("T")

#: Connections kept open per process; more are opened when more threads ask at once, and closed afterwards.
KEPT = 4
#: Key of the advisory lock under which missing tables are created; any number that others are unlikely to use.
_SCHEMA_LOCK = 0x5354454D4B4F4D42
_UNDEFINED_TABLE = "42P01"
_TLS_MODES = frozenset({"require", "verify-ca", "verify-full"})
#: Text that the database's encoding has no character for, or bytes that are not of its encoding.
_UNSTORABLE_TEXT = ("22P05", "22021")
_CONFLICTS = ("40001", "40P01")  # serialization failure, deadlock: the transaction may simply be repeated
_CONFLICT_ATTEMPTS = 8

# Both read a catalogue: only a session that opens one receives what others have committed since its transaction began.
_NAMES_THERE = """SELECT count(*) FROM unnest(%s::text[]) AS wanted(name) JOIN pg_class
    ON pg_class.oid = to_regclass(quote_ident(name))"""
_COLUMNS_THERE = """SELECT count(*) FROM unnest(%s::text[], %s::text[]) AS wanted(held_by, name)
    JOIN pg_attribute ON attrelid = to_regclass(quote_ident(held_by)) AND attname = wanted.name AND NOT attisdropped"""


class PostgresDatabase:
    """Connections to one database, shared by the threads of this process.

    ``read`` and ``write`` run an operation with a :class:`PostgresSession`. A lost connection is opened again and the
    operation repeated once; a transaction is repeated as well after a deadlock. An operation that must not happen twice
    when the answer to its COMMIT was lost is given ``repeat=False``. A forked child opens its own connections. ``name``
    is the flag or variable that the URL came from; ``patience`` shortens both timeouts for a caller that has a deadline, in
    seconds. Raises :class:`ConfigurationError` for a URL that can't be read and
    :class:`StoreUnavailable` when the server can't be reached, refuses, or does not answer in time.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: Schema,
        name: str = "URL",
        tls: TlsSettings | None = None,
        purpose: str = "store",
        connect_timeout: float = timeouts.POSTGRES_CONNECT,
        timeout: float = timeouts.POSTGRES_STATEMENT,
        patience: float | None = None,
    ) -> None:
        self.url = mask_url(url)
        self._address = url
        self._driver = driver_package("psycopg2", ("extensions",), "postgres", name=name, masked=self.url)
        self._schema = schema
        self._purpose = purpose
        self._connect_timeout = connect_timeout if patience is None else min(connect_timeout, patience)
        #: Longest time for one statement.
        self.timeout = timeout if patience is None else min(timeout, patience)
        try:
            given = self._driver.extensions.parse_dsn(checked_server_url(checked_url(url, name=name), name))
        except self._driver.ProgrammingError as error:
            raise ConfigurationError(
                f"{name}: {self.url!r} is not a PostgreSQL URL: {mask_url(str(error)).strip()}",
                hint="write postgresql://user:password@host:5432/database",
            ) from error
        #: What :meth:`connect` and a connection's operations raise.
        self.errors: tuple[type[Exception], ...] = (self._driver.Error, TimedOut)
        self._tls = tls or TlsSettings()
        libpq = self._driver.extensions.libpq_version()
        self._dsn: dict[str, Any] = {"application_name": "stem", **postgres_options(given, self._tls, libpq), **given}
        # Whatever the database, the role or the URL prefers: ids and reasons are any text, and both sides must agree.
        self._dsn["client_encoding"] = "UTF8"
        self._lock = threading.Lock()
        forking.renew_in_children(self)
        self._idle: list[PostgresConnection] = []
        self._pid = os.getpid()
        self._prepared = False

    def read(self, operation: Callable[[PostgresSession], T], *, size: int = 0) -> T:
        """What the operation returns; each of its statements is its own transaction. It may take longer the more bytes it
        sends."""
        return self._attempts(operation, repeat=True, timeout=time_limit(self.timeout, size))

    def rows(self, statement: str | bytes, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """Every row of one statement, which is a transaction of its own."""
        found: list[tuple[object, ...]] = self.read(methodcaller("rows", statement, parameters))
        return found

    def execute(self, statement: str | bytes, parameters: Parameters = None) -> int:
        """How many rows one statement touched, which is a transaction of its own."""
        count: int = self.read(methodcaller("execute", statement, parameters))
        return count

    def write(self, operation: Callable[[PostgresSession], T], *, repeat: bool = True) -> T:
        """What the operation returns, once everything it did was committed; nothing of it when it raises."""

        def transaction(session: PostgresSession) -> T:
            session.begin()
            outcome = operation(session)
            session.commit()
            return outcome

        return self._attempts(transaction, repeat=repeat)

    def limit(self, seconds: float) -> None:
        """As ``patience``, from now on."""
        self.timeout, self._connect_timeout = (
            min(timeouts.POSTGRES_STATEMENT, seconds),
            min(timeouts.POSTGRES_CONNECT, seconds),
        )

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`."""
        self._lock = threading.Lock()
        self._leave_inherited()

    def close(self) -> None:
        """Let the connections go. May be called twice; the next call connects again."""
        self._leave_inherited()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _attempts(self, step: Callable[[PostgresSession], T], *, repeat: bool, timeout: float | None = None) -> T:
        lost = conflicts = 0
        rebuilt = False
        while True:
            connection = None
            try:
                connection = self._taken()
                outcome = step(PostgresSession(connection, timeout or self.timeout))
            except (self._driver.Error, TimedOut) as error:
                gone = connection is None or bool(connection.closed) or _is_lost(error)
                self._dispose(connection)
                if isinstance(error, TimedOut) or connection is None:
                    raise self.failure(error) from error
                if gone:
                    self.close()  # every idle connection is as old as the one that broke
                    lost += 1
                    if lost > 1 or not repeat:
                        raise self.failure(error) from error
                elif error.pgcode in _CONFLICTS and conflicts < _CONFLICT_ATTEMPTS:
                    conflicts += 1
                    SYSTEM.sleep(chance.uniform(0.001, 0.01) * conflicts)
                elif error.pgcode == _UNDEFINED_TABLE and not rebuilt:
                    rebuilt, self._prepared = True, False  # the database was dropped and made again
                else:
                    raise self.failure(error) from error
            except UnicodeDecodeError as error:
                self._dispose(connection)
                raise StoreCorrupt(
                    f"{self._purpose} {self.url}: a row holds bytes that are not UTF-8 ({error.object[:40]!r})",
                    hint="the database has no encoding (SQL_ASCII) and another program wrote to the table; delete the row",
                ) from error
            except BaseException:
                self._dispose(connection)  # in the middle of something: not to be trusted with the next transaction
                raise
            else:
                self._put_back(connection)
                return outcome

    def _taken(self) -> PostgresConnection:
        self._leave_inherited()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self.connect()

    def _put_back(self, connection: PostgresConnection) -> None:
        with self._lock:
            if len(self._idle) < KEPT and self._pid == os.getpid():
                self._idle.append(connection)
                return
        connection.close()

    def _dispose(self, connection: PostgresConnection | None) -> None:
        if connection is not None:
            connection.close()

    def _leave_inherited(self) -> None:
        if self._pid == os.getpid():
            return
        inherited, self._idle, self._pid = self._idle, [], os.getpid()
        for connection in inherited:
            close_inherited(connection)

    def connect(self) -> PostgresConnection:
        """A new connection in psycopg2's asynchronous mode, for the caller alone. Raises what the driver raises."""
        deadline = SYSTEM.monotonic() + self._connect_timeout
        connection: PostgresConnection = self._driver.connect(**self._dsn, async_=True)
        try:
            wait_for(connection, deadline)
            session = PostgresSession(connection, self.timeout)
            if not self._prepared:
                self._create_missing(session)
                self._prepared = True
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_missing(self, session: PostgresSession) -> None:
        if self._is_complete(session):
            return
        session.begin()
        # IF NOT EXISTS alone is not safe when two sessions create the same table at once: the loser gets an error.
        session.rows("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        if not self._is_complete(session):  # else a table that is in use would be locked for nothing
            for statement in self._schema.statements:
                session.execute(statement)
            for table, column, type_ in self._schema.columns:
                session.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {type_}")
        session.commit()

    def _is_complete(self, session: PostgresSession) -> bool:
        names, columns = list(self._schema.names), self._schema.columns
        if session.rows(_NAMES_THERE, (names,))[0][0] < len(names):
            return False
        if not columns:
            return True
        places = [table for table, _, _ in columns], [column for _, column, _ in columns]
        return bool(session.rows(_COLUMNS_THERE, places)[0][0] == len(columns))

    def _endpoint(self) -> Endpoint | None:
        """Where TLS must be spoken; ``None`` where it need not, or where several servers stand behind the URL."""
        host, port = self._dsn.get("host", "localhost"), self._dsn.get("port", "5432")
        if self._dsn.get("sslmode") not in _TLS_MODES or "," in host or host.startswith("/") or not port.isdigit():
            return None
        return Endpoint(host, int(port), asks_first=True)

    def failure(self, error: Any) -> StoreError:
        """What one of :attr:`errors` means to the caller. A table that is missing is made by the next connection."""
        text = " ".join(mask_url(str(error)).split()) or type(error).__name__
        code = "57014" if isinstance(error, TimedOut) else error.pgcode or ""
        self._prepared = self._prepared and code != _UNDEFINED_TABLE
        found = None if code else explained(text, self._endpoint(), tls_for(self._address, self._tls))
        found = found or meaning_of(code, text)
        if found is None and (code.startswith(("53", "57")) or isinstance(error, self._driver.OperationalError)):
            found = Diagnosis("", "check that the server runs at that host and port")
        if code in _UNSTORABLE_TEXT:
            text = f"the encoding of this database has no place for a character of an id, name or reason ({text})"
            return StoreError(f"{self._purpose} {self.url}: {text}", hint=_ENCODING)
        return store_error(f"{self._purpose} {self.url}", text, found)


_ENCODING = "make the database anew with encoding UTF8 (createdb -E UTF8 -T template0), or use plain ASCII text"


def _is_lost(error: Any) -> bool:
    # 57P01 to 57P03: the server shuts down or starts up; class 08: connection exceptions.
    return (error.pgcode or "").startswith(("57P", "08")) or "server closed the connection" in str(error)
