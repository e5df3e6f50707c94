"""A client's connections between two commands: open connections, each for one command at a time."""

from __future__ import annotations

from typing import Any

from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.control.client.connection import ClientConnection
from stem_kombu.drivers import forking
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import Settings
from stem_kombu.signing.keyring import Keyring
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.control_link import ControlLink
from stem_kombu.transports.registry import open_transport
from stem_kombu.transports.store.choice import fleet_control_link, needs_no_broker, store_link

#: Idle connections that are kept.
_KEPT = 4


class ClientConnections:
    """Safe from any thread. A forked child opens its own: of two processes that read one connection each gets half of it."""

    def __init__(self, settings: Settings, *, clock: Clock, keyring: Keyring | None) -> None:
        self._settings = settings
        self._clock = clock
        self._keyring = keyring
        self._lock = threads.Lock()
        self._idle: list[ClientConnection] = []
        self._template: Any = None
        self._link: ControlLink | None = None
        self._closed = False
        forking.renew_in_children(self)

    def link(self) -> ControlLink:
        """What connections are opened on. Raises :class:`ConfigurationError` for a broker URL that can't be used."""
        with self._lock:
            if self._link is None and needs_no_broker(self._settings):
                self._link = store_link(self._settings, clock=self._clock)
            if self._link is None:
                self._template = broker_connection(self._settings)
                transport = open_transport(self._template, generic=self._settings.transport == "generic")
                self._link = fleet_control_link(transport, self._settings, clock=self._clock)
            return self._link

    def take(self, deadline: float) -> tuple[ClientConnection, bool]:
        """A connection, and whether it was opened just now, by the monotonic time ``deadline``.

        Raises :class:`~stem_kombu.errors.BrokerUnavailable`, and :class:`ConfigurationError` after :meth:`close`.
        """
        with self._lock:
            if self._closed:
                raise ConfigurationError("this ControlClient was closed", hint="make a new one")
            if self._idle:
                return self._idle.pop(), False
        left = max(0.05, deadline - self._clock.monotonic())
        link, namespace = self.link(), self._settings.namespace
        return ClientConnection(link, namespace, timeout=left, clock=self._clock, keyring=self._keyring), True

    def put_back(self, connection: ClientConnection) -> None:
        """It may be used again."""
        with self._lock:
            if not self._closed and len(self._idle) < _KEPT:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Let every connection go. May be called twice."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            template, self._template, self._link = self._template, None, None
        for connection in idle:
            connection.close()
        if template is not None:
            template.release()  # on Redis its transport has a poller, though nothing ever connected

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`."""
        self._lock = threads.Lock()
        _inherited.append((self._idle, self._template))
        self._idle, self._template, self._link = [], None, None


#: The parent's, which a forked child must neither use nor close.
_inherited: list[tuple[list[ClientConnection], object]] = []
