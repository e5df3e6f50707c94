"""The transport of any broker that Kombu has a driver for; the others override what they do better.

What only consumes or publishes tasks is imported where it is made: a Celery worker does both by Celery.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import BrokerError, BrokerRefused, ConfigurationError
from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.messages.encoding import LARGEST_BODY
from stem_kombu.transports.base import (
    Capabilities,
    Depths,
    GivenBack,
    Housekeeping,
    Leases,
    QueueBrowser,
    TaskConsumer,
)
from stem_kombu.transports.conditions import conditions, forgets_held
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.control_link import ControlLink
from stem_kombu.transports.errors import broker_errors, refusal, shown_url
from stem_kombu.transports.generic.control import GenericControlLink
from stem_kombu.transports.internals import warn_once

if TYPE_CHECKING:
    from kombu import Connection

    from stem_kombu.transports.publisher import PublisherConnection

#: Drivers of Kombu that forget unacknowledged messages with the process that holds them.
_FORGET_HELD = frozenset({"zookeeper", "etcd", "consul", "mongodb", "pyro"})
#: The same, by the module of the transport, where Kombu names no driver.
_FORGETFUL_MODULES = frozenset({"kombu.transport.azurestoragequeues"})
#: Kombu's virtual transports answer 0 where they can't count; these can.
_COUNTING = frozenset({"memory", "mongodb"})
#: What happens to messages of dead workers by itself, and what is said of a transport of which that is not known.
_BY_ITSELF = {
    "amqp": "RabbitMQ gave back what a dead worker held when the worker's connection ended: there is nothing to do",
    "sqlite": "the embedded broker gives back what a dead process held to the next consumer: there is nothing to do",
    "sqs": "SQS gives back what a dead worker held when its visibility timeout is over: there is nothing to do",
}
#: AMQP's code for a queue that is not there.
_NOT_FOUND = 404
_NO_LIST = "keeps no list of what a dead worker held: it can't be given back here"


class GenericTransport:
    """Implements :class:`~stem_kombu.transports.base.Transport`. ``connection`` is a template: it is cloned, never used.

    ``generic``: only Kombu's public names are used, also where there is a faster way. ``accept_loss``: the worker may consume
    in a way in which a kill can lose a message.
    """

    def __init__(self, connection: Connection, *, generic: bool = False, accept_loss: bool = False) -> None:
        self._generic, self._accept_loss = generic, accept_loss
        self.template: Any = connection
        self.name = str(connection.transport.driver_type)
        self.url = shown_url(connection)
        self.capabilities = self._capabilities()
        self.errors: tuple[type[BaseException], ...] = (
            BrokerError,
            *connection.connection_errors,
            *connection.channel_errors,
        )

    def _capabilities(self) -> Capabilities:
        forgets = self.name in _FORGET_HELD or type(self.template.transport).__module__ in _FORGETFUL_MODULES
        # Memory has one process only, and so has its store.
        return Capabilities(counts=self.name in _COUNTING, carries_control=self.name == "memory", forgets_held=forgets)

    def consumer(
        self, queues: Sequence[str], *, clock: Clock = SYSTEM, unreadable: Callable[[Exception], None] | None = None
    ) -> TaskConsumer:
        from stem_kombu.transports.queues import forsake

        connection = self.template.clone()
        try:
            connect(connection, timeouts.BROKER_CONNECT)
            limit_decompression(connection.default_channel, LARGEST_BODY)
            return self._consumer_of(connection, queues, clock, unreadable)
        except BaseException:
            forsake(connection, keep=True)
            raise

    def declare(self, declarations: Sequence[object]) -> None:
        from stem_kombu.transports.declaring import declare_all

        connection = connect(self.template.clone(), timeouts.BROKER_CONNECT)
        try:
            declare_all(connection, declarations)
        finally:
            release(connection)

    def _consumer_of(
        self,
        connection: Connection,
        queues: Sequence[str],
        clock: Clock,
        unreadable: Callable[[Exception], None] | None,
    ) -> TaskConsumer:
        from stem_kombu.transports.generic.consumer import GenericConsumer

        return GenericConsumer(connection, queues, clock=clock)

    def _steps_back(self, lacking: Sequence[str], what: str) -> bool:
        """Whether the fast way is not to be used: by request, or because the driver lacks what it needs."""
        if not self._generic and lacking:
            warn_once(self.name, lacking, what)
        return self._generic or bool(lacking)

    def adapts_to(self, error: BaseException) -> bool:
        return False

    def refusal(self, error: BaseException) -> BrokerRefused | None:
        return refusal(error, self.template)

    def control(self, *, clock: Clock = SYSTEM) -> ControlLink:
        return GenericControlLink(self.template, clock=clock)

    def publisher(self, timeout: float, *, clock: Clock = SYSTEM) -> PublisherConnection:
        connection = self._publishing_template()
        connect(connection, timeout)
        with broker_errors(connection):
            return self._publisher_of(connection, clock)

    def _publishing_template(self) -> Connection:
        connection: Connection = self.template.clone()
        # Nothing ticks between two sends, and a broker that expects heartbeats would hang up on an idle producer.
        connection.heartbeat = 0
        return connection

    def _publisher_of(self, connection: Connection, clock: Clock) -> PublisherConnection:
        from stem_kombu.transports.publisher import PublisherConnection

        return PublisherConnection(connection, clock)

    def leases(self) -> Leases | None:
        return None

    def depths(self) -> Depths:
        from stem_kombu.transports.queue_depths import QueueDepths

        return QueueDepths(self.template, counts=self.capabilities.counts)

    def browser(self) -> QueueBrowser | None:
        return None

    def purge(self, queue: str) -> int:
        connection = connect(self.template.clone())
        try:
            with broker_errors(connection, f"emptying queue {queue}"):
                try:
                    return int(connection.default_channel.queue_purge(queue) or 0)
                except connection.channel_errors as error:
                    if getattr(error, "reply_code", getattr(error, "code", None)) == _NOT_FOUND:
                        return 0
                    raise
        finally:
            release(connection)

    def refuse_unfit(self) -> None:
        # With a backend as well: what was fetched and not handed over yet is in no place at all.
        if self.capabilities.forgets_held and not self._accept_loss:
            raise ConfigurationError(
                f"broker {self.url}: {forgets_held(self.name)}",
                hint="use Redis, RabbitMQ, SQS, the embedded broker, or SQLAlchemy on PostgreSQL or SQLite; or accept the loss: "
                "--accept-loss, STEM_ACCEPT_LOSS=true",
            )

    def check(self, queues: Callable[[], Sequence[str]]) -> list[str]:
        connection = self.template.clone()
        try:
            connect(connection)
            return self._checked(connection, queues)
        finally:
            release(connection)

    def _checked(self, connection: Connection, queues: Callable[[], Sequence[str]]) -> list[str]:
        return conditions(connection) + ([forgets_held(self.name)] if self.capabilities.forgets_held else [])

    def give_back_held(self, wait: float = 0.0, *, clock: Clock = SYSTEM) -> GivenBack:
        connection = self.template.clone()
        connect(connection)
        try:
            return self._given_back(connection, wait, clock)
        finally:
            release(connection)

    def _given_back(self, connection: Connection, wait: float, clock: Clock) -> GivenBack:
        return GivenBack(self.name, note=_BY_ITSELF.get(self.name, f"transport {self.name!r} {_NO_LIST}"))

    def has_dead_letters(self, queue: str) -> bool:
        return False

    def unused_life(self, queue: str) -> float | None:
        return None

    def housekeeping(self, namespace: str, worker: str) -> Housekeeping:
        return _NothingLeft()


class _NothingLeft:
    """Queues that expire with everything that belongs to them."""

    def sweep(self, live_workers: Collection[str]) -> int:
        return 0
