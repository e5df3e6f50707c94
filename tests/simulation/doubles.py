"""What stands where the product meets Kombu: the same contracts, over the simulated broker.

Everything above is production code: listener, reception, outbox, consumer, client. What is doubled here has no decision in
it but those that drivers and brokers make.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import kombu
import kombu.transport
import kombu.transport.base

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.control.protocol.messages import Revoke
from stem_kombu.errors import BrokerError, BrokerUnavailable
from stem_kombu.transports.base import Capabilities, GivenBack, ScheduledMessages
from stem_kombu.transports.control_link import Addresses, ControlMessage, MessageKind, Received
from stem_kombu.transports.publisher import OutgoingMessage, SendDeadline
from stem_kombu.transports.registry import register_transport
from tests.faults.history import Event
from tests.simulation.kernel import KERNEL
from tests.simulation.services import Broker, Message, own_url
from tests.simulation.threads import FDS


class Lost(ConnectionError):
    """What the driver raises for a connection that is gone."""


class KombuTransport(kombu.transport.base.Transport):  # type: ignore[misc] # Kombu has no annotations
    """What Kombu is told of the simulated broker, which never connects by it."""

    driver_type = driver_name = "simulated"


#: The broker of the schedule that runs.
_BROKER: list[Broker] = []


def enter(broker: Broker) -> None:
    _BROKER[:] = [broker]


def register() -> None:
    """Make Kombu and production know the scheme ``simulated://``, as a plug-in does."""
    kombu.transport.TRANSPORT_ALIASES["simulated"] = f"{__name__}:{KombuTransport.__name__}"
    register_transport("simulated", Transport)


# -- tasks ----------------------------------------------------------------------------------------------------------------


class TaskConnection:
    """A connection that tasks come over."""

    def __init__(self, broker: Broker, queues: Sequence[str]) -> None:
        self.broker = broker
        #: All of its queues, and those that are not paused.
        self.queues = self.flowing = tuple(queues)
        self.connected = self.lost = self.consuming = self.poked = False
        self.prefetch = 0
        self.held = 0
        self.reader: Any = None
        self.process = KERNEL.thread.process
        #: Messages that came over it, and the broker's numbers of those that are not settled, by their tags.
        self._came = 0
        self._unsettled: dict[int, int] = {}

    def open(self) -> None:
        self.broker.net.reach("broker", BrokerUnavailable)
        self.connected = True
        for queue in self.queues:
            self.broker.declare(queue)
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
        return self.consuming and self.held < self.prefetch and self.broker.has_any(self.flowing)

    def take(self) -> Message | None:
        return self.broker.take(self.flowing, self)

    def tag(self, message: Message) -> Message:
        """The message with a tag of this connection's own: they begin with 1 over each."""
        self._came += 1
        self._unsettled[self._came] = message.delivery_tag
        message.delivery_tag = self._came
        return message

    def _settles(self, tag: int) -> int:
        """The broker's number of the message of that tag. What did not come over this connection, or is settled, can't be
        settled: RabbitMQ then closes the channel."""
        if self.broker.leases:
            return tag
        number = self._unsettled.pop(tag, None)
        if number is None:
            self.drop()
            raise Lost(f"PRECONDITION_FAILED - unknown delivery tag {tag}")
        return number

    def basic_ack(self, tag: int) -> None:
        self._check()
        self.broker.acknowledge(self._settles(tag), self)
        self.held -= 1

    def basic_reject(self, tag: int, requeue: bool) -> None:
        self._check()
        number = self._settles(tag)
        self.held -= 1
        if requeue:
            self.broker.give_back(number)
        else:
            self.broker.acknowledge(number, self)


