"""What sends tasks: from several threads, confirmed by the broker, over a few connections that mend themselves.

A message counts as sent when the broker has said so: RabbitMQ's publisher confirm (a message that no queue took comes
back), Redis's reply, the embedded broker's commit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stem_kombu.broker.connections import CONNECT_TIMEOUT, backoff, broker_connection, connect
from stem_kombu.broker.encoding import CONTENT_ENCODING, CONTENT_TYPE, Envelope, encode_task
from stem_kombu.broker.failures import broker_errors, described, shown_url
from stem_kombu.broker.names import checked_queue_name
from stem_kombu.broker.queues import declared_task_queue
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import BrokerError, BrokerUnavailable
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage

if TYPE_CHECKING:
    from kombu import Connection

#: Seconds that one call may take, reconnecting included.
SEND_TIMEOUT = 10.0
#: Messages that are confirmed together: few enough to be sent again after a failure, many enough to hide round trips.
_CHUNK = 500


def open_producer(settings: Settings) -> TaskProducer:
    """A producer for the broker that the settings name; it connects when it first sends.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for a URL that can't be used.
    """
    broker_connection(settings)
    return TaskProducer(lambda: broker_connection(settings))


@dataclass(frozen=True, slots=True)
class _Parcel:
    queue: str
    envelope: Envelope


class TaskProducer:
    """Sends tasks. Safe to use from several threads, and after a fork; at most ``lines`` connections are open at once.

    A broken connection is replaced and what it left unconfirmed is sent again, within ``timeout`` seconds in all: a
    message may then arrive twice, under the same id, but none that was accepted is missing. A broker that could never
    be reached is reported at once.
    """

    def __init__(
        self,
        connection_factory: Callable[[], Connection],
        *,
        lines: int = 4,
        timeout: float = SEND_TIMEOUT,
        clock: Clock = SYSTEM,
    ) -> None:
        self._factory = connection_factory
        self._limit = lines
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[_Line] = []
        self._reset()

    def send(self, message: TaskMessage) -> None:
        """Return once the broker has the message.

        Raises :class:`~stem_kombu.errors.ConfigurationError` for arguments that JSON can't hold or a bad queue name,
        and :class:`~stem_kombu.errors.BrokerUnavailable` when the broker did not take it in time.
        """
        self.send_many([message])

    def send_many(self, messages: Iterable[TaskMessage]) -> int:
        """How many messages the broker now has: all of them. Much faster than one by one.

        All are checked before the first is sent. When the broker fails half-way, the error says how many it has taken.
        """
        parcels = [_Parcel(checked_queue_name(message.queue), encode_task(message)) for message in messages]
        deadline = self._clock.monotonic() + self._timeout
        for start in range(0, len(parcels), _CHUNK):
            try:
                self._deliver(parcels[start : start + _CHUNK], deadline)
            except BrokerError as error:
                if len(parcels) > 1:
                    raise type(error)(
                        f"{error} ({start} of {len(parcels)} messages were sent)", hint=error.hint
                    ) from error
                raise
            deadline = self._clock.monotonic() + self._timeout
        return len(parcels)

    def close(self) -> None:
        """Let the connections go. May be called twice; the next send connects again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _deliver(self, parcels: Sequence[_Parcel], deadline: float) -> None:
        failures = 0
        while True:
            try:
                with self._line(deadline) as line:
                    line.publish(parcels, deadline)
                return
            except BrokerUnavailable:
                failures += 1
                wait = backoff(failures, longest=1.0)
                if not self._ever_connected or self._clock.monotonic() + wait >= deadline:
                    raise
                self._clock.sleep(wait)

    @contextmanager
    def _line(self, deadline: float) -> Iterator[_Line]:
        """A connection for this thread alone; a broken one is not used again."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    # The parent's sockets. Closing them properly would say goodbye in the parent's name.
                    _inherited.extend(self._idle)
                    self._reset()
        slots = self._slots
        if not slots.acquire(timeout=max(0.0, deadline - self._clock.monotonic())):
            raise BrokerUnavailable(f"all {self._limit} connections of the producer were busy for {self._timeout:g} s")
        try:
            with self._lock:
                line = self._idle.pop() if self._idle else None
            if line is None:
                line = self._opened(deadline)
            try:
                with broker_errors(line.connection, "sending"):
                    yield line
            except BaseException:
                line.close()
                self.close()  # the others have been idle for longer, and what broke this one has broken them
                raise
            with self._lock:
                self._idle.append(line)
        finally:
            slots.release()

    def _opened(self, deadline: float) -> _Line:
        connection = self._factory()
        # Nobody ticks between two sends, and a broker that expects heartbeats would hang up on an idle producer.
        connection.heartbeat = 0
        amqp = connection.transport.driver_type == "amqp"
        if amqp:
            # Confirms are awaited here, for many messages at once, instead of after each.
            connection.transport_options = {**(connection.transport_options or {}), "confirm_publish": False}
        connect(connection, max(0.1, min(CONNECT_TIMEOUT, deadline - self._clock.monotonic())))
        self._ever_connected = True
        with broker_errors(connection):
            return _ConfirmingLine(connection, self._clock) if amqp else _Line(connection, self._clock)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle = []
        self._slots = threading.BoundedSemaphore(self._limit)
        self._ever_connected = False


#: Connections of the parent that a forked child must neither use nor close.
_inherited: list[_Line] = []


class _Line:
    """One connection, used by one thread at a time."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        from kombu import Producer

        self.connection = connection
        self._clock = clock
        self._declared: set[str] = set()
        self._producer = Producer(connection.default_channel, auto_declare=False)

    def publish(self, parcels: Sequence[_Parcel], deadline: float) -> None:
        """Return once the broker has all of them; raises what the driver raises."""
        self._declare(parcels)
        if len(parcels) == 1:
            self._put(parcels[0])
            return
        with self._producer.batch(max_size=_CHUNK):  # one pipeline on Redis; elsewhere the same as one by one
            for parcel in parcels:
                self._put(parcel)

    def close(self) -> None:
        try:
            self.connection.release()
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            _log_close(self.connection, error)

    def _declare(self, parcels: Sequence[_Parcel]) -> None:
        for queue in {parcel.queue for parcel in parcels} - self._declared:
            declared_task_queue(self.connection, queue)
            self._declared.add(queue)

    def _put(self, parcel: _Parcel, **more: Any) -> None:
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


class _ConfirmingLine(_Line):
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

    def publish(self, parcels: Sequence[_Parcel], deadline: float) -> None:
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

    def _publish_confirmed(self, parcels: Sequence[_Parcel], deadline: float) -> None:
        for parcel in parcels:
            self._published += 1
            self._unconfirmed.add(self._published)
            self._put(parcel, mandatory=True, timeout=max(0.1, deadline - self._clock.monotonic()))
        while self._unconfirmed:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                error = TimeoutError(f"{len(self._unconfirmed)} messages were not confirmed in time")
                raise described(error, shown_url(self.connection), "sending")
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
