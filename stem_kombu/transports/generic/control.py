"""The control link of every transport of Kombu, by its public names; what AMQP and Redis do faster steps back to this.

Three things can be mistaken for each other when a connection is drained: nothing came, the connection is lost, and
something came that the driver itself can't read. Only the second is a reason to connect again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer, Producer

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerError, BrokerUnavailable
from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.transports import names
from stem_kombu.transports.alarms import is_blocked
from stem_kombu.transports.connections import connect, pulse, release
from stem_kombu.transports.control_link import (
    Addresses,
    ControlConnection,
    ControlMessage,
    MalformedMessage,
    MessageKind,
    Received,
)
from stem_kombu.transports.errors import broker_errors, shown_url
from stem_kombu.transports.reach import reach_of

if TYPE_CHECKING:
    from kombu import Connection, Message

logger = logging.getLogger(__name__)

CONTENT_TYPE, ENCODING = "application/json", "utf-8"
#: Messages that the broker may push before they are acknowledged.
PREFETCH = 16
#: Drivers where a control message needs no acknowledgement: it is taken off the queue when it is handed over. On others
#: everything would be pushed at once to a worker that is suspended, and its expiry would have nothing left to act on.
_WITHOUT_ACK = frozenset({"redis", "memory", "sqlite"})
#: Inboxes that were declared; those whose clients have gone are the oldest.
_MOST_DECLARED = 512
#: What AMQP answers about a queue that is not there.
_NOT_FOUND = 404


class GenericControlLink:
    """See :class:`~stem_kombu.transports.control_link.ControlLink`. ``template`` is cloned, never used itself."""

    def __init__(self, template: Connection, *, clock: Clock) -> None:
        self._template = template
        self._clock = clock
        self.url = shown_url(template)

    def fans_out(self, timeout: float = timeouts.BROKER_PROBE) -> bool:
        found = reach_of(self._template, clock=self._clock, timeout=min(timeout, timeouts.BROKER_PROBE))
        found.require_control(self.url)
        return found.fanout

    def open(self, addresses: Addresses, *, timeout: float, limit: float, confirms: bool = False) -> ControlConnection:
        try:
            return self._open(addresses, timeout, limit, confirms)
        except BrokerUnavailable as error:
            if getattr(error.__cause__, "reply_code", None) != _NOT_FOUND:
                raise
        # The queue was declared, and was gone before it could be consumed: the broker has just noticed that the connection
        # was lost whose queue it had been, and drops it but once.
        return self._open(addresses, timeout, limit, confirms)

    def _open(self, addresses: Addresses, timeout: float, limit: float, confirms: bool) -> ControlConnection:
        connection = self._template.clone()
        connection.transport_options = {
            **(connection.transport_options or {}),
            **_limits(str(connection.transport.driver_type), limit, confirms),
        }
        if confirms:
            connection.heartbeat = 0  # while it lies idle it sends none, so that the broker must not expect any
        try:
            connect(connection, timeout)
            with broker_errors(connection, "opening a control connection"):
                return self._listening(connection, addresses, limit, confirms)
        except BaseException as error:
            let_go(connection, broken=isinstance(error, BrokerError))
            raise

    def _listening(
        self, connection: Connection, addresses: Addresses, limit: float, confirms: bool
    ) -> ControlConnection:
        """The connected connection at its addresses. Raises what the driver raises."""
        return GenericControlConnection(connection, addresses, clock=self._clock)


class GenericControlConnection:
    """See :class:`~stem_kombu.transports.control_link.ControlConnection`. How long it waits for an answer can't be changed."""

    def __init__(self, connection: Connection, addresses: Addresses, *, clock: Clock) -> None:
        self._connection = connection
        self._namespace = addresses.namespace
        self._clock = clock
        driver = connection.transport.driver_type
        self.keepalive = keepalive_of(connection)
        # Where the sender sets the expiry, it declares the inbox; on AMQP that would bring the queue of a client back that
        # has gone.
        self._declares = driver != "amqp"
        self._declared: OrderedDict[str, None] = OrderedDict()
        self._acks = driver not in _WITHOUT_ACK
        self._arrived: list[Received] = []
        self._consumes = self._closed = False
        self._channel = limit_decompression(connection.default_channel, addresses.largest)
        self._producer = Producer(self._channel, auto_declare=False)
        for kind, queue in queues_of(addresses):
            self._consume(kind, queue)
        if self._consumes:
            self._drain(0.001)  # Kombu subscribes at the first drain, not before

    @property
    def is_blocked(self) -> bool:
        return is_blocked(self._connection)

    def broadcast(self, body: bytes, *, expires: float) -> None:
        with broker_errors(self._connection, "broadcasting"):
            self._publish_to(names.broadcast_exchange(self._namespace), body, expires)

    def publish_heartbeat(self, body: bytes, *, expires: float) -> None:
        with broker_errors(self._connection, "publishing a heartbeat"):
            self._publish_to(names.heartbeat_exchange(self._namespace), body, expires)

    def send(self, inbox: str, body: bytes, *, expires: float) -> None:
        with broker_errors(self._connection, "sending to an inbox"):
            if self._declares:
                self._declare(inbox, names.direct_queue(inbox))
            self._publish(body, "", inbox, expires)

    def settle(self) -> None:
        """A publish returns once Kombu's transport has done what it can."""

    def wait(self, seconds: float, wake: int = -1) -> list[Received]:
        if self._closed:
            raise closed(self._connection)
        if not self._arrived:
            with broker_errors(self._connection, "waiting for control messages"):
                self._drain(min(max(seconds, 0.001), timeouts.DRAIN))
        arrived, self._arrived = self._arrived, []
        return arrived

    def limit(self, seconds: float) -> None:
        """Kombu has no public way to do so."""

    def close(self, *, broken: bool = False) -> None:
        self._closed = True
        let_go(self._connection, broken=broken)

    def _consume(self, kind: MessageKind, queue: Queue) -> None:
        def arrived(message: Message) -> None:
            if self._acks:
                message.ack()
            try:
                self._arrived.append(ControlMessage(kind, _body_of(message)))
            except ValueError as error:
                self._malformed(error)

        def malformed(message: Message, error: Exception) -> None:
            if self._acks:
                message.ack()
            self._malformed(error)

        consumer = Consumer(
            self._channel,
            [queue],
            on_message=arrived,
            on_decode_error=malformed,
            no_ack=not self._acks,
            accept=["json"],
        )
        if self._acks:
            consumer.qos(prefetch_count=PREFETCH)
        consumer.consume()
        self._consumes = True

    def _drain(self, seconds: float) -> None:
        drain(self._connection, seconds, clock=self._clock, malformed=self._malformed)

    def _malformed(self, error: Exception) -> None:
        if self._closed:  # under a wait in another thread, which fails at anything then
            raise closed(self._connection)
        self._arrived.append(MalformedMessage(repr(error)))

    def _publish_to(self, exchange: Exchange, body: bytes, expires: float) -> None:
        # A sender that has not declared the exchange takes it for a direct one on Kombu's virtual transports.
        self._declare(exchange.name, exchange)
        self._publish(body, exchange, "", expires)

    def _declare(self, name: str, entity: Exchange | Queue) -> None:
        if name not in self._declared:
            entity(self._channel).declare()
            self._declared[name] = None
            if len(self._declared) > _MOST_DECLARED:
                self._declared.popitem(last=False)

    def _publish(self, body: bytes, exchange: Exchange | str, routing_key: str, expires: float) -> None:
        self._producer.publish(
            body,
            exchange=exchange,
            routing_key=routing_key,
            content_type=CONTENT_TYPE,
            content_encoding=ENCODING,
            delivery_mode="transient",
            expiration=expires,
            retry=False,
        )


