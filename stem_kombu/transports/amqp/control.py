"""Control messages into and out of RabbitMQ queues, with one read for all that has come and one write for a message.

Kombu and py-amqp make two objects of a message, of which control reads nothing but the body, and look for something to read,
and encode each property by a table, for every one that is published. Here a message is four pieces of bytes, three of which
are the same each time.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import Clock
from stem_kombu.concurrency.poller import POLLIN, poller
from stem_kombu.errors import BrokerRefused
from stem_kombu.transports import names
from stem_kombu.transports.alarms import is_blocked
from stem_kombu.transports.amqp.frame_writer import FrameWriter, channel_number
from stem_kombu.transports.amqp.frames import AmqpFrames
from stem_kombu.transports.amqp.message_frames import (
    AROUND,
    BASIC,
    BODY,
    HEADER,
    METHOD,
    ack_frame,
    frame,
    publish_method,
    short_text,
)
from stem_kombu.transports.connections import pulse
from stem_kombu.transports.control_link import Addresses, ControlConnection, ControlMessage, MessageKind
from stem_kombu.transports.ended_wait import ended_wait
from stem_kombu.transports.errors import broker_errors, shown_url
from stem_kombu.transports.generic.control import (
    CONTENT_TYPE,
    ENCODING,
    PREFETCH,
    GenericControlConnection,
    GenericControlLink,
    closed,
    keepalive_of,
    let_go,
    queues_of,
)

if TYPE_CHECKING:
    from socket import socket

    from amqp import Connection as AmqpConnection
    from amqp import Message
    from kombu import Connection, Exchange, Queue

#: Messages that are acknowledged together, or when nothing comes any more. An acknowledgement each, or at every pause, would
#: cost a fleet that is asked something as much as the question.
_TOGETHER = 8
_CONTENT = Struct(">HHQ")
#: Which properties follow: content type and encoding, delivery mode, expiry.
_PROPERTIES = Struct(">H").pack(1 << 15 | 1 << 14 | 1 << 12 | 1 << 8)
_TRANSIENT = b"\x01"


class AmqpControlLink(GenericControlLink):
    """See :class:`~stem_kombu.transports.control_link.ControlLink`: RabbitMQ, where its driver reads as it must."""

    def _listening(
        self, connection: Connection, addresses: Addresses, limit: float, confirms: bool
    ) -> ControlConnection:
        if not AmqpFrames.can_read(connection.connection):
            return GenericControlConnection(connection, addresses, clock=self._clock)
        channel = ControlChannel(connection, limit, confirms=confirms)
        for kind, queue in queues_of(addresses):
            # A client has asked for what comes, and RabbitMQ may push all of it. Else, without acknowledgements, everything
            # would be pushed at once to a worker that is suspended.
            channel.consume(queue, kind, prefetch=0 if confirms else PREFETCH)
        return AmqpControlConnection(connection, channel, addresses.namespace, clock=self._clock)


class AmqpControlConnection:
    """See :class:`~stem_kombu.transports.control_link.ControlConnection`."""

    def __init__(self, connection: Connection, channel: ControlChannel, namespace: str, *, clock: Clock) -> None:
        self._connection, self._channel = connection, channel
        self._closed, self._waits = False, threading.Lock()
        self._clock = clock
        self._broadcasts = names.broadcast_exchange(namespace)
        self._heartbeats = names.heartbeat_exchange(namespace)
        self._declared: set[str] = set()
        self.keepalive = keepalive_of(connection)

    @property
    def is_blocked(self) -> bool:
        return is_blocked(self._connection)

    def broadcast(self, body: bytes, *, expires: float) -> None:
        self._publish(self._broadcasts, body, expires)

    def publish_heartbeat(self, body: bytes, *, expires: float) -> None:
        self._publish(self._heartbeats, body, expires)

    def send(self, inbox: str, body: bytes, *, expires: float) -> None:
        # Not declared: that would bring the queue of a client back that has gone.
        with broker_errors(self._connection, "sending to an inbox"):
            self._channel.publish(body, "", inbox, expires=expires)

    def settle(self) -> None:
        with broker_errors(self._connection, "waiting until the broker confirms"):
            if not self._channel.settle():
                raise BrokerRefused(
                    f"broker {shown_url(self._connection)}: it refused a control message",
                    hint="check the policies that it applies to queues named stem-…-ctl-…",
                )

    def wait(self, seconds: float, wake: int = -1) -> Sequence[ControlMessage]:
        channel = self._channel
        with self._waits, broker_errors(self._connection, "waiting for control messages"):
            arrived: Sequence[ControlMessage] = ()
            if self._closed:
                raise closed(self._connection)
            if channel.wait(seconds, wake):
                arrived = channel.take()
            else:
                channel.acknowledge()
            pulse(self._connection, clock=self._clock)
        return arrived

    def limit(self, seconds: float) -> None:
        self._channel.limit(seconds)

    def close(self, *, broken: bool = False) -> None:
        self._closed = True
        with ended_wait(self._waits, [self._channel]):
            let_go(self._connection, broken=broken)

    def _publish(self, exchange: Exchange, body: bytes, expires: float) -> None:
        with broker_errors(self._connection, "broadcasting"):
            if exchange.name not in self._declared:
                exchange(self._connection.default_channel).declare()
                self._declared.add(exchange.name)
            self._channel.publish(body, exchange.name, "", expires=expires)


class ControlChannel:
    """The default channel of a connected AMQP connection, which nothing else uses; for one thread at a time.

    Every method raises what the driver raises when the connection or its channel is lost. ``timeout`` is the longest wait
    for the broker, in seconds; with ``confirms`` the broker confirms each message."""

    def __init__(self, connection: Connection, timeout: float, *, confirms: bool = False) -> None:
        channel: Any = connection.default_channel  # py-amqp's, of which Kombu's annotations know nothing
        self._channel = channel
        self._amqp: AmqpConnection = connection.connection
        self._socket: socket = self._amqp.sock
        # Once, and not around each frame as py-amqp does when the socket has another.
        self.limit(timeout)
        self._frames, self._writer = AmqpFrames(self._amqp, self._channel), FrameWriter(self._amqp)
        self._poller = poller()
        self._poller.register(self._socket, POLLIN)
        self._waker = -1
        self._more = False
        self._failure: Exception | None = None
        self._arrived: list[ControlMessage] = []
        # Taken in and not acknowledged: how many, and the last one's number.
        self._taken, self._last = 0, 0
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._refused = False
        self._confirms = confirms
        if confirms:
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)

    def fileno(self) -> int:
        """Of the connection; -1 once it is closed."""
        return self._socket.fileno()

    def limit(self, timeout: float) -> None:
        """Wait no longer than that for the broker from now on."""
        self._socket.settimeout(timeout)
        self._timeout = timeout

    def consume(self, queue: Queue, kind: MessageKind, *, prefetch: int = 0) -> None:
        """Declare the queue and have its messages pushed, all of them or, to be acknowledged, at most ``prefetch`` at a
        time."""
        queue(self._channel).declare()
        if prefetch:
            self._channel.basic_qos(0, prefetch, False)

        def arrived(message: Message) -> None:
            body = message.body  # which py-amqp, where it reads by itself, has decoded
            self._arrived.append(ControlMessage(kind, body.encode() if isinstance(body, str) else bytes(body or b"")))
            if prefetch:
                self._taken, self._last = self._taken + 1, message.delivery_tag

        self._channel.basic_consume(queue.name, no_ack=not prefetch, callback=arrived)

    def wait(self, seconds: float, wake: int = -1) -> bool:
        """Whether something has come, after waiting at most ``seconds`` for it, or until ``wake`` is readable."""
        if self._taken >= _TOGETHER:
            self.acknowledge()
        if self._arrived or self._failure is not None:
            return True
        return self._wait(seconds, wake)

    def take(self) -> list[ControlMessage]:
        """What has come, in order, without waiting for more."""
        self._take_in()
        if self._failure is not None and not self._arrived:
            failure, self._failure = self._failure, None
            raise failure
        arrived, self._arrived = self._arrived, []
        return arrived

    def acknowledge(self) -> None:
        """Acknowledge all that was taken; by itself this is done for some of them together."""
        if self._taken:
            self._taken = 0
            self._write(ack_frame(self._number(), self._last, multiple=True))

    def publish(self, body: bytes, exchange: str, routing_key: str, *, expires: float) -> None:
        """Write a message that is gone once it is ``expires`` seconds old; nothing is read."""
        number, size = self._number(), len(body)
        properties = _FORM + short_text(str(int(expires * 1000)))
        frames = [
            frame(METHOD, number, publish_method(exchange, routing_key)),
            frame(HEADER, number, _CONTENT.pack(BASIC, 0, size) + properties),
        ]
        most = self._amqp.frame_max - AROUND
        frames += [frame(BODY, number, body[first : first + most]) for first in range(0, size, most)]
        if self._confirms:
            self._published += 1
            self._unconfirmed.add(self._published)
        self._write(b"".join(frames))

    def settle(self) -> bool:
        """Whether the broker takes all that was published, once it has said so; what comes meanwhile is kept."""
        while self._unconfirmed:
            if not self._wait(self._timeout):
                raise TimeoutError("the broker has not confirmed a message in time")
            self._take_in()
            if self._failure is not None:
                raise self._failure
        refused, self._refused = self._refused, False
        return not refused

    def _wait(self, seconds: float, wake: int = -1) -> bool:
        if self._more:
            return True
        if wake != self._waker:
            self._poller.register(wake, POLLIN)
            self._waker = wake
        # A record of TLS may hold several frames, which the descriptor knows nothing of.
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return any(ready != wake for ready, _ in self._poller.poll(max(0.0, seconds) * 1000))

    def _take_in(self) -> None:
        if self._failure is None:
            try:
                self._more = self._frames.take_in()
            except Exception as failure:  # noqa: BLE001 - raised as soon as what came before it has been taken
                self._failure = failure

    def _number(self) -> int:
        return channel_number(self._channel)

    def _write(self, frames: bytes) -> None:
        self._writer.write(frames, self._timeout)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._unconfirmed = {other for other in self._unconfirmed if other > tag}
        else:
            self._unconfirmed.discard(tag)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused = True
        self._on_ack(tag, multiple)


#: Of every message that is published here: which properties follow, and all but the expiry.
_FORM = _PROPERTIES + short_text(CONTENT_TYPE) + short_text(ENCODING) + _TRANSIENT
