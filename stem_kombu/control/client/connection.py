"""A client's end of control: one connection and one private inbox for replies.

The inbox is listened at before anything is sent, so that no answer can come too early. Workers are reached by a broadcast
where the link fans out, else each through its inbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stem_kombu import chance, timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.control.protocol.codec import LARGEST_REPLY, decode_reply
from stem_kombu.control.protocol.messages import Reply
from stem_kombu.drivers import forking
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import BadMessage, ConfigurationError
from stem_kombu.settings import Settings
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted
from stem_kombu.signing.seal import REPLY, unsealed
from stem_kombu.transports import names
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.control_link import Addresses, ControlLink, MalformedMessage
from stem_kombu.transports.registry import open_transport
from stem_kombu.transports.store.choice import fleet_control_link, needs_no_broker, store_link

#: Idle connections that are kept.
_KEPT = 4


class ClientConnection:
    """Used by one thread at a time.

    With a keyring, replies that no worker of the fleet signed are dropped. Raises
    :class:`~stem_kombu.errors.BrokerUnavailable` when it can't be opened within ``timeout`` seconds.
    """

    def __init__(
        self, link: ControlLink, namespace: str, *, timeout: float, clock: Clock, keyring: Keyring | None = None
    ) -> None:
        self._clock = clock
        self._namespace = namespace
        self._keyring = keyring
        #: How many replies could not be verified, by reason, since the caller last took this away.
        self.untrusted: dict[str, int] = {}
        deadline = clock.monotonic() + timeout
        #: The monotonic time by which the command must be over that this is used for: the broker is not waited for
        #: longer (G13). Until it is open that is the opening itself.
        self.until = deadline
        self._limit = min(timeouts.CLIENT_REPLY, max(timeouts.CLIENT_LEAST_REPLY, timeout))
        self._complaints = DropCounter("replies to this client", clock)
        #: Whether all workers can be reached without knowing who they are.
        self.fans_out = link.fans_out(timeout)
        owner = chance.token_hex(16)
        #: The name of the inbox that replies are to be sent to.
        self.reply_to = names.reply_name(namespace, owner)
        self._connection = link.open(
            Addresses(namespace, owner, inbox=self.reply_to, largest=LARGEST_REPLY),
            timeout=max(timeouts.CLIENT_LEAST_REPLY, deadline - clock.monotonic()),
            limit=self._limit,
            confirms=True,
        )
        self.until = float("inf")

    def broadcast(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        """Send to everyone: at once, or where the link can't to the inboxes of ``workers``, who are those on the roster."""
        if not self.fans_out:
            self.send_to(body, workers, expires=expires)
            return
        self._limit_waits()
        self._connection.broadcast(body, expires=expires)
        self._connection.settle()

    def send_to(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        """Send to the inbox of each of the workers. For one that isn't there nothing is left behind for long."""
        self._limit_waits()
        for worker in workers:
            self._connection.send(names.inbox_name(self._namespace, worker), body, expires=expires)
        self._connection.settle()

    def listen(self, until: float) -> list[Reply]:
        """The replies that arrive; returns after some came, or by the monotonic time ``until``."""
        self._limit_waits()
        found = []
        for message in self._connection.wait(min(max(0.0, until - self._clock.monotonic()), timeouts.CLIENT_DRAIN)):
            if isinstance(message, MalformedMessage):
                self._complaints.drop("envelope", message.error)
            elif (reply := self._decoded(message.body)) is not None:
                found.append(reply)
        return found

    def close(self, *, broken: bool = False) -> None:
        """Let the connection go, and the inbox with it; ``broken``: the peer is not expected to answer."""
        self._connection.close(broken=broken)

    def _limit_waits(self) -> None:
        left = min(timeouts.CLIENT_REPLY, max(timeouts.CLIENT_LEAST_REPLY, self.until - self._clock.monotonic()))
        if not left <= self._limit <= left + timeouts.CLIENT_REPLY_STEP:
            self._limit = left
            self._connection.limit(left)

    def _decoded(self, body: bytes) -> Reply | None:
        try:
            if self._keyring is not None:
                unsealed(body, REPLY, self._keyring).require(Scope.WORK, "act as a worker")
            return decode_reply(body)
        except Untrusted as error:
            self.untrusted[error.reason] = self.untrusted.get(error.reason, 0) + 1
            self._complaints.drop(error.reason, f"a reply: {error}")
        except BadMessage as error:
            self._complaints.drop("bad-message", str(error))
        return None


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
