"""What stands where the product meets Kombu: the same contracts, over the simulated broker.

Everything above is production code: listener, reception, outbox, consumer, client. What is doubled here has no decision in
it but those that drivers and brokers make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from stem_kombu.clock import Clock
from stem_kombu.control.protocol.codec import decode_reply
from stem_kombu.control.protocol.messages import Reply
from stem_kombu.errors import BadMessage, BrokerError, BrokerUnavailable
from stem_kombu.transports import names
from tests.faults.history import Event
from tests.simulation.kernel import KERNEL
from tests.simulation.services import Broker, Message
from tests.simulation.threads import FDS

#: Seconds until somebody notices that a connection hears nothing any more (HEARING_CHECK and what follows, shortened).
_HALF_OPEN = 4.0


class Lost(ConnectionError):
    """What the driver raises for a connection that is gone."""


class Template:
    """An unconnected Kombu connection of one process."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        driver = "redis" if broker.leases else "amqp"
        self.transport = SimpleNamespace(driver_type=driver, implements=SimpleNamespace(asynchronous=False))

    def clone(self) -> TaskConnection:
        return TaskConnection(self.broker, self.transport.driver_type)

    def release(self) -> None:
        """It was never connected."""


# -- tasks ----------------------------------------------------------------------------------------------------------------


class TaskConnection:
    """A Kombu connection that tasks come over, as :mod:`stem_kombu.worker.consumer` uses one."""

    connection_errors = (Lost,)
    channel_errors: tuple[type[Exception], ...] = ()

    def __init__(self, broker: Broker, driver: str) -> None:
        self.broker = broker
        self.connected = self.lost = self.consuming = self.poked = False
        self.prefetch = 0
        self.held = 0
        self.on_message: Callable[[Message], None] = lambda message: None
        self.reader: Any = None
        self.process = KERNEL.thread.process
        self.connection = None
        self.default_channel = self
        self.transport = SimpleNamespace(driver_type=driver, implements=SimpleNamespace(asynchronous=False))

    def open(self) -> None:
        self.broker.net.reach("broker", BrokerUnavailable)
        self.connected = True
        self.broker.consumers.append(self)
        self.process.on_exit.append(self.vanish)

    def poke(self) -> None:
        self.poked = True
        if self.reader is not None:
            KERNEL.wake(self.reader)

    def vanish(self) -> None:
        """The process at this end is gone; the broker notices sooner or later."""
        if self in self.broker.consumers:
            self.broker.consumers.remove(self)
            KERNEL.at(KERNEL.draw() ** 2 * 2.0, lambda: self.broker.connection_lost(self))

    def drop(self) -> None:
        """The network has lost it: both ends notice, the broker at once."""
        self.lost = True
        self.consuming = False
        if self in self.broker.consumers:
            self.broker.consumers.remove(self)
        self.broker.connection_lost(self)
        self.poke()

    def release(self) -> None:
        if self.connected:
            self.connected = False
            if self in self.broker.consumers:
                self.broker.consumers.remove(self)
            self.broker.connection_lost(self)

    @property
    def is_cut(self) -> bool:
        net = self.broker.net
        return self.lost or bool((net.down or net.cut) and net.broken("broker", self.process))

    def _check(self) -> None:
        if self.is_cut:
            raise Lost("connection lost")

    # -- as AMQP does --

    def is_due(self) -> bool:
        return self.consuming and self.held < self.prefetch and bool(self.broker.ready)

    def basic_ack(self, tag: int) -> None:
        self._check()
        self.held -= 1
        self.broker.acknowledge(tag, self)

    def basic_reject(self, tag: int, requeue: bool) -> None:
        self._check()
        self.held -= 1
        if requeue:
            self.broker.give_back(tag)
        else:
            self.broker.acknowledge(tag, self)


class TaskConsumers:
    """:class:`stem_kombu.transports.queues.TaskConsumers` on a task connection."""

    def __init__(self, channel: TaskConnection, queues: Sequence[Any], arrived: Callable[[Message], None]) -> None:
        self._channel = channel
        channel.on_message = arrived

    def consume(self) -> None:
        self._channel.consuming = True

    def cancel(self) -> None:
        self._channel.consuming = False

    def qos(self, prefetch_count: int, apply_global: bool) -> None:
        self._channel.prefetch = prefetch_count


