"""A client's end of the mailbox: one connection and one private inbox for replies.

The inbox is consumed before anything is published, so that no answer can come too early. Workers are reached through
the fanout exchange where the transport has one, else one by one through their inboxes.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from stem_kombu.broker import names
from stem_kombu.broker.abilities import Abilities, abilities_of
from stem_kombu.broker.connections import SLICE, connect
from stem_kombu.broker.failures import broker_errors, shown_url
from stem_kombu.clock import Clock
from stem_kombu.control.codec import decode_reply
from stem_kombu.control.messages import Reply
from stem_kombu.errors import BadMessage

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

CONTENT_TYPE, ENCODING = "application/json", "utf-8"
#: Drivers where a control message needs no acknowledgement: it is taken off the queue when it is handed over.
_WITHOUT_ACK = frozenset({"redis", "memory", "sqlite"})


def acknowledges(driver: str) -> bool:
    """Whether control messages are acknowledged on that driver: without it RabbitMQ pushes everything to a suspended worker
    at once, and their expiry has nothing left to act on."""
    return driver not in _WITHOUT_ACK


class Mailbox:
    """Used by one thread at a time. ``template`` is cloned, never used itself."""

    def __init__(self, template: Connection, namespace: str, *, timeout: float, clock: Clock) -> None:
        from kombu import Consumer, Producer

        self._clock = clock
        self._namespace = namespace
        self.abilities: Abilities = abilities_of(template, clock=clock, timeout=min(timeout, 2.0))
        self.abilities.require_control(shown_url(template))
        self._connection: Any = template.clone()
        # Nobody sends heartbeats while the client is idle; without them the broker doesn't expect any.
        self._connection.heartbeat = 0
        connect(self._connection, timeout)
        self.reply_to = names.reply_name(namespace, secrets.token_hex(16))
        self._heard: Callable[[Reply], object] = lambda reply: None
        with broker_errors(self._connection, "opening the reply inbox"):
            channel = self._connection.default_channel
            self._producer = Producer(channel, auto_declare=False)
            inbox = names.direct_queue(self.reply_to)
            ack = acknowledges(self.abilities.driver)
            self._consumer = Consumer(channel, [inbox], on_message=self._on_message, no_ack=not ack, accept=["json"])
            self._acks = ack
            self._consumer.consume()
            # A sender that has not declared the exchange takes it for a direct one on Kombu's virtual transports.
            self._exchange = names.broadcast_exchange(namespace)
            if self.abilities.fanout:
                self._exchange(channel).declare()

    def broadcast(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        """Send to everyone: by fanout, else to the inboxes of ``workers``, who are those on the roster."""
        if not self.abilities.fanout:
            self.send_to(body, workers, expires=expires)
            return
        with broker_errors(self._connection, "broadcasting"):
            self._publish(body, self._exchange, "", expires)

    def send_to(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        """Send to the inbox of each of the workers. Who isn't there gets nothing, and nothing is left behind for long."""
        with broker_errors(self._connection, "sending to inboxes"):
            for worker in workers:
                inbox = names.inbox_queue(self._namespace, worker)
                if self.abilities.needs_declare_before_reply:
                    inbox(self._connection.default_channel).declare()
                self._publish(body, "", inbox.name, expires)

    def listen(self, heard: Callable[[Reply], object], until: float) -> None:
        """Hand what arrives to ``heard``, returning after each event, or at the monotonic time ``until``."""
        self._heard = heard
        left = until - self._clock.monotonic()
        if left <= 0:
            return
        try:
            self._connection.drain_events(timeout=min(left, SLICE))
        except TimeoutError:
            return
        except (*self._connection.connection_errors, *self._connection.channel_errors) as error:
            if "timed out" in str(error).lower() and self._connection.connected:
                return  # what Redis calls an error when there was simply nothing to read
            with broker_errors(self._connection, "waiting for replies"):
                raise

    def close(self) -> None:
        """Let the connection go, and the inbox with it."""
        try:
            self._consumer.cancel()
            if self.abilities.needs_declare_before_reply:
                names.direct_queue(self.reply_to)(self._connection.default_channel).delete()
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            # A broken connection may fail in any way; the inbox expires by itself then.
            logger.debug("closing a reply inbox: %r", error)
        try:
            self._connection.release()
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            logger.debug("closing a control connection: %r", error)

    def _publish(self, body: bytes, exchange: Any, routing_key: str, expires: float) -> None:
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

    def _on_message(self, message: Any) -> None:
        if self._acks:
            message.ack()
        try:
            reply = decode_reply(body_of(message))
        except BadMessage as error:
            logger.warning("a reply is dropped: %s", error)
            return
        self._heard(reply)


def body_of(message: Any) -> bytes:
    """The bytes of a Kombu message; virtual transports hand over text."""
    body = message.body
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape")
    return bytes(body)
