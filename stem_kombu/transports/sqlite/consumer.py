"""Task queues of the embedded broker: a wait ends at once when there is a message or the consumer is woken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.transports.base import ScheduledMessages
from stem_kombu.transports.generic.consumer import GenericConsumer

if TYPE_CHECKING:
    from kombu import Connection

    from stem_kombu.transports.sqlite.transport import Transport


class EmbeddedConsumer(GenericConsumer):
    """What is generic, and what the embedded broker can do beyond Kombu."""

    def __init__(self, connection: Connection, queues: Sequence[str], *, clock: Clock = SYSTEM) -> None:
        super().__init__(connection, queues, clock=clock)
        self._transport: Transport = connection.transport
        self.scheduled: ScheduledMessages | None = _Scheduled(self._channel)

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        self._drain(timeout)

    def wake(self) -> None:
        self._transport.wake()


class _Scheduled:
    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def mark(self) -> object:
        mark: object = self._channel.open_session().mark()
        return mark

    def call_in(self, wanted: Callable[[str], bool], after: int) -> int:
        return int(self._channel.call_in(wanted, after))
