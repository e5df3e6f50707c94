"""Connections for control: cloned, bounded in time, drained in slices, and hung up without waiting.

Three things can be mistaken for each other when a connection is drained: nothing came, the connection is lost, and
something came that the driver itself can't read. Only the second is a reason to connect again.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from typing import Any

from stem_kombu.clock import Clock
from stem_kombu.transports.amqp.control import AmqpMail
from stem_kombu.transports.connections import SLICE, pulse, release

logger = logging.getLogger(__name__)

CONTENT_TYPE, ENCODING = "application/json", "utf-8"
#: Drivers where a control message needs no acknowledgement: it is taken off the queue when it is handed over.
_WITHOUT_ACK = frozenset({"redis", "memory", "sqlite"})
#: How many slices a connection that is hung up waits for its own message.
_FAREWELL_SLICES = 4


def acknowledges(driver: str) -> bool:
    """Whether control messages are acknowledged on that driver: without it RabbitMQ pushes everything to a suspended worker
    at once, and their expiry has nothing left to act on."""
    return driver not in _WITHOUT_ACK


def line(template: Any, *, reply_timeout: float, confirms: bool, heartbeats: bool) -> Any:
    """A clone of the template, not yet connected, that never waits longer than ``reply_timeout`` seconds for the broker.

    ``confirms``: on AMQP a publish returns once the broker has the message. ``heartbeats``: its thread drains it all the
    time, and so can send AMQP's heartbeats; without them the broker doesn't expect any.
    """
    connection = template.clone()
    options = dict(connection.transport_options or {})
    driver = connection.transport.driver_type
    if driver == "amqp":
        options |= {"confirm_publish": confirms, "read_timeout": reply_timeout, "write_timeout": reply_timeout}
    elif driver == "redis":
        options["socket_timeout"] = reply_timeout
    connection.transport_options = options
    if not heartbeats:
        connection.heartbeat = 0
    return connection


def drain(connection: Any, seconds: float, *, clock: Clock, garbage: Callable[[Exception], object]) -> bool:
    """Wait at most ``seconds`` (keep them short) for one event and let its consumer have it; whether one came.

    ``garbage`` is called with what the driver raised for a message whose envelope it could not read; the message is
    off its queue then. Raises the driver's own exceptions when the connection is lost.
    """
    pulse(connection, clock=clock)
    try:
        connection.drain_events(timeout=seconds)
    except TimeoutError as error:
        if error.errno is not None:
            raise  # not our time-out but the network's: it has given the connection up
        return False
    except (*connection.connection_errors, *connection.channel_errors):
        raise
    except Exception as error:  # noqa: BLE001 - see below
        # Kombu decodes the envelope of virtual transports without a guard: any key may be missing, of any type.
        garbage(error)
    return True


def say(producer: Any, mail: AmqpMail | None, body: bytes, exchange: Any, routing_key: str, expires: float) -> None:
    """Publish to the exchange, or ``""``: by the connection's mail where it has one, else by its producer."""
    if mail is not None:
        mail.publish(
            body, getattr(exchange, "name", ""), routing_key,
            content_type=CONTENT_TYPE, encoding=ENCODING, expires=expires,
        )  # fmt: skip
        return
    producer.publish(
        body,
        exchange=exchange,
        routing_key=routing_key,
        content_type=CONTENT_TYPE,
        content_encoding=ENCODING,
        delivery_mode="transient",
        expiration=expires,
        retry=False,
    )


def hang_up(
    connection: Any,
    say: Callable[[bytes], object] | None = None,
    *,
    clock: Clock,
    patience: float | None = None,
) -> None:
    """Let the connection go; whatever it raises meanwhile is only worth a line for who debugs it.

    On Redis closing waits for the blocking read that is under way, a tenth of a second or two. ``say(body)`` sends a
    message to an inbox that this connection consumes: when that has been read, no read is under way. ``patience`` as in
    :func:`~stem_kombu.transports.connections.release`.
    """
    try:
        if say is not None and connection.connected and connection.transport.driver_type == "redis":
            say(farewell())
            for _ in range(_FAREWELL_SLICES):
                if drain(connection, SLICE, clock=clock, garbage=_ignored):
                    break
    except Exception as error:  # noqa: BLE001 - see below
        # The connection may be broken or half closed, in any way that its driver knows.
        logger.debug("hanging up: %r", error)
    try:
        release(connection, patience)
    except Exception as error:  # noqa: BLE001 - see below
        logger.debug("closing a control connection: %r", error)


def loop_body(token: str) -> bytes:
    """A message that a worker sends to itself, to prove that it can hear."""
    return b'{"loop":' + json.dumps(token).encode() + b"}"


def farewell() -> bytes:
    """A message to oneself that nobody waits for."""
    return loop_body(secrets.token_hex(8))


def looped_token(body: bytes) -> str | None:
    """The token of :func:`loop_body`, ``None`` for any other message."""
    if not body.startswith(b'{"loop":') or len(body) > 200:
        return None
    return body[8:-1].decode("ascii", "replace").strip('" ')


def body_of(message: Any) -> bytes:
    """The bytes of a Kombu message; virtual transports hand over text. Text that no bytes stand for raises ``ValueError``."""
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _ignored(error: Exception) -> None:
    logger.debug("an envelope that can't be read: %r", error)
