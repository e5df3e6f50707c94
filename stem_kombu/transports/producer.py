"""What sends tasks: from several threads, confirmed by the broker, over a few connections that mend themselves.

A message counts as sent when the broker has said so: RabbitMQ's publisher confirm (a message that no queue took comes
back), Redis's reply, the embedded broker's commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.drivers import forking
from stem_kombu.errors import BrokerBlocked, BrokerError, BrokerRefused, BrokerUnavailable, ConfigurationError
from stem_kombu.messages.encoding import Envelope, encode_task
from stem_kombu.messages.resending import resent
from stem_kombu.messages.signatures import task_signer
from stem_kombu.send_retries import SendRetries
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from stem_kombu.transports.confirms import without_confirms
from stem_kombu.transports.connections import backoff, broker_connection
from stem_kombu.transports.existing import beside
from stem_kombu.transports.names import checked_queue_name
from stem_kombu.transports.publisher import OutgoingMessage, PublisherConnection, SendDeadline
from stem_kombu.transports.publisher_pool import PublisherPool
from stem_kombu.transports.registry import open_transport
from stem_kombu.transports.send_measures import SENT

if TYPE_CHECKING:
    from kombu import Connection


def open_producer(settings: Settings, connection: object = None, *, confirms: bool = True) -> TaskProducer:
    """A producer for the broker that the settings name, or for that of ``connection``, which is cloned
    (:func:`~stem_kombu.transports.existing.beside`). It connects when it first sends. Without ``confirms`` it does not wait
    until RabbitMQ has confirmed what it sends; nothing changes on other brokers.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for a URL that can't be used and for incomplete signing settings,
    and :class:`~stem_kombu.signing.keyring.Untrusted` where tasks are signed by a key that may not send.
    """
    factory: Callable[[], Connection] = partial(broker_connection, settings)
    if connection is not None:
        factory = beside(connection, settings).clone
    else:
        factory().release()  # a transport has its poller on Redis from the beginning
    if not confirms:
        factory = partial(_without_confirms, factory)
    return TaskProducer(factory, sign=task_signer(settings.signing), generic=settings.transport == "generic")


def _without_confirms(factory: Callable[[], Connection]) -> Connection:
    return without_confirms(factory())


def open_resender(template: Connection, settings: Settings) -> TaskProducer:
    """A producer for the broker of that connection, which is cloned and never used itself: what a worker sends again goes
    to where it came from, whatever broker the settings name. Raises as :func:`open_producer`."""
    return TaskProducer(
        template.clone, sign=task_signer(settings.signing), insists=False, generic=settings.transport == "generic"
    )


class TaskProducer:
    """Sends tasks. Safe to use from several threads, and after a fork; at most ``lines`` connections are open at once.

    A broken connection is replaced and what it left unconfirmed is sent again, within ``timeout`` seconds in all: a
    message may then arrive twice, under the same id, but none that was accepted is missing. A broker that could never
    be reached is reported at once, and one under a resource alarm after a few seconds. Without ``insists`` a failure is
    repeated once, for a connection that was closed while it was idle, and no more. ``generic``: see
    :func:`~stem_kombu.transports.registry.open_transport`.
    """

    def __init__(
        self,
        connection_factory: Callable[[], Connection],
        *,
        lines: int = 4,
        timeout: float = timeouts.SEND,
        clock: Clock = SYSTEM,
        sign: Callable[[str, Envelope], Envelope] | None = None,
        insists: bool = True,
        generic: bool = False,
    ) -> None:
        self._generic = generic
        self._sign = sign
        self._insists = insists
        self._factory = connection_factory
        self._limit = lines
        self._timeout = timeout
        self._clock = clock
        forking.renew_in_children(self)
        self._reset()

    def send(self, message: TaskMessage) -> None:
        """Return once the broker has the message.

        Raises :class:`~stem_kombu.errors.ConfigurationError` for arguments that JSON can't hold or a bad queue name,
        and :class:`~stem_kombu.errors.BrokerUnavailable` when the broker did not take it in time.
        """
        self.send_many([message])

    def send_many(self, messages: Iterable[TaskMessage], retries: SendRetries | None = None) -> int:
        """How many messages the broker now has: all of them. Much faster than one by one.

        All are checked before the first is sent. When the broker fails half-way, the error says how many it has taken, and
        names the others in ``unconfirmed``: it may have these as well, or not. ``timeout`` is for each 500 messages. With
        ``retries`` these decide about further tries, each of which has ``timeout`` seconds.
        """
        parcels = [self._parcel(message) for message in messages]
        count = len(parcels)
        if not count:
            return 0
        try:
            with SENT.measured([parcel.queue for parcel in parcels]) if SENT.is_on else nullcontext():
                self._deliver(parcels, retries)
        except BrokerError as error:
            if count > 1:
                said = f"{error} ({count - len(parcels)} of {count} messages were sent)"
                named = type(error)(said, hint=error.hint)
                named.unconfirmed = tuple(parcel.task_id for parcel in parcels)
                raise named from error
            error.unconfirmed = (parcels[0].task_id,)
            raise
        return count

    def close(self) -> None:
        """Let the connections go. May be called twice; the next send connects again."""
        self._pool.close()

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`."""
        # The parent's sockets. Closing them properly would say goodbye in the parent's name.
        _inherited.extend(self._pool.idle)
        self._reset()

    def _parcel(self, message: TaskMessage) -> OutgoingMessage:
        queue, original = checked_queue_name(message.queue), message.original
        envelope = encode_task(message) if original is None else resent(message, original)
        # In the fleet's name a worker signs only what somebody had signed: else it would do so for whoever can send at all.
        signs = self._sign if original is None or original.signed else None
        publishing = message.publishing
        if signs is None:
            return OutgoingMessage(queue, envelope, publishing)
        if publishing is not None and publishing.exchange and queue == (publishing.routing_key or publishing.exchange):
            raise ConfigurationError(
                f"task {message.name!r} goes to exchange {publishing.exchange!r}, and its signature covers the queue",
                hint="give queue= as well: the name of the one queue that is to take it",
            )
        return OutgoingMessage(queue, signs(queue, envelope), publishing)

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _deliver(self, parcels: list[OutgoingMessage], retries: SendRetries | None) -> None:
        """Send all of them; what the broker has is taken out of ``parcels``."""
        failures, patience = 0, SendDeadline(self._timeout, self._clock)
        while True:
            try:
                self._pool.send(parcels, patience)
                return
            except BrokerBlocked:
                raise  # it has been waited for, and what is sent to a broker under an alarm may arrive later
            except BrokerRefused:
                raise  # so would it be next time
            except BrokerUnavailable as error:
                failures += 1
                wait = self._wait_after(failures, patience) if retries is None else retries.wait_after(failures)
                if wait is None:
                    raise
                if retries is not None:
                    _log_retry(error, failures, wait, len(parcels))
            self._clock.sleep(wait)
            if retries is not None:
                patience = SendDeadline(self._timeout, self._clock)

    def _wait_after(self, failures: int, patience: SendDeadline) -> float | None:
        """Seconds before the next try, where the sender has not said how it is to be tried again; ``None``: no further one."""
        # At once after the first: it may be that of a connection which the server closed while it was idle.
        wait = backoff(failures - 1, longest=1.0) if failures > 1 else 0.0
        if not self._ever_connected or wait >= patience.left() or not (self._insists or failures == 1):
            return None
        return wait

    def _opened(self, patience: SendDeadline) -> PublisherConnection:
        template = self._factory()
        try:
            transport = open_transport(template, generic=self._generic)
            line = transport.publisher(max(0.1, min(timeouts.BROKER_CONNECT, patience.left())), clock=self._clock)
        finally:
            template.release()  # which has its poller on Redis from the beginning
        self._ever_connected = True
        return line

    def _reset(self) -> None:
        self._pool = PublisherPool(self._opened, self._limit)
        self._ever_connected = False


#: Connections of the parent that a forked child must neither use nor close.
_inherited: list[PublisherConnection] = []


def _log_retry(error: BrokerUnavailable, failures: int, wait: float, count: int) -> None:
    """A sender that retries for minutes is not silent: a line for the tries 1, 2, 4, 8 …"""
    if failures & (failures - 1):
        return
    import logging

    logging.getLogger(__name__).warning(
        "sending %s waits for the broker: try %d failed, the next follows in %.2g s: %s",
        "a task" if count == 1 else f"{count} tasks",
        failures,
        wait,
        error,
    )
