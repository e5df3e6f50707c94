"""Sending to RabbitMQ with publisher confirms, many messages at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu import chance, timeouts
from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerError, BrokerUnavailable, ConfigurationError
from stem_kombu.messages.encoding import HEADER_HEADERS, Envelope
from stem_kombu.transports.alarms import is_blocked
from stem_kombu.transports.amqp.message_frames import Unusual, message_frames, publish_method
from stem_kombu.transports.amqp.publishing_channel import PublishingChannel
from stem_kombu.transports.errors import described, shown_url
from stem_kombu.transports.publisher import CHUNK, OutgoingMessage, PublisherConnection, SendDeadline, task_id_of

if TYPE_CHECKING:
    from amqp import Message
    from kombu import Connection

#: Bytes in a frame of headers that are left for those of the protocol.
_OTHER_HEADERS = 8192
#: Bytes from which on messages are written without waiting for more.
_ONE_WRITE = 65_536
_TO_NO_QUEUE = OutgoingMessage("", Envelope(b"", {}, {"delivery_mode": 1}, "application/octet-stream", "binary"))


class AmqpPublisher(PublisherConnection):
    """What is published over AMQP, and what the broker answers to it: common to both kinds of sending."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        super().__init__(connection, clock)
        self._channel = PublishingChannel(connection)
        self._returned: set[str] = set()
        channel: Any = connection.default_channel
        channel.events["basic_return"].add(self._on_return)

    def _write(self, parcels: Sequence[OutgoingMessage], patience: SendDeadline) -> None:
        """Write all of them, in order; nothing is read."""
        number, most, pieces = self._channel.number, self._channel.longest_payload, []
        for parcel in parcels:
            exchange, key = parcel.exchange, parcel.queue
            if exchange and parcel.publishing is not None:
                key = parcel.publishing.routing_key or ""
            try:
                pieces.append(message_frames(parcel.envelope, publish_method(exchange, key, True), number, most))
            except Unusual:
                self._flush(pieces, patience)
                self._put(parcel, mandatory=True, timeout=max(0.1, patience.left()))
        self._flush(pieces, patience)

    def _flush(self, pieces: list[bytes], patience: SendDeadline) -> None:
        if pieces:
            frames = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self._channel.write(frames, max(0.1, patience.left()))

    def _sit_out(self, patience: SendDeadline) -> None:
        """Return once the broker has said that it takes messages again. Raises :class:`~stem_kombu.errors.BrokerBlocked` when
        that takes too long."""
        while is_blocked(self.connection):
            if not patience.blocked():
                raise described(TimeoutError(), self.connection, "sending")
            if self._channel.has_news(timeouts.ALARM_LOOK):
                self._channel.take_in()

    def _check_headers(self, parcel: OutgoingMessage) -> None:
        """Raises :class:`ConfigurationError` for headers that RabbitMQ would close the connection for, with what others have
        sent over it: all headers of a message are one frame."""
        text = parcel.envelope.headers.get(HEADER_HEADERS)
        if text is None:
            return
        size, most = len(str(text).encode("utf-8", "surrogatepass")), self._channel.longest_payload + 8 - _OTHER_HEADERS
        if size > most:
            raise ConfigurationError(
                f"the headers of task {parcel.task_id} take {size} bytes",
                hint=f"RabbitMQ takes at most {most} here; send large data as arguments",
            )

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Message) -> None:
        self._returned.add(task_id_of(message.properties.get("application_headers") or {}))

    def _forget_declared(self) -> None:
        self._declared.clear()
        self._declarations.clear()


