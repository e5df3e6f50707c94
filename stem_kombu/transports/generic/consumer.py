"""Task queues over any transport of Kombu, by its public names: drained in short slices.

It keeps what Kombu's own transport keeps. An acknowledgement may wait for a slice, and messages come one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.transports.base import ScheduledMessages
from stem_kombu.transports.connections import pulse
from stem_kombu.transports.queues import KombuConsumers, declared_task_queue, forsake

if TYPE_CHECKING:
    from kombu import Connection


class GenericConsumer:
    """Implements :class:`~stem_kombu.transports.base.TaskConsumer` over a connected connection, which it closes."""

    pushes = True
    keeps_tags = False
    receives_in_wait = True
    gather = gather_stocked = 0.0
    sweep_interval = 1.0
    is_cut = False
    scheduled: ScheduledMessages | None = None

    def __init__(self, connection: Connection, queues: Sequence[str], *, clock: Clock = SYSTEM) -> None:
        self._connection = connection
        self._clock = clock
        self._channel: Any = connection.default_channel
        declared = [declared_task_queue(connection, queue) for queue in queues]
        self._arrived: list[object] = []
        self._consumers = KombuConsumers(self._channel, declared, self.arrived)
        self._limit = -1

    def arrived(self, message: object) -> None:
        """Called by Kombu's consumers."""
        self._arrived.append(message)

    def consume(self) -> None:
        self._consumers.consume()

    def pause(self, queues: Collection[str]) -> None:
        self._consumers.pause(queues)

    def allow(self, allowance: int, here: int, *, consuming: bool) -> None:
        if allowance != self._limit:
            self._consumers.qos(prefetch_count=allowance, apply_global=True)
            self._limit = allowance

    def take(self, room: int, acknowledged: Sequence[object] = ()) -> list[object]:
        for tag in acknowledged:
            self._channel.basic_ack(tag)
        messages, self._arrived = self._arrived, []
        return messages

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        self._drain(min(timeout, timeouts.GENERIC_READ))

    def wake(self) -> None:
        """A slice is short."""

    def reject(self, tag: object) -> None:
        self._channel.basic_reject(tag, requeue=False)

    def give_back(self, tag: object) -> None:
        self._channel.basic_reject(tag, requeue=True)

    def settled(self, tag: object) -> None:
        """Nothing is counted here."""

    def rest(self) -> None:
        self._consumers.cancel()

    def sweep(self) -> None:
        """Send the heartbeat that is due."""
        pulse(self._connection, clock=self._clock)

    def close(self, *, keep: bool) -> None:
        forsake(self._connection, keep=keep)

    def _drain(self, timeout: float) -> None:
        try:
            self._connection.drain_events(timeout=max(0.0, timeout))
        except TimeoutError:
            return
