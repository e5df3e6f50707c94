"""The Kombu transport: connections, draining, waking.

What it promises: every exchange type but headers works between processes; a message is delivered at least once, in
order within a priority, and to one consumer at a time; ``kill -9`` of any process loses nothing, and what it held is
ready again within a second. A consumer that is stopped (SIGSTOP) keeps what it holds for the visibility timeout; its
acknowledgement after that is refused. Two limits: one machine (leases trust file locks, so network file systems are
refused), and non-durable queues are not forgotten at a restart, as there is no server that could restart.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

from stem_kombu.clock import SYSTEM
from stem_kombu.transports.sqlite.channel import Channel
from stem_kombu.transports.sqlite.errors import EmbeddedBrokerCorrupt, EmbeddedBrokerUnavailable
from stem_kombu.transports.sqlite.kombu_types import AMQPConnectionError, RecoverableConnectionError, VirtualTransport
from stem_kombu.transports.sqlite.location import path_of
from stem_kombu.transports.sqlite.options import Options
from stem_kombu.transports.sqlite.session import Session


class Transport(VirtualTransport):
    """Kombu's view of one open file; made by ``kombu.Connection``.

    Publishing, acknowledging and :meth:`wake` are safe from any thread; draining belongs to one. A forked child may
    go on publishing on an inherited connection; it inherits neither consumers nor deliveries.
    """

    Channel = Channel

    can_parse_url = True
    driver_type = "sqlite"
    driver_name = "sqlite3"

    connection_errors = (AMQPConnectionError, EmbeddedBrokerUnavailable, EmbeddedBrokerCorrupt)
    recoverable_connection_errors = (RecoverableConnectionError, EmbeddedBrokerUnavailable)
    recoverable_channel_errors = ()

    implements = VirtualTransport.implements.extend(
        asynchronous=False,
        batch_publish=True,
        exchange_type=frozenset({"direct", "topic", "fanout"}),
        heartbeats=False,
    )

    def __init__(self, client: Any, **kwargs: object) -> None:
        super().__init__(client, **kwargs)
        self._options = Options.decode(client.transport_options or {})
        self.polling_interval = self._options.polling_interval
        self._path = path_of(self._url(client))
        self._session: Session | None = None
        self._turn = 0
        self._woken = False

    @staticmethod
    def _url(client: Any) -> str:
        # Kombu hands the whole URL over as the host name, but parses those that it fails over to.
        given = client.hostname or ""
        return given if "://" in given else f"sqlite:///{(client.virtual_host or '').lstrip('/')}"

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def session(self) -> Session:
        """The open file; opened when needed, and again on the other side of a fork."""
        session = self._session
        if session is None or session.inherited:
            session = self._session = Session(self._path, self._options)
        return session

    # -- Kombu's side

    def driver_version(self) -> str:
        return sqlite3.sqlite_version

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        return uri

    def establish_connection(self) -> object:
        """Open the file, and make it where it is missing.

        Raises :class:`EmbeddedBrokerUnavailable`, :class:`EmbeddedBrokerCorrupt` or :class:`ConfigurationError`.
        """
        self.session.check()
        return super().establish_connection()

    def verify_connection(self, connection: object) -> bool:
        return self._session is not None and (self._session.inherited or self._session.usable)

    def close_connection(self, connection: object) -> None:
        """Give back what is held and close the file."""
        super().close_connection(connection)
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def drain_events(self, connection: object, timeout: float | None = None) -> None:
        """Deliver one message to its consumer's callback.

        Returns without one when :meth:`wake` was called. Raises ``socket.timeout`` when there was none in time,
        :class:`EmbeddedBrokerUnavailable` when the file can't be used, and ``amqp.ConsumerCancelled`` when somebody
        deleted a queue that is being consumed.
        """
        deadline = None if timeout is None else SYSTEM.monotonic() + timeout
        if self._session is None:
            raise RecoverableConnectionError(f"embedded broker {self._path}: not connected")
        session = self.session
        session.drainer = threading.get_ident()
        while True:
            session.wake_up.clear()
            session.check()
            if self._deliver_next(session):
                return
            if self._woken:
                self._woken = False
                return
            pause = session.pause
            if deadline is not None:
                left = deadline - SYSTEM.monotonic()
                if left <= 0:
                    raise TimeoutError  # socket.timeout, by its newer name
                pause = min(pause, left)
            if session.next_due is not None:
                pause = min(pause, max(0.001, session.next_due - SYSTEM.now()))
            if session.wake_up.rung(pause):
                session.note_activity()
            else:
                session.note_silence()

    def wake(self) -> None:
        """Make a thread blocked in :meth:`drain_events` return now, or else the next call at once. From any thread."""
        self._woken = True
        session = self._session
        if session is not None:
            session.wake_up.set()

    def _deliver_next(self, session: Session) -> bool:
        """Give every channel its turn until one had a message."""
        session.promote_due()
        channels = list(self.channels or ())
        for offset in range(len(channels)):
            channel = channels[(self._turn + offset) % len(channels)]
            if channel.deliver():
                self._turn += offset + 1
                session.note_activity()
                return True
        return False
