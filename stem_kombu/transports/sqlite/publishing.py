"""Publishing: one message, or many in one transaction."""

from __future__ import annotations

from typing import Protocol

from stem_kombu.clock import SYSTEM
from stem_kombu.transports.sqlite import messages
from stem_kombu.transports.sqlite.messages import Envelope
from stem_kombu.transports.sqlite.session import Session

Parcel = tuple[str, str, Envelope]


class SessionOpener(Protocol):
    """What a batch needs of the channel that made it."""

    def open_session(self) -> Session:
        """The channel's own session; opened again after a failure."""


def parcel_of(message: dict[str, object], exchange: str | None, routing_key: str | None) -> Parcel:
    """The message decoded, with where it goes. Raises ``TypeError`` for headers that JSON cannot hold."""
    source, key = exchange or "", routing_key or ""
    return source, key, Envelope.decode(message, source, key)


def commit(session: Session, parcels: list[Parcel]) -> None:
    """Put all of them into the queues they are routed to, or none: an unknown exchange is ``NotFound`` for the lot."""
    with session.write(news=True) as sql:
        now = SYSTEM.now()
        for exchange, routing_key, envelope in parcels:
            messages.put(sql, exchange, routing_key, envelope, now)


class PublishBatch:
    """What ``Producer.batch()`` of Kombu 5.7 asks a channel for. For one thread."""

    def __init__(self, channel: SessionOpener, max_size: int) -> None:
        self.channel = channel
        self._max_size = max_size
        self._parcels: list[Parcel] = []

    def publish(
        self, message: dict[str, object], exchange: str | None = "", routing_key: str | None = "", **kwargs: object
    ) -> None:
        """Keep the message for the next flush; every ``max_size`` messages are flushed on the way."""
        self._parcels.append(parcel_of(message, exchange, routing_key))
        if len(self._parcels) >= self._max_size:
            self.flush()

    def flush(self) -> None:
        """Commit what was kept, in one transaction. What failed stays, so that a second flush may succeed."""
        if self._parcels:
            commit(self.channel.open_session(), self._parcels)
            self._parcels = []

    def discard(self) -> None:
        """Forget what was kept."""
        self._parcels = []

    def close(self) -> None:
        """Nothing to give back."""