class Transport:
    """:class:`stem_kombu.transports.base.Transport` over the simulated broker."""

    errors = (BrokerError, Lost)

    def __init__(self, template: object, **_: bool) -> None:
        self._broker = _BROKER[0]
        self._template = template
        self.name = "simulated"
        self.url = own_url("simulated")
        self.capabilities = Capabilities(
            counts=True, longest_hold=None if self._broker.leases else timeouts.AMQP_LONGEST_HOLD
        )

    def consumer(
        self, queues: Sequence[str], *, clock: Clock, unreadable: Callable[[Exception], None] | None = None
    ) -> Source:
        connection = TaskConnection(self._broker, queues)
        connection.open()
        return (Source if self._broker.leases else PushedSource)(connection)

    def declare(self, declarations: Sequence[Any]) -> None:
        self._reach()
        for queue in declarations:
            if isinstance(queue, kombu.Queue):
                self._broker.declare(queue.name)

    def adapts_to(self, error: BaseException) -> bool:
        return False

    def refusal(self, error: BaseException) -> None:
        return None

    def control(self, *, clock: Clock) -> ControlLink:
        return ControlLink(self._broker)

    def leases(self) -> Leases | None:
        return Leases(self._broker) if self._broker.leases else None

    def publisher(self, timeout: float, *, clock: Clock) -> Publisher:
        return Publisher(self._broker, self._template)

    def browser(self) -> Browser:
        return Browser(self._broker)

    def depths(self) -> Depths:
        return Depths(self._broker)

    def purge(self, queue: str) -> int:
        self._reach()
        purged = self._broker.purge(queue)
        self._reach()
        return purged

    def refuse_unfit(self) -> None:
        """It loses nothing."""

    def check(self, queues: Callable[[], Sequence[str]]) -> list[str]:
        self._reach()
        return []

    def give_back_held(self, wait: float = 0.0) -> GivenBack:
        self._reach()
        broker = self._broker
        if not broker.leases:
            return GivenBack(self.name, note="what a lost connection held is back already")
        returned, until = broker.sweep(), KERNEL.now + wait
        while broker.held and (left := until - KERNEL.now) > 0:
            KERNEL.sleep(min(left, Source.sweep_interval))
            returned += broker.sweep()
        return GivenBack(self.name, returned, leased=len(broker.held), lease=broker.LIFETIME)

    def has_dead_letters(self, queue: str) -> bool:
        return False

    def unused_life(self, queue: str) -> None:
        """A queue stays."""

    def housekeeping(self, namespace: str, worker: str) -> NothingLeft:
        return NothingLeft()

    def _reach(self) -> None:
        self._broker.net.reach("broker", BrokerUnavailable)


