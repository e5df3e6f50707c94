"""One connection of the producer, and how a transport is told to take messages: by Kombu, with RabbitMQ's confirms."""

from __future__ import annotations

import collections
import itertools
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerError, BrokerUnavailable, ConfigurationError
from stem_kombu.messages.encoding import HEADER_HEADERS, Envelope
from stem_kombu.transports.alarms import is_blocked
from stem_kombu.transports.connections import release
from stem_kombu.transports.errors import described, shown_url
from stem_kombu.transports.queues import declared_task_queue

if TYPE_CHECKING:
    from kombu import Connection

#: Messages that go together, or are on their way at a time: few enough to be sent again after a failure, many enough to
#: hide round trips.
CHUNK = 500
#: Bytes in a frame of headers that are left for those of the protocol.
_OTHER_HEADERS = 8192
#: Seconds for which a sender waits for the end of a resource alarm, and of one look for it.
ALARM_PATIENCE, _ALARM_LOOK = 3.0, 0.25
#: Seconds for which a broker that has confirmed a message is taken to take another.
_FRESH = 0.5


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message, ready to be sent to its queue."""

    queue: str
    envelope: Envelope

    @property
    def task_id(self) -> str:
        return _task_id(self.envelope.headers)


_TO_NOBODY = OutgoingMessage("", Envelope(b"", {}, {}))


class SendDeadline:
    """``seconds`` for one message, or for each :data:`CHUNK` of many; reconnecting included. While a broker takes no
    messages, only :data:`ALARM_PATIENCE` seconds."""

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
        return now - self._blocked_at < ALARM_PATIENCE and self.left() > 0

    def taken(self, count: int) -> None:
        """The broker has so many more."""
        self._taken += count
        if self._taken >= CHUNK:
            self._taken %= CHUNK
            self.until = self._clock.monotonic() + self._seconds


class PublisherConnection:
    """One connection, used by one thread at a time."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        from kombu import Producer

        self.connection = connection
        self._clock = clock
        self._declared: set[str] = set()
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
        with self._producer.batch(max_size=CHUNK):  # one transaction where there are such; elsewhere one by one
            for parcel in parcels:
                self._put(parcel)

    def close(self) -> None:
        try:
            release(self.connection)
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            _log_close(self.connection, error)

    def _declare(self, parcels: Iterable[OutgoingMessage]) -> None:
        for queue in {parcel.queue for parcel in parcels} - self._declared:
            declared_task_queue(self.connection, queue)
            self._declared.add(queue)

    def _put(self, parcel: OutgoingMessage, **more: Any) -> None:
        envelope = parcel.envelope
        self._producer.publish(
            envelope.body,
            routing_key=parcel.queue,
            exchange="",
            content_type=envelope.content_type,
            content_encoding=envelope.content_encoding,
            headers=dict(envelope.headers),
            **more,
            **_properties(envelope.properties),
        )


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
        self._returned.add(_task_id(message.properties.get("application_headers") or {}))


def _task_id(headers: Mapping[str, Any]) -> str:
    return str(headers.get("id"))


def _properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    """As Kombu's ``publish`` takes them: what lasts unless it is said otherwise, an expiration in seconds."""
    found = {"delivery_mode": 2, **properties}
    expiration = str(found.pop("expiration", ""))
    if expiration.isdigit():
        found["expiration"] = (int(expiration) + 0.5) / 1000  # of which Kombu makes whole milliseconds again
    return found


def _log_close(connection: Connection, error: Exception) -> None:
    import logging

    logging.getLogger(__name__).debug("closing a connection to %s: %r", shown_url(connection), error)
