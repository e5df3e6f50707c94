"""Heartbeats as they are sent: what ``stem worker status --follow`` shows."""

from __future__ import annotations

import json
import logging
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.broker import names
from stem_kombu.broker.connections import SLICE, connect, pulse
from stem_kombu.broker.failures import broker_errors
from stem_kombu.clock import Clock
from stem_kombu.control.mailbox import acknowledges, body_of

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)


class HeartbeatStream:
    """Subscribed from the moment it is made; used by one thread. Raises :class:`~stem_kombu.errors.BrokerUnavailable`."""

    def __init__(self, template: Connection, namespace: str, *, timeout: float, clock: Clock) -> None:
        from kombu import Consumer

        self._clock = clock
        self._namespace = namespace
        self._connection: Any = template.clone()
        connect(self._connection, timeout)
        self._heard: deque[Heartbeat] = deque()
        self._ack = acknowledges(self._connection.transport.driver_type)
        with broker_errors(self._connection, "listening for heartbeats"):
            queue = names.heartbeat_queue(namespace, secrets.token_hex(16))
            self._consumer = Consumer(
                self._connection.default_channel,
                [queue],
                on_message=self._on_message,
                no_ack=not self._ack,
                accept=["json"],
            )
            self._consumer.consume()
            self._drain(0.001)  # Kombu subscribes at the first drain, not before

    def next(self, timeout: float | None) -> Heartbeat | None:
        """The next beat, ``None`` when none came within ``timeout`` seconds (``None``: wait without bound)."""
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        while not self._heard:
            left = SLICE if deadline is None else deadline - self._clock.monotonic()
            if left <= 0:
                return None
            with broker_errors(self._connection, "listening for heartbeats"):
                pulse(self._connection, clock=self._clock)
                self._drain(min(left, SLICE))
        return self._heard.popleft()

    def close(self) -> None:
        """Let the connection go, and the queue with it."""
        try:
            self._consumer.cancel()
            self._connection.release()
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            # A broken connection may fail in any way while it is closed; the queue expires by itself.
            logger.debug("closing a heartbeat stream: %r", error)

    def _drain(self, seconds: float) -> None:
        try:
            self._connection.drain_events(timeout=seconds)
        except TimeoutError:
            pass
        except self._connection.connection_errors as error:
            if "timed out" not in str(error).lower():
                raise

    def _on_message(self, message: Any) -> None:
        if self._ack:
            message.ack()
        try:
            beat = Heartbeat.from_record(json.loads(body_of(message)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("a heartbeat can't be read and is dropped: %r", error)
            return
        if beat.namespace == self._namespace:
            self._heard.append(beat)