class Publisher:
    """:class:`stem_kombu.transports.publisher.PublisherConnection` of the simulated broker."""

    def __init__(self, broker: Broker, connection: object) -> None:
        self._broker, self.connection = broker, connection

    def publish(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        while parcels:
            self._broker.net.reach("broker", BrokerUnavailable)
            parcel = parcels[0]
            self._broker.publish(parcel.queue, parcel.envelope)
            self._broker.net.reach("broker", BrokerUnavailable)
            del parcels[0]

    def close(self) -> None:
        """Nothing is open."""


class Browser:
    """:class:`stem_kombu.transports.base.QueueBrowser` of the simulated broker, which tells some messages at a time."""

    _PAGE = 500

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def queues(self) -> list[str]:
        self._reach()
        return sorted(self._broker.ready)

    def first(self, queue: str, limit: int) -> list[Message]:
        self._reach()
        return [message for _, message in self._broker.waits_after(queue, -sys.maxsize, limit)]

    def search(self, queue: str) -> Iterator[Message]:
        number = -sys.maxsize
        while True:
            self._reach()
            page = self._broker.waits_after(queue, number, self._PAGE)
            if not page:
                return
            yield from (message for _, message in page)
            number = page[-1][0]

    def close(self) -> None:
        """Nothing is open."""

    def _reach(self) -> None:
        self._broker.net.reach("broker", BrokerUnavailable)


class Depths:
    """Counting is no fault's aim: it neither waits nor fails."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def of(self, queues: Sequence[str]) -> dict[str, int | None]:
        return {queue: len(self._broker.ready.get(queue, ())) for queue in queues}

    def close(self) -> None:
        """Nothing is open."""


class NothingLeft:
    """Dead workers leave nothing here."""

    def sweep(self, live_workers: Collection[str]) -> int:
        return 0


class Source:
    """:class:`stem_kombu.transports.base.TaskConsumer` as on Redis: bursts of messages under leases."""

    sweep_interval = 1.0
    gather = 0.0005
    gather_stocked = timeouts.GATHER
    pushes = False
    keeps_tags = True
    receives_in_wait = False
    scheduled: ScheduledMessages | None = None

    def __init__(self, connection: TaskConnection) -> None:
        self._connection = connection
        self._broker = connection.broker

    @property
    def is_cut(self) -> bool:
        return False

    def consume(self) -> None:
        self._connection.consuming = True

    def pause(self, queues: Collection[str]) -> None:
        self._connection._check()
        self._connection.flowing = tuple(queue for queue in self._connection.queues if queue not in queues)
        self._connection.poke()

    def allow(self, allowance: int, here: int, *, consuming: bool) -> None:
        self._connection.prefetch = allowance

    def take(self, room: int, acknowledged: Sequence[int] = ()) -> list[Message]:
        connection, broker = self._connection, self._broker
        connection._check()
        if KERNEL.draw() < 0.2:
            KERNEL.block(KERNEL.draw() * 0.01)
            connection._check()
        for tag in acknowledged:
            broker.acknowledge(tag, connection)
        found = []
        while room > len(found) and (message := connection.take()) is not None:
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

    def wake(self) -> None:
        """It looks at the descriptor."""

    def _comes_soon(self) -> bool:
        connection = self._connection
        return connection.poked or self._broker.has_any(connection.flowing)

    def reject(self, tag: int) -> None:
        self._connection.basic_reject(tag, requeue=False)

    def give_back(self, tag: int) -> None:
        self._connection.basic_reject(tag, requeue=True)

    def settled(self, tag: int) -> None:
        """Nothing is counted here."""

    def rest(self) -> None:
        self._connection._check()

    def sweep(self) -> None:
        self._broker.sweep()

    def close(self, *, keep: bool) -> None:
        self._connection.release()


class PushedSource(Source):
    """The same as on RabbitMQ: messages that the broker pushes, up to the prefetch count."""

    pushes = True
    keeps_tags = False

    @property
    def is_cut(self) -> bool:
        return self._connection.is_cut

    def take(self, room: int, acknowledged: Sequence[int] = ()) -> list[Message]:
        connection = self._connection
        connection._check()
        for tag in acknowledged:
            connection.basic_ack(tag)
        messages = []
        while connection.is_due() and (message := connection.take()) is not None:
            connection.held += 1
            messages.append(connection.tag(message))
        return messages

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        super().wait(wake, timeout, more=True)

    def _comes_soon(self) -> bool:
        return self._connection.poked or self._connection.is_due()

    def rest(self) -> None:
        self._connection.consuming = False


class Leases:
    """Leases of the simulated broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.lifetime = broker.LIFETIME

    def renew(self, handles: Sequence[Message], seconds: float | None = None) -> list[bool]:
        self._broker.net.reach("broker", BrokerUnavailable)
        return [self._broker.renew(handle.delivery_tag, seconds or self.lifetime) for handle in handles]

    def close(self) -> None:
        """Nothing to let go."""


# -- control --------------------------------------------------------------------------------------------------------------


class ControlLink:
    """:class:`stem_kombu.transports.control_link.ControlLink` of the simulated broker."""

    url = "simulated://"

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def fans_out(self, timeout: float = 2.0) -> bool:
        return True

    def open(self, addresses: Addresses, *, timeout: float, limit: float, confirms: bool = False) -> ControlConnection:
        self._broker.net.reach("broker", BrokerUnavailable, patience=timeout)
        return ControlConnection(self._broker, addresses, limit)


class ControlConnection:
    """:class:`stem_kombu.transports.control_link.ControlConnection`: broadcasts and an inbox.

    That a subscription is lost is told to nobody: a worker finds out by what it sends to itself."""

    keepalive = None  # a simulated broker wants no heartbeats
    is_blocked = False

    def __init__(self, broker: Broker, addresses: Addresses, limit: float) -> None:
        self._broker, self._limit = broker, limit
        self._namespace = addresses.namespace
        self._inbox = None if addresses.inbox is None else broker.queue(addresses.inbox)
        self._broadcasts: list[bytes] = []
        self._reader: Any = None
        self._lost = False
        self.process = KERNEL.thread.process
        #: Since when nothing that is sent arrives, though nothing else tells of it.
        self.deaf_since: float | None = None
        self.healed: Callable[[], None] = lambda: None
        if addresses.broadcasts:
            broker.subscribed[self] = True
            self.process.on_exit.append(self._forget)

    def broadcast(self, body: bytes, *, expires: float) -> None:
        self._reach()
        self._note(body)
        self._broker.fan_out(body, expires)

    def send(self, inbox: str, body: bytes, *, expires: float) -> None:
        self._reach()
        self._note(body)
        self._broker.send(inbox, body, expires)

    def publish_heartbeat(self, body: bytes, *, expires: float) -> None:
        """Nobody follows."""

    def settle(self) -> None:
        """The broker has it."""

    def wait(self, seconds: float, wake: int = -1) -> list[Received]:
        self._check()
        if not self._has_some and seconds > 0 and not (wake >= 0 and FDS[wake].readable):
            me = self._reader = KERNEL.thread
            if self._inbox is not None:
                self._inbox.reader = me
            if wake >= 0:
                FDS[wake].watchers.append(me)
            KERNEL.block(seconds)
            self._reader = None
            if self._inbox is not None and self._inbox.reader is me:
                self._inbox.reader = None
            if wake >= 0 and me in FDS[wake].watchers:
                FDS[wake].watchers.remove(me)
            self._check()
        return self._taken()

    def limit(self, seconds: float) -> None:
        self._limit = seconds

    def close(self, *, broken: bool = False) -> None:
        self._forget()

    # -- as the broker sees it --

    def arrive(self, body: bytes) -> None:
        if self.deaf_since is None:
            self._broadcasts.append(body)
            self.poke()

    def drop(self) -> None:
        self._lost = True
        self.poke()

    def poke(self) -> None:
        if self._reader is not None:
            KERNEL.wake(self._reader)

    @property
    def _has_some(self) -> bool:
        return self.deaf_since is None and bool(self._broadcasts or (self._inbox is not None and self._inbox.messages))

    def _taken(self) -> list[Received]:
        if self.deaf_since is not None:
            return []
        broadcasts, self._broadcasts = self._broadcasts, []
        found: list[Received] = [ControlMessage(MessageKind.BROADCAST, body) for body in broadcasts]
        while self._inbox is not None and (body := self._inbox.take()) is not None:
            found.append(ControlMessage(MessageKind.INBOX, body))
        return found

    def _check(self) -> None:
        net = self._broker.net
        if self._lost or ((net.down or net.cut) and net.broken("broker", self.process)):
            raise BrokerUnavailable("connection lost")

    def _reach(self) -> None:
        """The way to the broker, which is waited for as long as for any answer."""
        self._broker.net.reach("broker", BrokerUnavailable, patience=self._limit)

    def _forget(self) -> None:
        if self._broker.subscribed.pop(self, None) and self.deaf_since is not None:
            self.healed()

    def _note(self, body: bytes) -> None:
        if not body.startswith(b"{"):
            return  # what a worker sends to itself
        process, sent = self.process, json.loads(body)
        if "command" in sent:
            self._broker.operations[sent["id"]] = process.operation
        if sent.get("command") != Revoke.name:
            return
        for record in sent["args"]["revocations"]:
            self._broker.history.add(
                Event(
                    "broadcast",
                    KERNEL.now,
                    process.name,
                    task=record["task_id"],
                    version=record["version"],
                    request=process.operation,
                )
            )
