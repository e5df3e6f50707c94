"""RabbitMQ, and what else speaks AMQP 0-9-1, by py-amqp.

What only a worker or one command needs is imported where it is made: a ping is to start at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.transports.amqp.control import AmqpControlLink
from stem_kombu.transports.amqp.prefetch import Prefetch
from stem_kombu.transports.base import Capabilities, TaskConsumer
from stem_kombu.transports.confirms import confirms
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.control_link import ControlLink
from stem_kombu.transports.generic.port import GenericTransport
from stem_kombu.transports.internals import AMQP_READS, AMQP_SENDS, missing

if TYPE_CHECKING:
    from kombu import Connection

    from stem_kombu.transports.publisher import PublisherConnection

#: AMQP's codes for what a queue or a broker does not do.
_REFUSED = frozenset({540, 541})


class AmqpTransport(GenericTransport):
    """See :class:`~stem_kombu.transports.base.Transport`."""

    def __init__(self, connection: Connection, *, generic: bool = False, accept_loss: bool = False) -> None:
        super().__init__(connection, generic=generic, accept_loss=accept_loss)
        self._prefetch = Prefetch()

    def _capabilities(self) -> Capabilities:
        return Capabilities(
            counts=True,
            longest_hold=timeouts.AMQP_LONGEST_HOLD,
            monitor_exchange="topic",
            carries_control=True,
            consumer_timeout=timeouts.AMQP_CONSUMER,
            confirms_if_asked=True,
        )

    def _consumer_of(
        self,
        connection: Connection,
        queues: Sequence[str],
        clock: Clock,
        unreadable: Callable[[Exception], None] | None,
    ) -> TaskConsumer:
        if self._steps_back(missing(AMQP_READS, _inside(connection)), "Kombu reads task queues message by message"):
            return super()._consumer_of(connection, queues, clock, unreadable)
        from stem_kombu.transports.amqp.consumer import AmqpConsumer

        return AmqpConsumer(connection, queues, prefetch=self._prefetch, clock=clock)

    def adapts_to(self, error: BaseException) -> bool:
        if getattr(error, "reply_code", None) not in _REFUSED or not self._prefetch.is_global:
            return False
        self._prefetch.is_global = False  # a quorum queue, or a broker where that is switched off
        return True

    def _publishing_template(self) -> Connection:
        connection = super()._publishing_template()
        # Confirms are awaited by the publisher, for many messages at once, instead of after each.
        connection.transport_options = {**(connection.transport_options or {}), "confirm_publish": False}
        return connection

    def control(self, *, clock: Clock = SYSTEM) -> ControlLink:
        return super().control(clock=clock) if self._generic else AmqpControlLink(self.template, clock=clock)

    def _publisher_of(self, connection: Connection, clock: Clock) -> PublisherConnection:
        if self._steps_back(missing(AMQP_SENDS, _inside(connection)), "Kombu waits for each confirm"):
            release(connection)
            return super()._publisher_of(connect(super()._publishing_template()), clock)
        if not confirms(self.template):
            from stem_kombu.transports.amqp.unconfirmed import UnconfirmedConnection

            return UnconfirmedConnection(connection, clock)
        from stem_kombu.transports.amqp.publisher import ConfirmingConnection

        return ConfirmingConnection(connection, clock)

    def has_dead_letters(self, queue: str) -> bool:
        from stem_kombu.transports.dead_letters import has_dead_letters

        return has_dead_letters(self.template, queue)

    def unused_life(self, queue: str) -> float | None:
        from stem_kombu.transports.dead_letters import unused_life

        return unused_life(self.template, queue)


def _inside(connection: Connection) -> dict[str, object]:
    amqp = connection.connection
    return {"connection": amqp, "channel": connection.default_channel, "transport": getattr(amqp, "transport", None)}
