"""The port of control: what a client, a worker and a follower of heartbeats ask of whatever carries their messages.

A control link is one broker, or one store. A control connection listens at its addresses from the moment it is open, and so
hears the answer to the first message that it sends. Both know bytes, addresses and times, and nothing of what the bytes
mean. Whatever fails is a :class:`~stem_kombu.errors.BrokerError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class MessageKind(Enum):
    """How a message came: sent to everyone, to this inbox alone, or as a worker's heartbeat."""

    BROADCAST = "broadcast"
    INBOX = "inbox"
    HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One message, off its queue. A message may come twice, and messages of different kinds come in any order."""

    kind: MessageKind
    body: bytes


@dataclass(frozen=True, slots=True)
class MalformedMessage:
    """Something that the link could not take apart, off its queue; ``error`` says why."""

    error: str


Received = ControlMessage | MalformedMessage


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a connection receives: nothing, or any of an inbox, the namespace's broadcasts and its heartbeats.

    ``owner`` is a worker's id, or any text that no other connection has; the names of its queues come from it. ``inbox`` is
    a name of :mod:`stem_kombu.transports.names`. ``largest`` is how many bytes a message may have once it is unpacked.
    """

    namespace: str
    owner: str = ""
    inbox: str | None = None
    broadcasts: bool = False
    heartbeats: bool = False
    largest: int = 1 << 20


class ControlConnection(Protocol):
    """Open and listening; used by one thread at a time, but for :meth:`close`. Times are in seconds.

    Every method but ``close`` raises :class:`~stem_kombu.errors.BrokerUnavailable` when the connection is lost or the broker
    refuses; it is of no use then, and is to be closed.
    """

    #: How often :meth:`wait` must be called at least, for the connection to be kept and its loss to be noticed; ``None``
    #: where that makes no difference.
    keepalive: float | None

    @property
    def is_blocked(self) -> bool:
        """Whether the broker has said that it takes no messages for now, as RabbitMQ does when it is short of memory."""

    def broadcast(self, body: bytes, *, expires: float) -> None:
        """Send to every connection that receives the namespace's broadcasts, this one included. Not where the link does
        not fan out."""

    def send(self, inbox: str, body: bytes, *, expires: float) -> None:
        """Put a message into the inbox of that name. Unread, it is gone after about that time."""

    def publish_heartbeat(self, body: bytes, *, expires: float) -> None:
        """Send to every connection that receives the namespace's heartbeats."""

    def settle(self) -> None:
        """Return once the broker has what was sent, where the connection was opened with ``confirms`` and it can tell."""

    def wait(self, seconds: float, wake: int = -1) -> Sequence[Received]:
        """What has come, in the order of each address; after waiting at most ``seconds`` for the first, or until the
        descriptor ``wake`` is readable. It may return sooner with nothing, and notice ``wake`` 50 ms late."""

    def limit(self, seconds: float) -> None:
        """Wait no longer than that for any one answer of the broker from now on, where its driver lets that be changed."""

    def close(self, *, broken: bool = False) -> None:
        """Let the connection go, from any thread, and what was made for it alone. Never raises, and ends a wait that is under
        way. ``broken``: the peer is not expected to answer."""


class ControlLink(Protocol):
    """One broker or store, to which connections are opened; safe from any thread. Making one connects to nothing."""

    #: The URL, without its password, for messages to people.
    url: str

    def fans_out(self, timeout: float = 2.0) -> bool:
        """Whether a message can be sent to all workers at once; else each is sent its own.

        A transport that nothing is known of is tried, for at most about ``timeout`` seconds, once for a process. Raises
        :class:`~stem_kombu.errors.BroadcastUnsupported` where neither is possible, and
        :class:`~stem_kombu.errors.BrokerUnavailable`.
        """

    def open(self, addresses: Addresses, *, timeout: float, limit: float, confirms: bool = False) -> ControlConnection:
        """A connection that receives what is sent to ``addresses`` from now on.

        It is opened within ``timeout`` seconds and then waits at most ``limit`` for one answer of the broker. With
        ``confirms``, ``settle`` waits for the broker; such a connection may lie idle between two commands. Raises
        :class:`~stem_kombu.errors.BrokerUnavailable`.
        """
