"""The control link on Redis: subscribed to its topics, waiting at its inbox, and otherwise asleep.

The messages, lists and topics are Kombu's, so that either end may be one that works through Kombu.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency.poller import POLLIN, poller
from stem_kombu.transports import names
from stem_kombu.transports.control_link import (
    Addresses,
    ControlConnection,
    ControlMessage,
    MalformedMessage,
    MessageKind,
    Received,
)
from stem_kombu.transports.ended_wait import ended_wait
from stem_kombu.transports.errors import described, driver_errors
from stem_kombu.transports.generic.control import closed, let_go
from stem_kombu.transports.redis.by_kombu import ByKombuConnection, ByKombuLink
from stem_kombu.transports.redis.control_queues import InboxReader, MessageWriter, TopicReader, body_in, limit_waits
from stem_kombu.transports.redis.idle import drop_idle, poll_later

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)


class RedisControlLink(ByKombuLink):
    """See :class:`~stem_kombu.transports.control_link.ControlLink`: Redis from 6.2."""

    def _listening(
        self, connection: Connection, addresses: Addresses, limit: float, confirms: bool
    ) -> ControlConnection:
        channel: Any = connection.default_channel
        try:
            return RedisControlConnection(connection, addresses, clock=self._clock)
        except channel.ResponseError as error:
            logger.info("control messages are read one by one, by Kombu: %s", error)
        return super()._listening(connection, addresses, limit, confirms)


class RedisControlConnection:
    """See :class:`~stem_kombu.transports.control_link.ControlConnection`.

    The constructor raises :class:`ResponseError` where the server lacks what it needs."""

    is_blocked = False

    def __init__(self, connection: Connection, addresses: Addresses, *, clock: Clock) -> None:
        self._connection = connection
        self._closed, self._waits = False, threading.Lock()
        self._clock = clock
        self._addresses = addresses
        channel: Any = connection.default_channel
        self._channel = channel
        self._broadcasts = names.broadcast_exchange(addresses.namespace).name
        self._heartbeats = names.heartbeat_exchange(addresses.namespace).name
        prefix = f"{channel.global_keyprefix}{channel.keyprefix_fanout}"
        self._broadcast_topic, self._heartbeat_topic = f"{prefix}{self._broadcasts}", f"{prefix}{self._heartbeats}"
        #: What each topic carries.
        self._topics: dict[str, MessageKind] = {}
        if addresses.broadcasts:
            self._topics[self._broadcast_topic] = MessageKind.BROADCAST
        if addresses.heartbeats:
            self._topics[self._heartbeat_topic] = MessageKind.HEARTBEAT
        self._writer = MessageWriter(connection)
        self._by_kombu: ByKombuConnection | None = None
        self._inbox = None if addresses.inbox is None else InboxReader(channel, addresses.inbox)
        try:
            self._subscription = TopicReader(channel, list(self._topics)) if self._topics else None
        except BaseException:
            if self._inbox is not None:
                self._inbox.close()
            raise
        poll_later(connection)
        self.keepalive = timeouts.REDIS_KEEPALIVE if self._inbox is not None or self._topics else None
        drop_idle(connection)

    def broadcast(self, body: bytes, *, expires: float) -> None:
        try:
            self._writer.publish(self._broadcast_topic, self._broadcasts, body)
        except driver_errors(self._connection) as error:
            raise described(error, self._connection, "broadcasting") from error

    def publish_heartbeat(self, body: bytes, *, expires: float) -> None:
        try:
            self._writer.publish(self._heartbeat_topic, self._heartbeats, body)
            self._writer.rest()
            drop_idle(self._connection)  # until the next one
        except driver_errors(self._connection) as error:
            raise described(error, self._connection, "publishing a heartbeat") from error

    def send(self, inbox: str, body: bytes, *, expires: float) -> None:
        try:
            if self._writer.put(inbox, body, expires=expires):
                return
        except driver_errors(self._connection) as error:
            raise described(error, self._connection, "sending to an inbox") from error
        if self._by_kombu is None:
            self._by_kombu = ByKombuConnection(
                self._connection, Addresses(self._addresses.namespace), clock=self._clock
            )
        self._by_kombu.send(inbox, body, expires=expires)

    def settle(self) -> None:
        """Each command was answered."""

    def wait(self, seconds: float, wake: int = -1) -> list[Received]:
        try:
            with self._waits:
                if not self._closed:
                    return self._wait(seconds, wake)
        except Exception as error:
            if not self._closed:
                if isinstance(error, driver_errors(self._connection)):
                    raise described(error, self._connection, "waiting for control messages") from error
                raise
        # By another thread, under which redis-py fails in ways of its own.
        raise closed(self._connection)

    def limit(self, seconds: float) -> None:
        limit_waits(self._channel, seconds)

    def close(self, *, broken: bool = False) -> None:
        self._closed = True
        readers = [reader for reader in (self._inbox, self._subscription) if reader is not None]
        with ended_wait(self._waits, readers):
            self._writer.rest()
            for reader in readers:
                reader.close()
            let_go(self._connection, broken=broken)

    def _wait(self, seconds: float, wake: int) -> list[Received]:
        now = self._clock.monotonic()
        inbox, topics = self._inbox, self._subscription
        waiting = poller()
        at_inbox = at_topics = -1
        has_some = topics is not None and topics.has_some
        if inbox is not None:
            has_some = inbox.arm(now) or has_some
            waiting.register(at_inbox := inbox.fileno(), POLLIN)
        if topics is not None:
            waiting.register(at_topics := topics.fileno(), POLLIN)
        if wake >= 0:
            waiting.register(wake, POLLIN)
        ready = {descriptor for descriptor, _ in waiting.poll(0 if has_some else max(0.0, seconds) * 1000)}
        received: list[Received] = []
        if topics is not None:
            for topic, text in topics.taken(answered=at_topics in ready):
                received.append(_message(self._topics.get(topic, MessageKind.BROADCAST), text))
        if inbox is not None:
            received += [_message(MessageKind.INBOX, text) for text in inbox.taken(answered=at_inbox in ready)]
            if at_inbox not in ready and inbox.is_overdue(now):
                # Not before it was looked: this process may have been suspended, and the answer be there.
                raise ConnectionError("Redis has not answered a wait in time")
        if not received:
            self._writer.rest()
        return received


def _message(kind: MessageKind, text: bytes) -> Received:
    try:
        return ControlMessage(kind, body_in(text))
    except ValueError as error:
        return MalformedMessage(repr(error))
