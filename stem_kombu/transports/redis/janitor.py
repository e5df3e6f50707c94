"""What dead workers and clients leave at Redis, and how it is removed (G15).

Kombu notes each queue that is bound to an exchange in a set, and removes it from there only when the connection is
closed properly. Queues of the embedded broker and of RabbitMQ expire with everything that belongs to them.

The exchange of Celery's remote control is Celery's as well: there only what is known to be a Stem worker's is removed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import broker_errors
from stem_kombu.transports.names import broadcast_exchange, broadcast_queue, heartbeat_exchange

if TYPE_CHECKING:
    from kombu import Connection, Exchange

logger = logging.getLogger(__name__)


#: The exchange of Celery's remote control, and what the name of a queue there ends with.
_PIDBOX, _OF_PIDBOX = "celery.pidbox", ".celery.pidbox"
#: Where Kombu from 5.7 keeps what is bound for ever. An older one does not know the name, but may run in the same fleet.
_PERMANENT = "_kombu.binding_permanent.%s"


class Janitor:
    """Sweeps for one worker, and remembers whom it has seen alive: what is bound to Celery's exchange does not say whose it is.

    ``connection`` is a template, ``own`` the id of the worker."""

    def __init__(self, connection: Connection, namespace: str, own: str) -> None:
        self._template, self._namespace, self._own = connection, namespace, own
        self._seen: set[str] = set()

    def sweep(self, live_workers: Collection[str]) -> int:
        """As :func:`sweep`; workers that were alive at an earlier call and are not now are dead."""
        gone = self._seen - set(live_workers)
        removed = sweep(self._template, self._namespace, live_workers, gone, self._own)
        self._seen = set(live_workers)
        return removed


def sweep(
    connection: Connection,
    namespace: str,
    live_workers: Collection[str],
    dead_workers: Collection[str] = (),
    own: str | None = None,
) -> int:
    """Remove the bindings of broadcast queues whose worker is not among ``live_workers``; returns how many there were.

    Of bindings to the exchange of Celery's remote control go those of ``dead_workers`` and of workers with generated names, and
    what a worker of 0.1.0 that was called ``own`` has bound for ever.

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
            removed += _unbind_monitored(mine, namespace, live_workers, dead_workers, own)
    finally:
        release(mine)
    if removed:
        logger.info("removed %d bindings of dead workers and followers in namespace %r", removed, namespace)
    return removed


def _unbind_all_but(connection: Connection, exchange: Exchange, live: Collection[str]) -> int:
    from kombu.entity import Queue

    channel = connection.default_channel
    dead = sorted({str(queue) for *_, queue in channel.get_table(exchange.name)} - set(live))
    for name in dead:
        # Kombu deletes only bindings that this channel has declared. The expiry keeps the declaration from becoming a
        # permanent one should this process die right here.
        queue = Queue(name, exchange, durable=True, auto_delete=True, expires=60.0)(channel)
        queue.declare()
        queue.delete()
    return len(dead)


def _unbind_monitored(
    connection: Connection, namespace: str, live: Collection[str], dead: Collection[str], own: str | None
) -> int:
    """Celery's remote control finds workers by subscription: a binding of a dead worker is no more than a line in a set, for
    ever where the worker was of version 0.1.0 and killed."""
    channel: Any = connection.default_channel
    # NAMESPACE@host-PID-nonce: as a worker is called that nobody named.
    generated = re.compile(rf"{re.escape(namespace)}@.+-\d+-[0-9a-f]{{8}}")
    removed = 0
    with channel.conn_or_acquire() as client:
        for prefix in (channel.keyprefix_queue, getattr(channel, "keyprefix_binding_permanent", _PERMANENT)):
            for member in client.smembers(prefix % (_PIDBOX,)):
                node = bytes(member).decode("utf-8", "replace").rpartition(channel.sep)[2].removesuffix(_OF_PIDBOX)
                ours = generated.fullmatch(node) or any(_is_of(node, worker) for worker in dead)
                was_ours = prefix != channel.keyprefix_queue and own is not None and _is_of(node, own)
                if was_ours or (ours and not any(_is_of(node, worker) for worker in live)):
                    removed += int(client.srem(prefix % (_PIDBOX,), member))
    return removed


def _is_of(node: str, worker: str) -> bool:
    """Whether Celery's monitors know that worker by that name: with ``@host`` where the worker's id has none."""
    return node == worker or ("@" not in worker and node.rpartition("@")[0] == worker)