class Source:
    """:class:`stem_kombu.transports.redis.consumer.RedisSource`: bursts of messages under leases."""

    sweep_interval = 1.0
    gather = 0.0005
    pushes = False

    def settled(self, tag: int) -> None:
        """Nothing is counted here."""

    def __init__(self, connection: TaskConnection) -> None:
        self._connection = connection
        self._broker = connection.broker

    def take(self, room: int, acknowledged: Sequence[int] = ()) -> list[Message]:
        connection, broker = self._connection, self._broker
        connection._check()
        if KERNEL.draw() < 0.2:
            KERNEL.block(KERNEL.draw() * 0.01)
            connection._check()
        for tag in acknowledged:
            broker.acknowledge(tag, connection)
        found = []
        while room > len(found) and (message := broker.take(connection)) is not None:
            found.append(message)
        return found

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        connection = self._connection
        connection._check()
        end = FDS[wake]
        if not end.readable and not (more and self._comes_soon()):
            me = connection.reader = KERNEL.thread
            end.watchers.append(me)
            KERNEL.block(timeout)
            connection.reader = None
            if me in end.watchers:
                end.watchers.remove(me)
        connection.poked = False

    def _comes_soon(self) -> bool:
        return self._connection.poked or bool(self._broker.ready)

    def rest(self) -> None:
        self._connection._check()

    def sweep(self) -> None:
        self._broker.sweep()

    def close(self) -> None:
        """Nothing has landed here."""


class PushedSource(Source):
    """:class:`stem_kombu.transports.amqp.consumer.AmqpSource`: messages that the broker pushes, up to the prefetch count."""

    pushes = True

    def __init__(self, connection: TaskConnection) -> None:
        super().__init__(connection)
        self._arrived: list[Message] = []

    @property
    def is_cut(self) -> bool:
        return self._connection.is_cut

    def arrived(self, message: Message) -> None:
        self._arrived.append(message)

    def take(self, room: int, acknowledged: Sequence[int] = ()) -> list[Message]:
        connection = self._connection
        connection._check()
        for tag in acknowledged:
            connection.basic_ack(tag)
        while connection.is_due() and (message := self._broker.take(connection)) is not None:
            connection.held += 1
            connection.on_message(message)
        messages, self._arrived = self._arrived, []
        return messages

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        super().wait(wake, timeout, more=True)

    def _comes_soon(self) -> bool:
        return self._connection.poked or self._connection.is_due()