class ConfirmingConnection(AmqpPublisher):
    """AMQP: messages are numbered from 1 as they are published, and the broker confirms the numbers, while more of them
    are on their way."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        super().__init__(connection, clock)
        self._confirmed_at = float("-inf")
        self._published = 0
        self._unconfirmed: dict[int, OutgoingMessage] = {}
        self._refused: list[OutgoingMessage] = []
        self._channel.confirm(self._confirmed, self._on_nack)

    def publish(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        for parcel in parcels:
            self._check_headers(parcel)
        self._declare(parcels)
        self._try_out(patience)
        waiting = list(parcels)
        try:
            self._publish_confirmed(waiting, patience)
            if self._returned:
                # Its queue was deleted after it was declared here; a message for no queue would be gone.
                waiting += self._take_returned(parcels)
                self._forget_declared()
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
            parcels[:] = {id(parcel): parcel for parcel in left if parcel is not _TO_NO_QUEUE}.values() if left else ()
            self._refused.clear()

    def _try_out(self, patience: SendDeadline) -> None:
        """Find out whether the broker takes messages, by one to no queue, unless it took one just now: a task that is sent
        under an alarm is published when that ends, also if it was meanwhile reported as not sent, and sent again."""
        if self._clock.monotonic() - self._confirmed_at < timeouts.CONFIRMED_LATELY:
            return
        method, channel = publish_method("", f"stem-probe-{chance.token_hex(8)}"), self._channel
        frames = message_frames(_TO_NO_QUEUE.envelope, method, channel.number, channel.longest_payload)
        # Twice: under an alarm the broker still takes the first message of a connection, and may confirm it before it says so.
        for _ in range(2):
            self._published += 1
            self._unconfirmed[self._published] = _TO_NO_QUEUE
        channel.write(2 * frames, max(0.1, patience.left()))
        self._settle(0, patience, counts=False)

    def _publish_confirmed(self, waiting: list[OutgoingMessage], patience: SendDeadline) -> None:
        while waiting:
            together, size = 0, 0
            for parcel in waiting:
                self._published += 1
                self._unconfirmed[self._published] = parcel
                together, size = together + 1, size + len(parcel.envelope.body)
                if size >= _ONE_WRITE or len(self._unconfirmed) >= CHUNK:
                    break
            batch = waiting[:together]
            del waiting[:together]
            sent = len(self._unconfirmed)
            self._write(batch, patience)
            # Kombu, where it publishes one of them, looks for news, and so may have read some confirms already.
            patience.taken(sent - len(self._unconfirmed))
            if len(self._unconfirmed) >= CHUNK:
                self._settle(CHUNK // 2, patience)
            elif waiting and self._channel.has_news():
                self._take_in(patience)
        self._settle(0, patience)

    def _settle(self, most: int, patience: SendDeadline, *, counts: bool = True) -> None:
        """Return when at most so many are unconfirmed; whether what is confirmed meanwhile ``counts`` as sent."""
        while (count := len(self._unconfirmed)) > most:
            if is_blocked(self.connection):
                self._sit_out(patience)
            left = patience.left()
            if left <= 0:
                error = TimeoutError(f"{count} messages were not confirmed in time")
                raise described(error, self.connection, "sending")
            if self._channel.has_news(min(left, 1.0)):
                self._take_in(patience, counts=counts)

    def _take_in(self, patience: SendDeadline, *, counts: bool = True) -> None:
        count = len(self._unconfirmed)
        self._channel.take_in()
        if taken := count - len(self._unconfirmed):
            if counts:
                patience.taken(taken)
            self._confirmed_at = self._clock.monotonic()

    def _take_returned(self, parcels: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        if not self._returned:
            return []
        returned, self._returned = self._returned, set()
        return [parcel for parcel in parcels if parcel.task_id in returned]

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused += self._confirmed(tag, multiple)

    def _confirmed(self, tag: int, multiple: bool) -> list[OutgoingMessage]:
        """The parcels that the number is about, of which the broker says now that it has them."""
        if not multiple:
            parcel = self._unconfirmed.pop(tag, None)
            return [] if parcel is None else [parcel]
        tags = list(itertools.takewhile(lambda other: other <= tag, self._unconfirmed))
        return [self._unconfirmed.pop(other) for other in tags]
