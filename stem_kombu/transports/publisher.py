"""One connection of the producer, which gives messages to a broker by Kombu's own producer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.messages.encoding import Envelope
from stem_kombu.publishing import Publishing
from stem_kombu.transports.connections import release
from stem_kombu.transports.declaring import declare, refuse_unrouted
from stem_kombu.transports.errors import shown_url
from stem_kombu.transports.queues import declared_task_queue

if TYPE_CHECKING:
    from kombu import Connection

#: Messages that go together, or are on their way at a time: few enough to be sent again after a failure, many enough to
#: hide round trips.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message, ready to be sent to its queue."""

    queue: str
    envelope: Envelope
    publishing: Publishing | None = None

    @property
    def exchange(self) -> str:
        """By its name; empty for the default exchange."""
        return "" if self.publishing is None else self.publishing.exchange

    @property
    def task_id(self) -> str:
        return task_id_of(self.envelope.headers)


class SendDeadline:
    """``seconds`` for one message, or for each :data:`CHUNK` of many; reconnecting included. While a broker takes no
    messages, only ``timeouts.ALARM_PATIENCE`` seconds."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._blocked_at: float | None = None
        self._taken = 0
        self.until = clock.monotonic() + seconds

    def left(self) -> float:
        """Seconds; negative when they are over."""
        return self.until - self._clock.monotonic()

    def blocked(self) -> bool:
        """The broker takes no messages: whether to wait on."""
        now = self._clock.monotonic()
        if self._blocked_at is None:
            self._blocked_at = now
        return now - self._blocked_at < timeouts.ALARM_PATIENCE and self.left() > 0

    def taken(self, count: int) -> None:
        """The broker has so many more."""
        self._taken += count
        if self._taken >= CHUNK:
            self._taken %= CHUNK
            self.until = self._clock.monotonic() + self._seconds


class PublisherConnection:
    """One connection, used by one thread at a time."""

    #: Whether it goes on once a resource alarm is over.
    outlives_alarms = False

    def __init__(self, connection: Connection, clock: Clock) -> None:
        from kombu.messaging import Producer

        self.connection = connection
        self._clock = clock
        self._declared: set[str] = set()
        self._declarations: list[object] = []
        self._producer = Producer(connection.default_channel, auto_declare=False)

    def publish(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        """Return once the broker has all of them; raises what the driver raises. What it is known to have is taken out of
        ``parcels``."""
        self._declare(parcels)
        while parcels:
            together = parcels[:CHUNK]
            self._publish_together(together)
            del parcels[: len(together)]
            patience.taken(len(together))

    def _publish_together(self, parcels: Sequence[OutgoingMessage]) -> None:
        if len(parcels) == 1:
            self._put(parcels[0])
            return
        batch = getattr(self._producer, "batch", None)  # new in Kombu 5.7
        # One transaction where there are such; elsewhere one by one.
        with nullcontext() if batch is None else batch(max_size=CHUNK):
            for parcel in parcels:
                self._put(parcel)

    def close(self) -> None:
        try:
            release(self.connection)
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            _log_close(self.connection, error)

    def _declare(self, parcels: Iterable[OutgoingMessage]) -> None:
        for queue in {parcel.queue for parcel in parcels if parcel.publishing is None} - self._declared:
            declared_task_queue(self.connection, queue)
            self._declared.add(queue)
        for parcel in parcels:
            if (publishing := parcel.publishing) is not None:
                self._declare_for(publishing, parcel.queue)

    def _declare_for(self, publishing: Publishing, queue: str) -> None:
        for one in publishing.declared:
            if one not in self._declarations:
                declare(self.connection, one)
                self._declarations.append(one)
        if not publishing.exchange and not publishing.declared and queue not in self._declared:
            declared_task_queue(self.connection, queue)
            self._declared.add(queue)

    def _put(self, parcel: OutgoingMessage, **more: object) -> None:
        envelope, exchange, key = parcel.envelope, parcel.exchange, parcel.queue
        if parcel.publishing is not None and exchange:
            key = parcel.publishing.routing_key or ""
            refuse_unrouted(self._producer.channel, exchange, key)
        self._producer.publish(
            envelope.body,
            routing_key=key,
            exchange=exchange,
            content_type=envelope.content_type,
            content_encoding=envelope.content_encoding,
            headers=dict(envelope.headers),
            **more,
            **_properties(envelope.properties),
        )


def task_id_of(headers: Mapping[str, object]) -> str:
    return str(headers.get("id"))


def _properties(properties: Mapping[str, object]) -> dict[str, object]:
    """As Kombu's ``publish`` takes them: what lasts unless it is said otherwise, an expiration in seconds."""
    found = {"delivery_mode": 2, **properties}
    expiration = str(found.pop("expiration", ""))
    if expiration.isdigit():
        found["expiration"] = (int(expiration) + 0.5) / 1000  # of which Kombu makes whole milliseconds again
    return found


def _log_close(connection: Connection, error: Exception) -> None:
    import logging

    logging.getLogger(__name__).debug("closing a connection to %s: %r", shown_url(connection), error)
