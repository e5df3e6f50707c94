"""Task queues as they are at the broker: declared without a quarrel.

A queue that Celery (or an operator) declared with other arguments, priorities or a quorum say, can't be declared again
without them: RabbitMQ answers PRECONDITION_FAILED. So it is asked first whether the queue is there, and left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from stem_kombu.messages.resending import mark_consumed
from stem_kombu.transports.connections import release
from stem_kombu.transports.names import task_queue

if TYPE_CHECKING:
    from kombu import Connection, Consumer, Message, Queue

logger = logging.getLogger(__name__)

_NOT_FOUND = 404
#: Drivers that refuse to declare a queue again with other arguments.
_STRICT_DRIVERS = frozenset({"amqp", "sqlite"})


class KombuConsumers:
    """Kombu's consumers of a channel, one for each queue: on most transports a message does not say which queue it lay in,
    so each consumer marks what it receives (:func:`~stem_kombu.messages.resending.consumed_queue`).
    """

    def __init__(self, channel: object, queues: Iterable[Queue], arrived: Callable[[Message], None]) -> None:
        self._consumers = {queue.name: _consumer_of(channel, queue, arrived) for queue in queues}
        self._paused: frozenset[str] = frozenset()
        self._consumes = False

    def consume(self) -> None:
        self._consumes = True
        for name, consumer in self._consumers.items():
            if name not in self._paused:
                consumer.consume()

    def cancel(self) -> None:
        self._consumes = False
        for consumer in self._consumers.values():
            consumer.cancel()

    def pause(self, queues: Collection[str]) -> None:
        """Cancel the consumers of these queues, now or when they are to consume; the others consume again."""
        before, self._paused = self._paused, frozenset(queues)
        for name in self._consumers if self._consumes else ():
            if name in self._paused and name not in before:
                self._consumers[name].cancel()
            elif name in before and name not in self._paused:
                self._consumers[name].consume()

    def qos(self, *, prefetch_count: int, apply_global: bool) -> None:
        """Set the prefetch count of the channel, which all consumers share if it is global."""
        next(iter(self._consumers.values())).qos(prefetch_count=prefetch_count, apply_global=apply_global)


def _consumer_of(channel: object, queue: Queue, arrived: Callable[[Message], None]) -> Consumer:
    from kombu.messaging import Consumer

    def take(message: Message, _: Exception | None = None) -> None:
        arrived(mark_consumed(message, queue.name))

    # What Kombu could not unpack is told by the message itself; without on_decode_error it would end the connection.
    return Consumer(channel, [queue], on_message=take, on_decode_error=take, accept=["json"], auto_declare=False)


def declared_task_queue(connection: Connection, name: str, *, max_priority: int | None = None) -> Queue:
    """The task queue, which now exists; ``max_priority`` counts only when it did not exist before.

    To consume it, say ``Consumer(…, auto_declare=False)``: it need not be declared again. Raises
    :class:`~stem_kombu.errors.ConfigurationError` for a bad name, and what the driver raises.
    """
    queue = task_queue(name, max_priority=max_priority)
    if connection.transport.driver_type not in _STRICT_DRIVERS:
        queue(connection.default_channel).declare()
        return queue
    # On channels of their own, because on AMQP a refusal closes the channel on which it was asked for.
    if not _exists(connection, queue):
        with connection.channel() as channel:
            queue(channel).declare()
    return queue


def forsake(connection: Connection, *, keep: bool, first: Callable[[], None] | None = None) -> None:
    """Close a connection that brought messages, whatever state it is in, after what ``first`` closes.

    With ``keep`` what isn't acknowledged stays leased; Kombu's own transports would give it back.
    """
    try:
        if first is not None:
            first()
        for channel in list(getattr(connection.connection, "channels", None) or ()) if connection.connected else ():
            if keep and hasattr(channel, "do_restore"):
                channel.do_restore = False
        release(connection)
    except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
        # What matters is that nothing uses it any more.
        logger.debug("closing a broker connection: %r", error)


def _exists(connection: Connection, queue: Queue) -> bool:
    channel = connection.channel()
    try:
        queue(channel).queue_declare(passive=True)
    except connection.channel_errors as error:
        if getattr(error, "reply_code", None) != _NOT_FOUND:
            raise
        return False
    finally:
        connection.maybe_close_channel(channel)
    return True
