"""What a worker says of its own accord or after a while: deferred replies, and heartbeats on the stream.

A connection of its own, opened when first needed and used under a lock, because Kombu's connections belong to one
thread and the listener's is busy listening. What can't be sent is dropped: the sender's deadline passes, the next beat
comes.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.broker import names
from stem_kombu.broker.connections import connect
from stem_kombu.broker.failures import broker_errors
from stem_kombu.clock import Clock
from stem_kombu.control.mailbox import CONTENT_TYPE, ENCODING
from stem_kombu.errors import BrokerError

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 2.0
#: Seconds during which nothing is tried after a connection failed: whoever speaks must not wait again and again.
_QUIET_AFTER_FAILURE = 2.0
_REPLY_EXPIRES = 60.0


def publish_reply(connection: Any, producer: Any, reply_to: str, body: bytes, *, declare: bool) -> None:
    """Put a reply into a client's inbox. ``declare``: the transport wants the inbox declared by whoever fills it, so that it
    expires; on AMQP that would bring the queue of a client back that has gone."""
    if declare:
        names.direct_queue(reply_to)(connection.default_channel).declare()
    producer.publish(
        body,
        exchange="",
        routing_key=reply_to,
        content_type=CONTENT_TYPE,
        content_encoding=ENCODING,
        delivery_mode="transient",
        expiration=_REPLY_EXPIRES,
        retry=False,
    )


class Outbox:
    """Safe from any thread; never raises for a broker that is away."""

    def __init__(self, template: Connection, *, clock: Clock) -> None:
        self._template = template
        self._clock = clock
        self._declare = template.transport.driver_type != "amqp"
        self._lock = threading.Lock()
        self._connection: Any = None
        self._producer: Any = None
        self._quiet_until = 0.0
        self._exchanges: set[str] = set()

    def reply(self, reply_to: str, body: bytes) -> bool:
        """Whether the reply was handed to the broker."""
        return self._speak(
            lambda: publish_reply(self._connection, self._producer, reply_to, body, declare=self._declare), "a reply"
        )

    def heartbeat(self, beat: Heartbeat) -> bool:
        """Whether the beat was handed to the broker."""
        return self._speak(lambda: self._publish_beat(beat), "a heartbeat")

    def close(self) -> None:
        """Let the connection go. May be called twice; the next word connects again."""
        with self._lock:
            self._drop()

    def _publish_beat(self, beat: Heartbeat) -> None:
        exchange = names.heartbeat_exchange(beat.namespace)
        if exchange.name not in self._exchanges:
            exchange(self._connection.default_channel).declare()
            self._exchanges.add(exchange.name)
        self._producer.publish(
            json.dumps(beat.to_record()).encode(),
            exchange=exchange,
            routing_key="",
            content_type=CONTENT_TYPE,
            content_encoding=ENCODING,
            delivery_mode="transient",
            expiration=max(1.0, beat.interval),
            retry=False,
        )

    def _speak(self, say: Any, what: str) -> bool:
        with self._lock:
            if self._clock.monotonic() < self._quiet_until:
                return False
            for final in (self._connection is None, True):
                try:
                    with broker_errors(self._template, f"sending {what}"):
                        self._open()
                        say()
                except BrokerError as error:
                    # An idle connection may have been cut long ago: a fresh one decides.
                    self._drop()
                    if final:
                        logger.info("%s could not be sent: %s", what, error)
                        self._quiet_until = self._clock.monotonic() + _QUIET_AFTER_FAILURE
                        return False
                else:
                    return True
        return False

    def _open(self) -> None:
        if self._connection is None:
            from kombu import Producer

            connection = self._template.clone()
            # Nobody reads this connection between two words, so nobody could send AMQP's heartbeats.
            connection.heartbeat = 0
            connect(connection, _CONNECT_TIMEOUT)
            self._connection = connection
            self._producer = Producer(connection.default_channel, auto_declare=False)
            self._exchanges = set()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.release()
            except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
                # A broken connection may fail in any way while it is closed.
                logger.debug("closing an outbox: %r", error)
