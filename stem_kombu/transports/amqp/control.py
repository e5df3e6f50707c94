"""Control messages into and out of RabbitMQ queues, with one read for all that has come and one write for a message.

Kombu and py-amqp make two objects of a message, of which control reads nothing but the body, and look for something to read,
and encode each property by a table, for every one that is published. Here a message is four pieces of bytes, three of which
are the same each time.
"""

from __future__ import annotations

import select
import ssl
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any

from stem_kombu.transports.amqp.frames import AmqpFrames

if TYPE_CHECKING:
    from kombu import Connection, Queue

#: Messages that are acknowledged together, or when nothing comes any more. An acknowledgement each, or at every pause, would
#: cost a fleet that is asked something as much as the question.
_TOGETHER = 8
_METHOD, _HEADER, _BODY = 1, 2, 3
_FRAME, _CONTENT = Struct(">BHI"), Struct(">HHQ")
_ACK = Struct(">BHIHHQBB")
_END = b"\xce"
_BASIC, _PUBLISH = 60, 40
#: What is around the payload of a frame.
_AROUND = 8
#: Which properties follow: content type and encoding, delivery mode, expiry.
_PROPERTIES = Struct(">H").pack(1 << 15 | 1 << 14 | 1 << 12 | 1 << 8)
_TRANSIENT = b"\x01"


def open_amqp_mail(connection: Connection, *, timeout: float, confirms: bool = False) -> AmqpMail | None:
    """The mail of that connection, ``None`` where its driver does not read as it must. ``timeout`` is the longest wait for
    the broker, in seconds; with ``confirms`` the broker confirms each message."""
    return AmqpMail(connection, timeout, confirms=confirms) if AmqpFrames.can_read(connection.connection) else None


class AmqpMail:
    """One connected AMQP connection, of which nobody uses the default channel beside it; for one thread at a time.

    Every method raises what the driver raises when the connection or its channel is lost."""

    def __init__(self, connection: Connection, timeout: float, *, confirms: bool) -> None:
        channel: Any = connection.default_channel  # py-amqp's, of which Kombu's annotations know nothing
        self._channel = channel
        self._amqp: Any = connection.connection
        self._socket: Any = self._amqp.sock
        # Once, and not around each frame as py-amqp does when the socket has another.
        self.limit(timeout)
        self._frames = AmqpFrames(self._amqp, self._channel)
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._waker = -1
        self._more = False
        self._failure: Exception | None = None
        self._arrived: list[tuple[bool, bytes]] = []
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

    def limit(self, timeout: float) -> None:
        """Wait no longer than that for the broker from now on."""
        self._socket.settimeout(timeout)
        self._timeout = timeout

    def consume(self, queue: Queue, *, broadcast: bool = False, prefetch: int = 0) -> None:
        """Declare the queue and have its messages pushed, all of them or, to be acknowledged, at most ``prefetch`` at a
        time. :meth:`take` tells which are ``broadcast``."""
        queue(self._channel).declare()
        if prefetch:
            self._channel.basic_qos(0, prefetch, False)

        def arrived(message: Any) -> None:
            body = message.body  # which py-amqp, where it reads by itself, has decoded
            self._arrived.append((broadcast, body.encode() if isinstance(body, str) else bytes(body or b"")))
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

    def take(self) -> list[tuple[bool, bytes]]:
        """What has come, in order, without waiting for more: each message's body, and whether it was broadcast."""
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
            self._write(_ACK.pack(_METHOD, self._number(), 13, _BASIC, 80, self._last, 1, 0xCE))

    def publish(
        self, body: bytes, exchange: str, routing_key: str, *, content_type: str, encoding: str, expires: float
    ) -> None:
        """Write a message that is gone once it is ``expires`` seconds old; nothing is read."""
        number, size = self._number(), len(body)
        properties = _kind(content_type, encoding) + _short(str(int(expires * 1000)))
        frames = [
            _frame(_METHOD, number, _address(exchange, routing_key)),
            _frame(_HEADER, number, _CONTENT.pack(_BASIC, 0, size) + properties),
        ]
        most = self._amqp.frame_max - _AROUND
        frames += [_frame(_BODY, number, body[first : first + most]) for first in range(0, size, most)]
        if self._confirms:
            self._published += 1
            self._unconfirmed.add(self._published)
        self._write(b"".join(frames))

    def settle(self) -> None:
        """Return once the broker has confirmed all that was published; what comes meanwhile is kept."""
        while self._unconfirmed:
            if not self._wait(self._timeout):
                raise TimeoutError("the broker has not confirmed a message in time")
            self._take_in()
            if self._failure is not None:
                raise self._failure
        if self._refused:
            from amqp.exceptions import MessageNacked

            self._refused = False
            raise MessageNacked

    def _wait(self, seconds: float, wake: int = -1) -> bool:
        if self._more:
            return True
        if wake != self._waker:
            self._poller.register(wake, select.POLLIN)
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
        number: int | None = self._channel.channel_id
        if number is None:
            from amqp.exceptions import RecoverableConnectionError

            raise RecoverableConnectionError("the channel is closed")
        return number

    def _write(self, frames: bytes) -> None:
        self._amqp.transport.write(frames)
        self._amqp.bytes_sent += 1  # by which py-amqp knows when a heartbeat is due

    def _on_ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._unconfirmed = {other for other in self._unconfirmed if other > tag}
        else:
            self._unconfirmed.discard(tag)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused = True
        self._on_ack(tag, multiple)


def _frame(kind: int, number: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, number, len(payload)) + payload + _END


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


@lru_cache(maxsize=64)
def _address(exchange: str, routing_key: str) -> bytes:
    return Struct(">HHH").pack(_BASIC, _PUBLISH, 0) + _short(exchange) + _short(routing_key) + b"\x00"


@lru_cache(maxsize=8)
def _kind(content_type: str, encoding: str) -> bytes:
    return _PROPERTIES + _short(content_type) + _short(encoding) + _TRANSIENT
