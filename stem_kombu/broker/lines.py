"""One connection of the producer, and how a transport is told to take messages: by Kombu, with RabbitMQ's confirms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stem_kombu.broker.connections import release
from stem_kombu.broker.encoding import CONTENT_ENCODING, CONTENT_TYPE, Envelope
from stem_kombu.broker.failures import described, shown_url
from stem_kombu.broker.queues import declared_task_queue
from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerError, BrokerUnavailable

if TYPE_CHECKING:
    from kombu import Connection

#: Messages that are confirmed together: few enough to be sent again after a failure, many enough to hide round trips.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message, ready to be sent to its queue."""

    queue: str
    envelope: Envelope


class Line:
    """One connection, used by one thread at a time."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        from kombu import Producer

        self.connection = connection
        self._clock = clock
        self._declared: set[str] = set()
        self._producer = Producer(connection.default_channel, auto_declare=False)

    def publish(self, parcels: Sequence[Parcel], deadline: float) -> None:
        """Return once the broker has all of them; raises what the driver raises."""
        self._declare(parcels)
        if len(parcels) == 1:
            self._put(parcels[0])
            return
        with self._producer.batch(max_size=CHUNK):  # one pipeline on Redis; elsewhere the same as one by one
            for parcel in parcels:
                self._put(parcel)

    def close(self) -> None:
        try:
            release(self.connection)
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            _log_close(self.connection, error)

    def _declare(self, parcels: Sequence[Parcel]) -> None:
        for queue in {parcel.queue for parcel in parcels} - self._declared:
            declared_task_queue(self.connection, queue)
            self._declared.add(queue)

    def _put(self, parcel: Parcel, **more: Any) -> None:
        self._producer.publish(
            parcel.envelope.body,
            routing_key=parcel.queue,
            exchange="",
            delivery_mode=2,
            content_type=CONTENT_TYPE,
            content_encoding=CONTENT_ENCODING,
            headers=dict(parcel.envelope.headers),
            **more,
            **parcel.envelope.properties,
        )


class ConfirmingLine(Line):
    """AMQP: messages are numbered from 1 as they are published, and the broker confirms the numbers."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        super().__init__(connection, clock)
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._refused: set[int] = set()
        self._returned: set[str] = set()
        channel: Any = connection.default_channel  # py-amqp's, of which Kombu's annotations know nothing
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)

    def publish(self, parcels: Sequence[Parcel], deadline: float) -> None:
        self._declare(parcels)
        self._publish_confirmed(parcels, deadline)
        if self._returned:
            # Somebody deleted the queue after it was declared here; a message for no queue would be gone.
            lost = [parcel for parcel in parcels if parcel.envelope.properties["correlation_id"] in self._returned]
            self._returned.clear()
            self._declared.clear()
            self._declare(lost)
            self._publish_confirmed(lost, deadline)
            if self._returned:
                raise BrokerError(f"broker {shown_url(self.connection)}: no queue took {len(self._returned)} messages")

    def _publish_confirmed(self, parcels: Sequence[Parcel], deadline: float) -> None:
        for parcel in parcels:
            self._published += 1
            self._unconfirmed.add(self._published)
            self._put(parcel, mandatory=True, timeout=max(0.1, deadline - self._clock.monotonic()))
        while self._unconfirmed:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                error = TimeoutError(f"{len(self._unconfirmed)} messages were not confirmed in time")
                raise described(error, self.connection, "sending")
            try:
                self.connection.drain_events(timeout=min(left, 1.0))
            except TimeoutError:
                continue
        if self._refused:
            count = len(self._refused)
            self._refused.clear()
            raise BrokerUnavailable(
                f"broker {shown_url(self.connection)}: it refused {count} messages",
                hint="a queue may be at its length limit",
            )

    def _on_ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._unconfirmed = {other for other in self._unconfirmed if other > tag}
        else:
            self._unconfirmed.discard(tag)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        refused = {other for other in self._unconfirmed if other <= tag} if multiple else {tag}
        self._refused |= refused
        self._unconfirmed -= refused

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.add(str(message.properties.get("correlation_id")))


def _log_close(connection: Connection, error: Exception) -> None:
    import logging

    logging.getLogger(__name__).debug("closing a connection to %s: %r", shown_url(connection), error)
