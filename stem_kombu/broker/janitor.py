"""What dead workers and clients leave at Redis, and how it is removed (G15).

Kombu notes each queue that is bound to an exchange in a set, and removes it from there only when the connection is
closed properly. Queues of the embedded broker and of RabbitMQ expire with everything that belongs to them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from stem_kombu.broker.connections import connect, release
from stem_kombu.broker.failures import broker_errors
from stem_kombu.broker.names import broadcast_exchange, broadcast_queue, heartbeat_exchange

if TYPE_CHECKING:
    from kombu import Connection, Exchange

logger = logging.getLogger(__name__)


def sweep(connection: Connection, namespace: str, live_workers: Collection[str]) -> int:
    """Remove the bindings of broadcast queues whose worker is not among ``live_workers``; returns how many there were.

    ``connection`` is a template: it is cloned, not used. A worker that lives though nobody knew it loses nothing: Redis
    sends broadcasts by publish and subscribe and never looks at these sets, and Kombu enters it again at its next
    refresh. Does nothing on other transports. Raises :class:`~stem_kombu.errors.BrokerUnavailable`.
    """
    if connection.transport.driver_type != "redis":
        return 0
    live = {broadcast_queue(namespace, worker).name for worker in live_workers}
    mine = connection.clone()
    connect(mine)
    try:
        with broker_errors(mine, "sweeping"):
            removed = _unbind_all_but(mine, broadcast_exchange(namespace), live)
            # Followers of heartbeats are in no roster.
            removed += _unbind_all_but(mine, heartbeat_exchange(namespace), frozenset())
    finally:
        release(mine)
    if removed:
        logger.info("removed %d bindings of dead workers and followers in namespace %r", removed, namespace)
    return removed


def _unbind_all_but(connection: Connection, exchange: Exchange, live: Collection[str]) -> int:
    from kombu import Queue

    channel = connection.default_channel
    dead = sorted({str(queue) for *_, queue in channel.get_table(exchange.name)} - set(live))
    for name in dead:
        # Kombu deletes only bindings that this channel has declared. The expiry keeps the declaration from becoming a
        # permanent one should this process die right here.
        queue = Queue(name, exchange, durable=True, auto_delete=True, expires=60.0)(channel)
        queue.declare()
        queue.delete()
    return len(dead)
