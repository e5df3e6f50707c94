"""A control board in a SQLite file, for the processes of one host."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.drivers.schema import Schema
from stem_kombu.drivers.sqlite import SqliteDatabase
from stem_kombu.errors import StoreError
from stem_kombu.transports.store.board import BURST, PRUNED_AT_ONCE, Address, readable

SCHEMA = Schema.of(
    (
        # AUTOINCREMENT: a number is never given twice, also when the table was empty meanwhile. Numbers are given inside of
        # SQLite's write lock, so messages become visible in their order.
        """CREATE TABLE IF NOT EXISTS stem_control_messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, address TEXT NOT NULL,
            expires_us INTEGER NOT NULL, body BLOB NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS stem_control_messages_place ON stem_control_messages (namespace, address, id)",
        "CREATE INDEX IF NOT EXISTS stem_control_messages_expiry ON stem_control_messages (expires_us)",
    )
)
_PUT = "INSERT INTO stem_control_messages (namespace, address, expires_us, body) VALUES (?, ?, ?, ?)"
_EXPIRED = "SELECT id FROM stem_control_messages WHERE expires_us <= ? LIMIT ?"
_NEXT = """SELECT id, address, body FROM stem_control_messages
    WHERE namespace = ? AND address IN (SELECT value FROM json_each(?)) AND id > ? AND expires_us > ?
    ORDER BY id LIMIT ?"""
_HIGHEST = "SELECT seq FROM sqlite_sequence WHERE name = 'stem_control_messages'"
_TAKE = "DELETE FROM stem_control_messages WHERE id = ?"


class SqliteControlBoard:
    """Messages in the file of a revoke store. Times are by the host's clock. See :class:`ControlBoard`."""

    def __init__(
        self,
        path: Path,
        namespace: str,
        *,
        create_folder: bool = False,
        patience: float | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._path, self._namespace = path, namespace
        self._create_folder, self._clock = create_folder, clock
        self._timeout = timeouts.SQLITE_LOCK if patience is None else min(patience, timeouts.SQLITE_LOCK)
        self._database = self._opened()
        self.url = self._database.url

    def publish(self, addresses: Sequence[Address], body: bytes, *, expires: float) -> None:
        expires_us = int((self._clock.now() + expires) * 1_000_000)
        rows = [(self._namespace, address.name, expires_us, body) for address in dict.fromkeys(addresses)]
        self._database.write(lambda connection: connection.executemany(_PUT, rows).rowcount)

    def open_reader(self, addresses: Sequence[Address]) -> SqliteBoardReader:
        # A connection of its own: SQLite tells a connection only of what others have committed.
        return SqliteBoardReader(self._opened(), self._namespace, addresses, self._clock)

    def limit(self, seconds: float) -> None:
        """No server is waited for here, and a lock for a few seconds at most."""

    def close(self) -> None:
        self._database.close()

    def _opened(self) -> SqliteDatabase:
        # What a power cut may undo is a message whose reader has gone as well.
        return SqliteDatabase(
            self._path,
            schema=SCHEMA,
            purpose="control link",
            timeout=self._timeout,
            create_folder=self._create_folder,
            durable=False,
        )


class SqliteBoardReader:
    """See :class:`BoardReader`. ``database`` is the reader's own."""

    def __init__(self, database: SqliteDatabase, namespace: str, addresses: Sequence[Address], clock: Clock) -> None:
        self._database, self._namespace, self._clock = database, namespace, clock
        self._addresses = {address.name: address for address in addresses}
        self._names = json.dumps(list(self._addresses))
        self._file: tuple[int, int] | None = None
        self._version = -1
        self._position = 0
        self._taken: list[int] = []
        self._expired: list[int] = []
        self._pause, self._look_at = timeouts.STORE_LINK_SQLITE_QUICK, 0.0
        self._first: list[tuple[Address, bytes]] = []
        while found := self._look():
            self._first += [(address, body) for address, body in found if not address.shared]

    def wait(self, timeout: float, wakes: Sequence[int] = ()) -> list[tuple[Address, bytes]]:
        if self._first:
            first, self._first = self._first, []
            return first
        self._clean_up()
        deadline = self._clock.monotonic() + timeout
        while not (found := self._look()):
            self._clean_up()
            left = deadline - self._clock.monotonic()
            if left <= 0 or readable(wakes, min(left, self._pause)):
                return []
            self._pause = min(self._pause * 1.3, timeouts.STORE_LINK_SQLITE_SLOW)
        self._pause = timeouts.STORE_LINK_SQLITE_QUICK
        return found

    def close(self, *, broken: bool = False) -> None:
        try:
            if not broken:
                self._see_expired()
                self._clean_up()
        except StoreError:
            pass  # all of it expires
        self._database.close()

    def _look(self) -> list[tuple[Address, bytes]]:
        """The next messages, if another connection has committed since the last look, or none was made for a second."""
        version = int(self._database.rows("PRAGMA data_version")[0][0])
        now = self._clock.monotonic()
        if version == self._version and self._database.identity == self._file and now < self._look_at:
            return []
        rows = self._database.read(self._rows)
        if len(rows) < BURST:
            self._version, self._look_at = version, now + timeouts.STORE_LINK_LOOK
            self._see_expired()
        if rows:
            self._position = rows[-1][0]
        found = [(number, self._addresses[name], bytes(body)) for number, name, body in rows]
        self._taken += [number for number, address, _ in found if not address.shared]
        return [(address, body) for _, address, body in found]

    def _rows(self, connection: sqlite3.Connection) -> list[tuple[int, str, bytes]]:
        highest = connection.execute(_HIGHEST).fetchone()
        if self._database.identity != self._file or (highest or (0,))[0] < self._position:
            # Another file took its place, or other content this file: numbers begin anew.
            self._file, self._position = self._database.identity, 0
            self._taken.clear()
        given = (self._namespace, self._names, self._position, int(self._clock.now() * 1_000_000), BURST)
        return connection.execute(_NEXT, given).fetchall()

    def _see_expired(self) -> None:
        given = (int(self._clock.now() * 1_000_000), PRUNED_AT_ONCE)
        rows = self._database.rows(_EXPIRED, given)
        self._expired = [number for (number,) in rows]

    def _clean_up(self) -> None:
        rows = [(number,) for number in (*self._taken, *self._expired)]

        def operation(connection: sqlite3.Connection) -> None:
            if self._database.identity == self._file:  # in another file they are numbers of others
                connection.executemany(_TAKE, rows)

        if rows:
            self._database.write(operation)
            self._taken.clear()
            self._expired.clear()
