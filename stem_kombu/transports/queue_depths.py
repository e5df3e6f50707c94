"""How many messages wait in a queue, as far as the transport can tell."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import BrokerUnavailable
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import broker_errors
from stem_kombu.transports.names import task_queue

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)


class QueueDepths:
    """Asks over a connection of its own, cloned from ``connection`` when first needed. Safe from any thread.

    ``counts``: the transport can count; Kombu's virtual ones answer 0 where they can't. ``declares``: it is asked by declaring
    the queue, which changes nothing at Redis and counts all priorities: an empty list does not exist there, and asking
    passively for it is an error in Kombu.
    """

    def __init__(
        self, connection: Connection, *, counts: bool = True, declares: bool = False, clock: Clock = SYSTEM
    ) -> None:
        self._counts, self._declares = counts, declares
        self._template = connection
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._quiet_until = 0.0

    def of(self, queues: Sequence[str]) -> Mapping[str, int | None]:
        """Messages ready in each queue, delivered ones not counted; ``None`` where the transport can't count, the queue
        does not exist, or the broker is away."""
        unknown: dict[str, int | None] = dict.fromkeys(queues)
        if not self._counts:
            return unknown
        with self._lock:
            if self._clock.monotonic() < self._quiet_until:
                return unknown
            for final in (False, True):
                fresh = self._connection is None
                try:
                    with broker_errors(self._template, "counting messages"):
                        return self._ready(queues)
                except BrokerUnavailable as error:
                    self._drop()
                    if final or fresh:
                        logger.info("queue depths are unknown: %s", error)
                        self._quiet_until = self._clock.monotonic() + timeouts.DEPTHS_QUIET
                        break
        return unknown

    def close(self) -> None:
        """Let the connection go. May be called twice; the next question connects again."""
        with self._lock:
            self._drop()

    def _ready(self, queues: Sequence[str]) -> dict[str, int | None]:
        """Over one channel, as each costs a connection on Redis; over another after a refusal, which closes it on AMQP."""
        if self._connection is None:
            connection = self._template.clone()
            # It is used now and then, with nobody to send heartbeats in between.
            connection.heartbeat = 0
            self._connection = connect(connection, timeouts.DEPTHS_CONNECT)
        connection, ahead = self._connection, list(queues)
        found: dict[str, int | None] = {}
        while ahead:
            channel = connection.channel()
            try:
                while ahead:
                    found[ahead[0]] = self._waiting(channel, ahead[0])
                    ahead.pop(0)
            except connection.channel_errors as error:
                if not _is_no_queue(error):
                    raise
                found[ahead.pop(0)] = None
            finally:
                connection.maybe_close_channel(channel)
        return found

    def _waiting(self, channel: Any, name: str) -> int:
        if self._declares:
            return int(task_queue(name)(channel).queue_declare().message_count)
        return int(channel.queue_declare(queue=name, passive=True).message_count)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                release(connection)
            except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
                logger.debug("closing the connection for queue depths: %r", error)


def _is_no_queue(error: BaseException) -> bool:
    """There is none of that name; or on Redis another program's key, which must not hide the other queues."""
    return getattr(error, "reply_code", getattr(error, "code", None)) == 404 or "WRONGTYPE" in str(error)
