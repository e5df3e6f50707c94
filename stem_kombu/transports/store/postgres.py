"""A control board in a PostgreSQL database."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from operator import methodcaller

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.postgres_listener import PostgresListener
from stem_kombu.drivers.postgres_session import PostgresSession
from stem_kombu.drivers.schema import Schema
from stem_kombu.errors import StoreError
from stem_kombu.settings import TlsSettings
from stem_kombu.transports.store.board import BURST, PRUNED_AT_ONCE, Address

SCHEMA = Schema.of(
    (
        # UNLOGGED: what a crash of the server may take is a message that is worthless seconds later.
        """CREATE UNLOGGED TABLE IF NOT EXISTS stem_control_messages (
            namespace text NOT NULL, address text NOT NULL, xid bigint NOT NULL DEFAULT txid_current(),
            expires_at timestamptz NOT NULL, body bytea NOT NULL, PRIMARY KEY (namespace, address, xid))""",
        "CREATE INDEX IF NOT EXISTS stem_control_messages_expiry ON stem_control_messages (expires_at)",
    )
)
_PUT = """WITH put AS (INSERT INTO stem_control_messages (namespace, address, expires_at, body)
        SELECT %s, address, statement_timestamp() + make_interval(secs => %s), %s FROM unnest(%s::text[]) AS address
        RETURNING 1)
    SELECT pg_notify(channel, '') FROM unnest(%s::text[]) AS channel"""
# Rows become visible when their transactions commit, in another order than that in which numbers are given. A row that was
# not visible when this was asked before has a transaction that was not over then, so one of at least that snapshot's xmin.
_READ = """SELECT snapshot.xmin, snapshot.expired, found.xid, found.address, found.body
    FROM (SELECT txid_snapshot_xmin(txid_current_snapshot()) AS xmin, EXISTS (SELECT FROM stem_control_messages
        WHERE expires_at <= statement_timestamp()) AS expired) AS snapshot
    LEFT JOIN stem_control_messages AS found ON namespace = %s AND address = ANY(%s) AND xid >= %s AND xid <> ALL(%s)
        AND expires_at > statement_timestamp()
    ORDER BY found.xid LIMIT %s"""
_TAKE = "DELETE FROM stem_control_messages WHERE namespace = %s AND address = ANY(%s) AND xid = ANY(%s)"
#: SKIP LOCKED: those that prune never wait for each other.
_PRUNE = """DELETE FROM stem_control_messages WHERE (namespace, address, xid) IN (
    SELECT namespace, address, xid FROM stem_control_messages
    WHERE expires_at <= statement_timestamp() LIMIT %s FOR UPDATE SKIP LOCKED)"""
#: Bytes of one message to many addresses that one statement carries.
_LARGEST_STATEMENT = 4_000_000


class PostgresControlBoard:
    """Messages in a database, for any number of hosts. Times are by the database's clock. See :class:`ControlBoard`.

    ``look_every``: seconds between two looks where the server notifies.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        name: str = "URL",
        tls: TlsSettings | None = None,
        patience: float | None = None,
        look_every: float = timeouts.STORE_LINK_LOOK,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database = PostgresDatabase(
            url, schema=SCHEMA, name=name, tls=tls, purpose="control link", patience=patience
        )
        self._namespace, self._look_every, self._clock = namespace, look_every, clock
        self.url = self._database.url

    def publish(self, addresses: Sequence[Address], body: bytes, *, expires: float) -> None:
        names = list(dict.fromkeys(address.name for address in addresses))
        together = max(1, _LARGEST_STATEMENT // max(1, len(body)))
        for start in range(0, len(names), together):
            part = names[start : start + together]
            channels = [channel(self._namespace, name) for name in part]
            values = (self._namespace, expires, body, part, channels)
            self._database.read(methodcaller("rows", _PUT, values), size=len(body) * len(part))

    def open_reader(self, addresses: Sequence[Address]) -> PostgresBoardReader:
        channels = [channel(self._namespace, address.name) for address in addresses]
        listener = PostgresListener(self._database, channels)
        try:
            return PostgresBoardReader(listener, self._namespace, addresses, self._look_every, self._clock)
        except BaseException:
            listener.close()
            raise

    def limit(self, seconds: float) -> None:
        self._database.limit(seconds)

    def close(self) -> None:
        self._database.close()


class PostgresBoardReader:
    """See :class:`BoardReader`."""

    def __init__(
        self, listener: PostgresListener, namespace: str, addresses: Sequence[Address], look_every: float, clock: Clock
    ) -> None:
        self._listener, self._namespace, self._clock = listener, namespace, clock
        self._addresses = {address.name: address for address in addresses}
        self._own = [address.name for address in addresses if not address.shared]
        self._look_every = look_every
        # All that was visible before has a smaller number, or one of those that were seen.
        self._position = 0
        self._seen: set[int] = set()
        self._taken: list[int] = []
        self._expired = False
        self._pause, self._look_at = timeouts.STORE_LINK_PG_QUICK, 0.0
        self._first: list[tuple[Address, bytes]] = []
        while found := self._look():
            self._first += [(address, body) for address, body in found if not address.shared]

    def wait(self, timeout: float, wakes: Sequence[int] = ()) -> list[tuple[Address, bytes]]:
        if self._first:
            first, self._first = self._first, []
            return first
        self._clean_up()
        deadline = self._clock.monotonic() + timeout
        while True:
            now = self._clock.monotonic()
            if now >= self._look_at and (found := self._look()):
                self._pause = timeouts.STORE_LINK_PG_QUICK
                return found
            self._clean_up()
            notified, woken = self._listener.wait(min(deadline, self._look_at) - now, wakes)
            if notified:
                self._look_at = 0.0
            elif woken or self._clock.monotonic() >= deadline:
                return []

    def close(self, *, broken: bool = False) -> None:
        try:
            if not broken:
                self._clean_up(closing=True)
        except StoreError:
            pass  # all of it expires
        self._listener.close()

    def _look(self) -> list[tuple[Address, bytes]]:
        """The next messages, in the order in which their transactions began to write."""
        given = (self._namespace, list(self._addresses), self._position, list(self._seen), BURST)
        rows = self._listener.run(methodcaller("rows", _READ, given))
        xmin, self._expired, *_ = rows[0]
        found = [row[2:] for row in rows if row[2] is not None]
        if xmin < self._position:
            # Another server took over, which had not heard of the last transactions: numbers are given again.
            self._position = 0
            self._seen.clear()
            return self._look()
        if len(found) < BURST:
            self._position = xmin
            self._seen = {xid for xid in self._seen if xid >= xmin} | {row[0] for row in found if row[0] >= xmin}
            self._look_at = self._clock.monotonic() + self._next_pause() if not found else 0.0
        else:
            # What else the last transaction wrote comes next time.
            found = [row for row in found if row[0] != found[-1][0]] or found
            self._seen |= {row[0] for row in found}
        self._taken += [xid for xid, name, _ in found if not self._addresses[name].shared]
        return [(self._addresses[name], bytes(body)) for _, name, body in found]

    def _next_pause(self) -> float:
        if self._listener.hears:
            return self._look_every
        self._pause = min(self._pause * 1.5, timeouts.STORE_LINK_PG_SLOW)
        return self._pause

    def _clean_up(self, *, closing: bool = False) -> None:
        taken, expired = (self._namespace, self._own, self._taken), self._expired or closing

        def operation(session: PostgresSession) -> None:
            if self._taken:
                session.execute(_TAKE, taken)
            if expired:
                session.execute(_PRUNE, (PRUNED_AT_ONCE,))

        if self._taken or expired:
            self._listener.run(operation)
            self._taken.clear()
            self._expired = False


def channel(namespace: str, address: str) -> str:
    """The name under which PostgreSQL notifies of messages to an address; an identifier has at most 63 bytes."""
    return "stem_" + hashlib.sha256(f"{namespace}\0{address}".encode()).hexdigest()[:32]