def queues_of(addresses: Addresses) -> Iterator[tuple[MessageKind, Queue]]:
    """The queues in which a connection receives what is sent to its addresses."""
    if addresses.inbox is not None:
        yield MessageKind.INBOX, names.direct_queue(addresses.inbox)
    if addresses.broadcasts:
        yield MessageKind.BROADCAST, names.broadcast_queue(addresses.namespace, addresses.owner)
    if addresses.heartbeats:
        yield MessageKind.HEARTBEAT, names.heartbeat_queue(addresses.namespace, addresses.owner)


def keepalive_of(connection: Connection) -> float | None:
    """Seconds within which the connection must be looked after, for AMQP's heartbeats; ``None`` where there are none."""
    heartbeat = connection.heartbeat if connection.transport.implements.heartbeats else 0
    return heartbeat / 4 if heartbeat else None


def drain(connection: Connection, seconds: float, *, clock: Clock, malformed: Callable[[Exception], object]) -> bool:
    """Wait at most ``seconds`` (keep them short) for one event and let its consumer have it; whether one came.

    ``malformed`` is called with what the driver raised for a message whose envelope it could not read; the message is
    off its queue then. Raises the driver's own exceptions when the connection is lost.
    """
    pulse(connection, clock=clock)
    try:
        connection.drain_events(timeout=seconds)
    except TimeoutError as error:
        if error.errno is not None:
            raise  # not our time-out but the network's: it has given the connection up
        return False
    except KeyError as error:  # which is among Kombu's connection errors on Redis
        malformed(error)
    except (*connection.connection_errors, *connection.channel_errors):
        raise
    except Exception as error:  # noqa: BLE001 - see below
        # Kombu decodes the envelope of virtual transports without a guard: any key may be missing, of any type.
        malformed(error)
    return True


def closed(connection: Connection) -> BrokerUnavailable:
    """What to raise to a thread that waits on a connection which another one has closed."""
    return BrokerUnavailable(f"broker {shown_url(connection)}: this control connection was closed")


def let_go(connection: Connection, *, broken: bool = False) -> None:
    """Close the connection; whatever it raises meanwhile is only worth a line for who debugs it."""
    try:
        release(connection, timeouts.GENERIC_LAST_STEP if broken else None)
    except Exception as error:  # noqa: BLE001 - see below
        # It may be broken or half closed, in any way that its driver knows.
        logger.debug("closing a control connection: %r", error)


def _limits(driver: str, limit: float, confirms: bool) -> dict[str, object]:
    """Kombu's transport options for the longest wait for an answer, on transports that have one."""
    if driver == "amqp":
        return {"confirm_publish": confirms, "read_timeout": limit, "write_timeout": limit}
    return {"socket_timeout": limit} if driver == "redis" else {}


def _body_of(message: Message) -> bytes:
    """The bytes of a Kombu message; virtual transports hand over text. Text that no bytes stand for raises ``ValueError``."""
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body or b"")
