"""The connections of a producer. What several threads send meanwhile goes over one of them together, and is confirmed together.

One message that is sent by itself costs a round trip, and on RabbitMQ a write to the broker's disk; 50 in one go cost little
more. So a thread that finds the connections in use leaves its messages to the next one that gets a connection.
"""

from __future__ import annotations

from collections.abc import Callable

from stem_kombu.concurrency import threads
from stem_kombu.errors import BrokerBlocked, BrokerRefused, BrokerUnavailable
from stem_kombu.transports.errors import broker_errors
from stem_kombu.transports.publisher import CHUNK, OutgoingMessage, PublisherConnection, SendDeadline

#: Messages of one call up to which they go together with those of others. More are a burst of their own.
_FEW = 50
#: Connections in use at a time for calls with few messages: while one waits for the broker, what comes meanwhile gathers.
_SHARED = 2


class _Call:
    """What one thread wants to send; what the broker has is taken out of ``parcels``."""

    __slots__ = ("alone", "connected", "failure", "is_few", "parcels", "turn")

    def __init__(self, parcels: list[OutgoingMessage]) -> None:
        self.parcels = parcels
        self.is_few = len(parcels) <= _FEW
        #: It has failed together with others: whose fault that was shows when it goes by itself.
        self.alone = False
        #: It has failed together with others, and would have failed by itself.
        self.failure: BrokerUnavailable | None = None
        #: It may use a connection, which was left to it.
        self.connected = False
        self.turn = threads.Lock()
        self.turn.acquire()


class PublisherPool:
    """At most ``limit`` connections, made by ``opener`` when they are needed. Safe to use from several threads."""

    def __init__(self, opener: Callable[[SendDeadline], PublisherConnection], limit: int) -> None:
        self._opener = opener
        self._limit = self._free = limit
        self._shared = 0
        self._lock = threads.Lock()
        self._waiting: list[_Call] = []
        self.idle: list[PublisherConnection] = []

    def send(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        """Return once the broker has all of them; what it has is taken out of ``parcels``.

        Raises what the driver raises, as a :class:`~stem_kombu.errors.BrokerError`. A connection that has failed is not used
        again, nor are those that were idle: what broke the one has broken the others."""
        call = _Call(parcels)
        while True:
            with self._lock:
                together = self._begun(call)
            if together is not None:
                try:
                    self._send(call, together, patience)
                except Exception as error:
                    if len(together) == 1 or (parcels and _is_everybodys(error)):
                        raise
                if not parcels:
                    return
                continue  # by itself
            self._wait(call, patience)
            if not parcels:
                return  # another thread has sent them
            if call.failure is not None:
                raise call.failure

    def close(self) -> None:
        """Let the connections go that are not in use. May be called twice."""
        with self._lock:
            idle, self.idle = self.idle, []
        for connection in idle:
            connection.close()

    def _begun(self, call: _Call) -> list[_Call] | None:
        """The calls that go now, if it may use a connection; else it waits. Under the lock."""
        if not call.connected:
            if not self._may_begin(call):
                self._waiting.append(call)
                return None
            self._begin(call)
        together, size = [call], len(call.parcels)
        if call.is_few and not call.alone:
            for other in [each for each in self._waiting if each.is_few and not each.alone]:
                if (size := size + len(other.parcels)) > CHUNK:
                    break
                self._waiting.remove(other)
                together.append(other)
        return together

    def _may_begin(self, call: _Call) -> bool:
        return self._free > 0 and (not call.is_few or self._shared < _SHARED)

    def _begin(self, call: _Call) -> None:
        self._free -= 1
        self._shared += call.is_few
        call.connected = True

    def _end(self, call: _Call) -> None:
        """Leave the connection to the next call that may use it. Under the lock."""
        self._free += 1
        self._shared -= call.is_few
        call.connected = False
        for other in self._waiting:
            if self._may_begin(other):
                self._waiting.remove(other)
                self._begin(other)
                other.turn.release()
                return

    def _wait(self, call: _Call, patience: SendDeadline) -> None:
        """Until it is its turn, or another thread has done with its messages."""
        try:
            if call.turn.acquire(timeout=max(0.0, patience.left())):
                return
            with self._lock:
                if call in self._waiting:
                    raise BrokerUnavailable(
                        f"all {self._limit} connections of the producer were busy until the deadline"
                    )
            # Another thread has them, or has just left a connection to it: its deadline is no later than one of a new call.
            call.turn.acquire()
        except BaseException:
            with self._lock:
                if call in self._waiting:
                    self._waiting.remove(call)
                elif call.connected:
                    self._end(call)
            raise

    def _send(self, call: _Call, together: list[_Call], patience: SendDeadline) -> None:
        parcels = call.parcels if len(together) == 1 else [parcel for each in together for parcel in each.parcels]
        failure: BrokerUnavailable | None = None
        try:
            self._publish(parcels, patience)
        except BrokerUnavailable as error:
            failure = error if _is_everybodys(error) else None
            raise
        finally:
            with self._lock:
                self._end(call)
            if len(together) > 1:
                left = {id(parcel) for parcel in parcels}
                for each in together:
                    each.parcels[:] = [parcel for parcel in each.parcels if id(parcel) in left]
                    each.alone = True
                for other in together[1:]:
                    other.failure = failure and type(failure)(str(failure), hint=failure.hint)
                    other.turn.release()

    def _publish(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        with self._lock:
            connection = self.idle.pop() if self.idle else None
        if connection is None:
            connection = self._opener(patience)
        try:
            connection.publish(parcels, patience)
        except BaseException as error:
            if isinstance(error, BrokerBlocked) and connection.outlives_alarms:
                with self._lock:
                    self.idle.append(connection)
                raise
            connection.close()
            self.close()
            with broker_errors(connection.connection, "sending"):
                raise
        with self._lock:
            self.idle.append(connection)


def _is_everybodys(error: Exception) -> bool:
    """Whether it is about the connection, and not about one of the messages or queues."""
    return isinstance(error, BrokerUnavailable) and not isinstance(error, BrokerRefused)
