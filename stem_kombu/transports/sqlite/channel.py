"""The Kombu channel: AMQP's operations on the embedded broker's file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stem_kombu.clock import SYSTEM
from stem_kombu.transports.sqlite import messages, topology
from stem_kombu.transports.sqlite.deliveries import Deliveries
from stem_kombu.transports.sqlite.kombu_types import (
    NotFound,
    PreconditionFailed,
    RecoverableConnectionError,
    VirtualChannel,
    VirtualMessage,
    queue_declare_ok_t,
    to_rabbitmq_queue_arguments,
    uuid,
)
from stem_kombu.transports.sqlite.publishing import PublishBatch, commit, parcel_of
from stem_kombu.transports.sqlite.session import Session
from stem_kombu.transports.sqlite.topology import QueueSpec, QueueState

logger = logging.getLogger(__name__)


class Credit:
    """What Kombu's users ask of ``channel.qos``."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    @property
    def prefetch_count(self) -> int:
        """Most deliveries outstanding at once; 0 for no limit."""
        return self._deliveries.prefetch

    def can_consume(self) -> bool:
        """Whether another message may be delivered."""
        return self._deliveries.has_credit()


class Channel(VirtualChannel):
    """One channel; made by ``connection.channel()``.

    Its state is in the file, not in ``Transport.state``: what one process declares, all see. Errors are those of
    py-amqp (``NotFound``, ``PreconditionFailed``, ``ResourceLocked``: all ``ChannelError``), but do not close the
    channel.
    """

    supports_fanout = True
    body_encoding = None
    from_transport_options = ()

    def __init__(self, connection: Any, **kwargs: object) -> None:
        super().__init__(connection, **kwargs)
        self.no_ack_consumers: set[str] = set()
        self._deliveries = Deliveries(connection.session, self.channel_id)

    # -- publishing

    def basic_publish(self, message: dict[str, object], exchange: str, routing_key: str, **kwargs: object) -> None:
        """Commit the message to every queue it is routed to; none is no error, an unknown exchange is ``NotFound``.

        The header ``stem-eta`` (epoch seconds) delays the delivery until then.
        """
        commit(self.open_session(), [parcel_of(message, exchange, routing_key)])

    def create_publish_batch(self, max_size: int = 1000) -> PublishBatch:
        """For Kombu's ``Producer.batch()``: up to ``max_size`` messages in one transaction."""
        return PublishBatch(self, max_size)

    def prepare_queue_arguments(self, arguments: dict[str, object], **kwargs: object) -> dict[str, object]:
        """RabbitMQ's names and milliseconds for ``expires``, ``message_ttl`` and the like."""
        return dict(to_rabbitmq_queue_arguments(arguments, **kwargs))

    # -- exchanges and bindings

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, object] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        kind = type or "direct"
        name = exchange or f"amq.{kind}"
        session = self.open_session()
        if passive:
            session.query(topology.require_exchange, name, "Channel.exchange_declare")
            return
        with session.write() as sql:
            topology.declare_exchange(sql, name, kind, durable, auto_delete, arguments)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        with self.open_session().write() as sql:
            topology.delete_exchange(sql, exchange, if_unused)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        source = exchange or "amq.direct"
        session = self.open_session()
        with session.write() as sql:
            queue_id = topology.find_queue(sql, queue, "Channel.queue_bind", session.owner_id)
            topology.require_exchange(sql, source, "Channel.queue_bind")
            topology.bind(sql, queue_id, source, routing_key or "")

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        session = self.open_session()
        with session.write() as sql:
            try:
                queue_id = topology.find_queue(sql, queue, "Channel.queue_unbind", session.owner_id)
            except NotFound:
                return
            topology.unbind(sql, queue_id, exchange or "amq.direct", routing_key or "")

    def list_bindings(self) -> Iterator[tuple[str, str, str]]:
        """Every binding as (queue, exchange, routing key)."""
        return iter(self.open_session().query(topology.bindings))

    def get_exchanges(self) -> list[str]:
        """Names of all exchanges."""
        return self.open_session().query(topology.exchanges)

    def get_table(self, exchange: str) -> list[tuple[str, None, str]]:
        """The bindings of one exchange in the shape of Kombu's virtual transports."""
        return [(key, None, queue) for queue, source, key in self.list_bindings() if source == exchange]

    def queues_of(self, exchange: str, routing_key: str) -> int:
        """How many queues a message would go to; an unknown exchange is ``NotFound``."""
        return len(self.open_session().query(topology.routes, exchange, routing_key))

    # -- queues

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> queue_declare_ok_t:
        """Make the queue, or with ``passive`` only find it; returns its name, ready messages and consumers.

        Raises ``NotFound`` (passive, unknown), ``PreconditionFailed`` (exists and differs), ``ResourceLocked`` (another
        connection's exclusive queue).
        """
        name = queue or f"amq.gen-{uuid()}"
        session = self.open_session()
        session.sweep()
        if passive:
            state = session.query(self._state, name, "Channel.queue_declare")
        else:
            spec = QueueSpec.decode(name, durable, auto_delete, exclusive, arguments)
            owner_id = session.own() if exclusive else session.owner_id
            with session.write() as sql:
                state = topology.declare_queue(sql, spec, owner_id, SYSTEM.now())
        return queue_declare_ok_t(name, state.ready, state.consumers)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: object) -> int:
        """Delete the queue; returns how many ready messages went with it. One that is not there is fine.

        Raises ``PreconditionFailed`` for a queue with consumers (``if_unused``) or ready messages (``if_empty``).
        """
        session = self.open_session()
        with session.write() as sql:
            try:
                state = self._state(sql, queue, "Channel.queue_delete")
            except NotFound:
                return 0
            for refused, why in ((if_unused and state.consumers, "in use"), (if_empty and state.ready, "not empty")):
                if refused:
                    raise PreconditionFailed(
                        f"PRECONDITION_FAILED - queue {queue!r} {why}", (50, 40), "Channel.queue_delete"
                    )
            topology.delete_queue(sql, state.id)
        self._deliveries.forget_queue(state.id)
        return state.ready

    def queue_purge(self, queue: str, **kwargs: object) -> int:
        """Remove the messages that nobody holds; returns the number. ``NotFound`` for an unknown queue."""
        session = self.open_session()
        with session.write() as sql:
            queue_id = topology.find_queue(sql, queue, "Channel.queue_purge", session.owner_id)
            return messages.purge(sql, queue_id)

    def _state(self, sql: Any, queue: str, method: str) -> QueueState:
        queue_id = topology.find_queue(sql, queue, method, self._deliveries.session.owner_id)
        return topology.state_of(sql, queue_id, SYSTEM.now())

    def _size(self, queue: str) -> int:
        return int(self.queue_declare(queue, passive=True).message_count)

    def _has_queue(self, queue: str, **kwargs: object) -> bool:
        try:
            self._size(queue)
        except NotFound:
            return False
        return True

    # -- consuming

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Let at most ``prefetch_count`` deliveries be outstanding on this channel; 0 for no limit."""
        deliveries = self._open()
        deliveries.prefetch = prefetch_count or 0
        deliveries.session.wake_up.set()

    @property
    def qos(self) -> Credit:
        return Credit(self._open())

    def basic_consume(
        self,
        queue: str,
        no_ack: bool = False,
        callback: Callable[[object], object] | None = None,
        consumer_tag: str | None = None,
        **kwargs: object,
    ) -> str:
        """Call back with each message of the queue that ``drain_events`` delivers; returns the consumer's tag."""
        tag = consumer_tag or f"ctag-{uuid()}"

        def receive(payload: dict[str, Any]) -> None:
            try:
                message = self.Message(payload, channel=self)
            except messages.UNREADABLE as error:
                if not no_ack:
                    self._open().put_aside(payload["properties"]["delivery_tag"], queue, error)
                return
            if callback is not None:
                callback(message)

        self._open().subscribe(queue, tag, no_ack, receive)
        if no_ack:
            self.no_ack_consumers.add(tag)
        return tag

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop that consumer; what it already has stays its own."""
        self._open().cancel(consumer_tag)
        self.no_ack_consumers.discard(consumer_tag)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: object) -> VirtualMessage | None:
        """One message now, or ``None``. ``NotFound`` for an unknown queue."""
        payload = self._open().get(queue, no_ack)
        return None if payload is None else self.Message(payload, channel=self)

    def deliver(self) -> bool:
        """Hand the next message to its consumer's callback; whether there was one."""
        if self.closed:
            return False
        found = self._open().next()
        if found is None:
            return False
        subscription, payload = found
        subscription.callback(payload)
        return True

    def call_in(self, wanted: Callable[[str], bool], after: int = 0) -> int:
        """Deliver scheduled messages of the consumed queues before their time, those whose header ``id`` is wanted, whatever
        the prefetch count. Looks at messages numbered above ``after``; returns the highest number that it looked at."""
        return self._open().call_in(wanted, after)

    # -- settling

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Remove the delivered message (with ``multiple`` all up to it).

        Raises ``PreconditionFailed`` for a tag that is not outstanding on this channel,
        ``RecoverableConnectionError`` on a closed one. A lease that ran out meanwhile is not an error here: the
        message is left to its new owner and a warning logged; ask :meth:`extend` first where that matters.
        """
        self._open().acknowledge(delivery_tag, multiple=multiple)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Remove the delivered message, or with ``requeue`` make it ready again at its old place."""
        if requeue:
            self._open().requeue(delivery_tag)
        else:
            self._open().acknowledge(delivery_tag)

    def basic_recover(self, requeue: bool = False) -> None:
        """Make everything ready again that is outstanding on this channel."""
        if not requeue:
            raise NotImplementedError("basic_recover(requeue=False) is not supported, as on RabbitMQ")
        self._open().recover()

    def extend(self, delivery_tag: str, seconds: float) -> bool:
        """Keep this delivery leased for at least so many seconds from now, even if renewals should stop for that long.

        Not needed while this process is well: leases are renewed by a thread of their own. ``False`` when the lease
        is lost: somebody else has the message, and acknowledging would be refused.
        """
        return self._open().extend(delivery_tag, seconds)

    def close(self) -> None:
        """Cancel the consumers and make ready what is outstanding. May be called twice."""
        if self.closed:
            return
        self.closed = True
        if not self._deliveries.session.inherited:
            self._deliveries.close()
        if self.connection is not None:
            self.connection.close_channel(self)
        self.exchange_types = None

    def open_session(self) -> Session:
        """The open file that this channel works on. Raises ``RecoverableConnectionError`` on a closed channel."""
        return self._open().session

    def _open(self) -> Deliveries:
        """The deliveries of this channel in this process; in a forked child they begin empty."""
        if self.closed or self.connection is None:
            raise RecoverableConnectionError("the channel is closed: what it held has been given back")
        session: Session = self.connection.session
        if session is not self._deliveries.session:
            self.no_ack_consumers.clear()
            self._deliveries = Deliveries(session, self.channel_id)
        return self._deliveries
