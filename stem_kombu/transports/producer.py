"""What sends tasks: from several threads, confirmed by the broker, over a few connections that mend themselves.

A message counts as sent when the broker has said so: RabbitMQ's publisher confirm (a message that no queue took comes
back), Redis's reply, the embedded broker's commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.drivers import forking
from stem_kombu.errors import BrokerBlocked, BrokerError, BrokerRefused, BrokerUnavailable
from stem_kombu.messages.encoding import Envelope, encode_task
from stem_kombu.messages.resending import resent
from stem_kombu.messages.signatures import task_signer
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from stem_kombu.transports.connections import CONNECT_TIMEOUT, backoff, broker_connection
from stem_kombu.transports.errors import broker_errors
from stem_kombu.transports.names import checked_queue_name
from stem_kombu.transports.publisher import OutgoingMessage, PublisherConnection, SendDeadline
from stem_kombu.transports.registry import open_transport

if TYPE_CHECKING:
    from kombu import Connection

#: Seconds that one call may take, reconnecting included.
SEND_TIMEOUT = 10.0


def open_producer(settings: Settings) -> TaskProducer:
    """A producer for the broker that the settings name; it connects when it first sends.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for a URL that can't be used and for incomplete signing settings,
    and :class:`~stem_kombu.signing.keyring.Untrusted` where tasks are signed by a key that may not send.
    """
    broker_connection(settings).release()  # a transport has its poller on Redis from the beginning
    return TaskProducer(
        lambda: broker_connection(settings), sign=task_signer(settings.signing), generic=settings.transport == "generic"
    )


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
        timeout: float = SEND_TIMEOUT,
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
        self._lock = threading.Lock()
        forking.renew_in_children(self)
        self._idle: list[PublisherConnection] = []
        self._reset()

    def send(self, message: TaskMessage) -> None:
        """Return once the broker has the message.

        Raises :class:`~stem_kombu.errors.ConfigurationError` for arguments that JSON can't hold or a bad queue name,
        and :class:`~stem_kombu.errors.BrokerUnavailable` when the broker did not take it in time.
        """
        self.send_many([message])

    def send_many(self, messages: Iterable[TaskMessage]) -> int:
        """How many messages the broker now has: all of them. Much faster than one by one.

        All are checked before the first is sent. When the broker fails half-way, the error says how many it has taken, and
        names the others in ``unconfirmed``: it may have these as well, or not. ``timeout`` is for each 500 messages.
        """
        parcels = [self._parcel(message) for message in messages]
        count = len(parcels)
        if not count:
            return 0
        try:
            self._deliver(parcels, SendDeadline(self._timeout, self._clock))
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
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`."""
        self._lock = threading.Lock()
        # The parent's sockets. Closing them properly would say goodbye in the parent's name.
        _inherited.extend(self._idle)
        self._reset()

    def _parcel(self, message: TaskMessage) -> OutgoingMessage:
        queue, original = checked_queue_name(message.queue), message.original
        envelope = encode_task(message) if original is None else resent(message, original)
        # In the fleet's name a worker signs only what somebody had signed: else it would do so for whoever can send at all.
        signs = self._sign if original is None or original.signed else None
        return OutgoingMessage(queue, envelope if signs is None else signs(queue, envelope))

    # -- lines ---------------------------------------------------------------------------------------------------------

    def _deliver(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        """Send all of them; what the broker has is taken out of ``parcels``."""
        failures = 0
        while True:
            try:
                self._send_by_a_line(parcels, patience)
                return
            except BrokerBlocked:
                raise  # it has been waited for, and what is sent to a broker under an alarm may arrive later
            except BrokerRefused:
                raise  # so would it be next time
            except BrokerUnavailable:
                # At once after the first: it may be that of a connection which the server closed while it was idle.
                wait = backoff(failures, longest=1.0) if failures else 0.0
                failures += 1
                if not self._ever_connected or wait >= patience.left() or not (self._insists or failures == 1):
                    raise
                self._clock.sleep(wait)

    def _send_by_a_line(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        """By a connection that is this thread's alone meanwhile; a broken one is not used again."""
        slots = self._slots
        if not slots.acquire(timeout=max(0.0, patience.left())):
            raise BrokerUnavailable(f"all {self._limit} connections of the producer were busy for {self._timeout:g} s")
        try:
            with self._lock:
                line = self._idle.pop() if self._idle else None
            if line is None:
                line = self._opened(patience)
            try:
                line.publish(parcels, patience)
            except BaseException:
                line.close()
                self.close()  # the others have been idle for longer, and what broke this one has broken them
                with broker_errors(line.connection, "sending"):
                    raise
            with self._lock:
                self._idle.append(line)
        finally:
            slots.release()

    def _opened(self, patience: SendDeadline) -> PublisherConnection:
        template = self._factory()
        try:
            transport = open_transport(template, generic=self._generic)
            line = transport.publisher(max(0.1, min(CONNECT_TIMEOUT, patience.left())), clock=self._clock)
        finally:
            template.release()  # which has its poller on Redis from the beginning
        self._ever_connected = True
        return line

    def _reset(self) -> None:
        self._idle = []
        self._slots = threading.BoundedSemaphore(self._limit)
        self._ever_connected = False


#: Connections of the parent that a forked child must neither use nor close.
_inherited: list[PublisherConnection] = []