class Leasing:
    """Leases of the simulated broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.lifetime = broker.LIFETIME

    def renew(self, handles: Sequence[Message], seconds: float | None = None) -> list[bool]:
        self._broker.net.reach("broker", BrokerUnavailable)
        return [self._broker.renew(handle.delivery_tag, seconds or self.lifetime) for handle in handles]

    def close(self) -> None:
        """Nothing to let go."""


def connect(connection: TaskConnection, timeout: float) -> None:
    connection.open()


def give_back(connection: TaskConnection, tag: int) -> None:
    connection.basic_reject(tag, requeue=True)


# -- control --------------------------------------------------------------------------------------------------------------


class Ear:
    """:class:`stem_kombu.control.server.subscription.ControlSubscription`: hears broadcasts and an inbox.

    It knows when it is deaf, after a while."""

    errors = (BrokerError,)

    def __init__(
        self, template: Template, namespace: str, worker: str, *, fanout: bool,
        receive: Callable[[bytes, Callable[[str, bytes], None]], None], garbage: Callable[[str, str], None],
        later: Callable[[str, bytes], None], hearing_check: float, pipe: Any, clock: Clock,
    ) -> None:  # fmt: skip
        self._broker = template.broker
        self._inbox = self._broker.queue(names.inbox_name(namespace, worker))
        self._receive = receive
        self._proven = self._lost = self._woken = self._wired = False
        self._broadcasts: list[bytes] = []
        self._reader: Any = None
        self._process = KERNEL.thread.process
        self.deaf_since: float | None = None

    def open(self) -> None:
        self._broker.net.reach("broker", BrokerUnavailable)
        self._wired = True
        self._process.on_exit.append(self._forget)

    def wake(self) -> None:
        self._woken = True
        self._poke()

    def hear(self, body: bytes) -> None:
        if self.deaf_since is None:
            self._broadcasts.append(body)
            self._poke()

    def drop(self) -> None:
        self._lost = True
        self._poke()

    def listen(self) -> bool:
        if not self._proven:
            self._check()
            self._broker.ears[self] = True
            if KERNEL.draw() < 0.3:
                KERNEL.block(KERNEL.draw() * 0.1)  # its message to itself is on its way
            self._proven = True
            return True
        self._check()
        if self._broadcasts:
            self._receive(self._broadcasts.pop(0), self._say)
        elif self.deaf_since is None and (body := self._inbox.take()) is not None:
            self._receive(body, self._say)
        elif not self._woken:
            me = KERNEL.thread
            self._reader = me
            self._inbox.reader = me
            KERNEL.block(None if self.deaf_since is None else 0.5)
            self._reader = None
            if self._inbox.reader is me:
                self._inbox.reader = None
        self._woken = False
        return False

    def close(self, *, gracefully: bool) -> None:
        self._forget()

    def _check(self) -> None:
        net = self._broker.net
        if self.deaf_since is not None and KERNEL.now - self.deaf_since > _HALF_OPEN:
            raise BrokerUnavailable("this worker does not hear what it says to itself")
        if self._lost or ((net.down or net.cut) and net.broken("broker", self._process)):
            raise BrokerUnavailable("connection lost")

    def _say(self, reply_to: str, body: bytes) -> None:
        self._broker.net.reach("broker", BrokerUnavailable)
        self._broker.send(reply_to, body, 60.0)

    def _poke(self) -> None:
        if self._reader is not None:
            KERNEL.wake(self._reader)

    def _forget(self) -> None:
        self._broker.ears.pop(self, None)


class Voice:
    """The connection of :class:`stem_kombu.control.server.reply_publisher.ReplyPublisher`."""

    patience = None  # a simulated broker wants no heartbeats

    def __init__(self, template: Template, clock: Clock) -> None:
        self._broker = template.broker
        self.speaker = self
        self._broker.net.reach("broker", BrokerUnavailable)

    def listen(self) -> None:
        """The broker says nothing here."""

    def reply(self, reply_to: str, body: bytes) -> None:
        self._broker.net.reach("broker", BrokerUnavailable)
        self._broker.send(reply_to, body, 60.0)

    def beat(self, beat: Any) -> None:
        """Nobody follows."""

    def close(self) -> None:
        """Nothing to let go."""


class Mailbox:
    """:class:`stem_kombu.control.client.connection.Mailbox`: a client's inbox and its way to the workers."""

    def __init__(
        self, template: Template, namespace: str, *, timeout: float, clock: Clock, keyring: Any = None
    ) -> None:
        self._broker = template.broker
        self._namespace = namespace
        self._clock = clock
        self.untrusted: dict[str, int] = {}
        self._broker.net.reach("broker", BrokerUnavailable, patience=timeout)
        self.until = float("inf")
        self.reply_to = names.reply_name(namespace, f"{KERNEL.draw():.12f}")
        self._queue = self._broker.queue(self.reply_to)
        self.process = KERNEL.thread.process
        self.used_at = clock.monotonic()

    fans_out = True

    def broadcast(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        self._reach()
        self._note(body)
        self._broker.fan_out(body, expires)

    def send_to(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        self._reach()
        self._note(body)
        for worker in workers:
            self._broker.send(names.inbox_name(self._namespace, worker), body, expires)

    def listen(self, heard: Callable[[Reply], object], until: float) -> None:
        if self._broker.net.broken("broker", self.process):
            raise BrokerUnavailable("connection lost")
        if not self._queue.messages:
            left = until - self._clock.monotonic()
            if left <= 0:
                return
            self._queue.reader = KERNEL.thread
            KERNEL.block(left)
            self._queue.reader = None
        if (body := self._queue.take()) is not None:
            try:
                heard(decode_reply(body))
            except BadMessage:
                pass

    def close(self, *, broken: bool = False) -> None:
        """Nothing to let go."""

    def _reach(self) -> None:
        """The way to the broker, which is waited for until the command's deadline and a moment."""
        patience = max(0.05, self.until - self._clock.monotonic())
        self._broker.net.reach("broker", BrokerUnavailable, patience=patience)

    def _note(self, body: bytes) -> None:
        process = self.process
        for revocation in self._broker.revoking.get(body, ()):
            self._broker.history.add(
                Event(
                    "broadcast",
                    KERNEL.now,
                    process.name,
                    task=revocation.task_id,
                    version=revocation.version,
                    request=process.operation,
                )
            )


@contextmanager
def broker_errors(connection: Any, doing: str = "") -> Iterator[None]:
    yield
