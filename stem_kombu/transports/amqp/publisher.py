"""Sending to RabbitMQ with publisher confirms, many messages at a time."""

from __future__ import annotations

import collections
import itertools
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerError, BrokerUnavailable, ConfigurationError
from stem_kombu.messages.encoding import HEADER_HEADERS, Envelope
from stem_kombu.transports.alarms import is_blocked
from stem_kombu.transports.errors import described, shown_url
from stem_kombu.transports.publisher import CHUNK, OutgoingMessage, PublisherConnection, SendDeadline, task_id_of

if TYPE_CHECKING:
    from kombu import Connection

#: Bytes in a frame of headers that are left for those of the protocol.
_OTHER_HEADERS = 8192
#: Seconds of one look for the end of a resource alarm.
_ALARM_LOOK = 0.25
#: Seconds for which a broker that has confirmed a message is taken to take another.
_FRESH = 0.5
_TO_NOBODY = OutgoingMessage("", Envelope(b"", {}, {}))


class ConfirmingConnection(PublisherConnection):
    """AMQP: messages are numbered from 1 as they are published, and the broker confirms the numbers, while more of them
    are on their way."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        super().__init__(connection, clock)
        self._confirmed_at = float("-inf")
        self._published = 0
        self._unconfirmed: dict[int, OutgoingMessage] = {}
        self._refused: list[OutgoingMessage] = []
        self._returned: set[str] = set()
        channel: Any = connection.default_channel  # py-amqp's, of which Kombu's annotations know nothing
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)

    def publish(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        for parcel in parcels:
            self._check_headers(parcel)
        self._declare(parcels)
        self._try_out(patience)
        waiting = collections.deque(parcels)
        try:
            self._publish_confirmed(waiting, patience)
            if self._returned:
                # Somebody deleted the queue after it was declared here; a message for no queue would be gone.
                waiting.extend(self._take_returned(parcels))
                self._declared.clear()
                self._declare(waiting)
                self._publish_confirmed(waiting, patience)
                if self._returned:
                    raise BrokerError(
                        f"broker {shown_url(self.connection)}: no queue took {len(self._returned)} messages"
                    )
            if self._refused:
                raise BrokerUnavailable(
                    f"broker {shown_url(self.connection)}: it refused {len(self._refused)} messages",
                    hint="a queue may be at its length limit",
                )
        finally:
            # A message comes back before its number is confirmed, and so may be in two of these.
            left = (*self._unconfirmed.values(), *self._refused, *self._take_returned(parcels), *waiting)
            parcels[:] = {id(parcel): parcel for parcel in left if parcel is not _TO_NOBODY}.values()
            self._refused.clear()

    def _try_out(self, patience: SendDeadline) -> None:
        """Find out whether the broker takes messages, by one to nobody, unless it took one just now: a task that is sent under
        an alarm is published when that ends, also if it was meanwhile reported as not sent, and sent again."""
        if self._clock.monotonic() - self._confirmed_at < _FRESH:
            return
        self._published += 1
        self._unconfirmed[self._published] = _TO_NOBODY
        self._producer.publish(
            b"",
            routing_key=f"stem-probe-{secrets.token_hex(8)}",
            exchange="",
            delivery_mode=1,
            content_type="application/octet-stream",
            content_encoding="binary",
        )
        self._hear(0, patience, counts=False)

    def _sit_out(self, patience: SendDeadline) -> None:
        while is_blocked(self.connection):
            if not patience.blocked():
                raise described(TimeoutError(), self.connection, "sending")
            try:
                self.connection.drain_events(timeout=_ALARM_LOOK)
            except TimeoutError:
                continue

    def _check_headers(self, parcel: OutgoingMessage) -> None:
        """Raises :class:`ConfigurationError` for headers that RabbitMQ would close the connection for, with what others have
        sent over it: all headers of a message are one frame."""
        size = len(str(parcel.envelope.headers.get(HEADER_HEADERS, "")).encode("utf-8", "surrogatepass"))
        most = int(self.connection.connection.frame_max) - _OTHER_HEADERS
        if size > most:
            raise ConfigurationError(
                f"the headers of task {parcel.task_id} take {size} bytes",
                hint=f"RabbitMQ takes at most {most} here; send large data as arguments",
            )

    def _publish_confirmed(self, waiting: collections.deque[OutgoingMessage], patience: SendDeadline) -> None:
        while waiting:
            self._published += 1
            self._unconfirmed[self._published] = parcel = waiting.popleft()
            sent = len(self._unconfirmed)
            self._put(parcel, mandatory=True, timeout=max(0.1, patience.left()))
            # py-amqp looks for news before it publishes, and so may have heard of some already.
            patience.taken(sent - len(self._unconfirmed))
            if len(self._unconfirmed) >= CHUNK:
                self._hear(CHUNK // 2, patience)
        self._hear(0, patience)

    def _hear(self, most: int, patience: SendDeadline, *, counts: bool = True) -> None:
        """Return when at most so many are unconfirmed; whether what is confirmed meanwhile ``counts`` as sent."""
        while (count := len(self._unconfirmed)) > most:
            if is_blocked(self.connection):
                self._sit_out(patience)
            left = patience.left()
            if left <= 0:
                error = TimeoutError(f"{count} messages were not confirmed in time")
                raise described(error, self.connection, "sending")
            try:
                self.connection.drain_events(timeout=min(left, 1.0))
            except TimeoutError:
                continue
            if counts:
                patience.taken(count - len(self._unconfirmed))
            self._confirmed_at = self._clock.monotonic()

    def _take_returned(self, parcels: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        returned, self._returned = self._returned, set()
        return [parcel for parcel in parcels if parcel.task_id in returned] if returned else []

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._confirmed(tag, multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused += self._confirmed(tag, multiple)

    def _confirmed(self, tag: int, multiple: bool) -> list[OutgoingMessage]:
        """The parcels that the number is about, which are heard of now."""
        if not multiple:
            parcel = self._unconfirmed.pop(tag, None)
            return [] if parcel is None else [parcel]
        tags = list(itertools.takewhile(lambda other: other <= tag, self._unconfirmed))
        return [self._unconfirmed.pop(other) for other in tags]

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned.add(task_id_of(message.properties.get("application_headers") or {}))
