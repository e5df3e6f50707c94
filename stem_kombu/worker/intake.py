"""What a consumer consumes, and where its messages go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stem_kombu.publishing import DeclaredQueue
from stem_kombu.transports.base import ScheduledMessages

if TYPE_CHECKING:
    from kombu import Message


@dataclass(frozen=True, slots=True)
class ConsumedQueues:
    """The queues by their names, and what the application has declared of them."""

    names: tuple[str, ...]
    declared: Sequence[DeclaredQueue] = ()


def _nothing(_: object) -> None:
    """This broker keeps no messages until they are due."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Where a consumer's messages go. All but ``malformed`` are called in the consumer's thread.

    ``allowance()`` says how many messages may be here, and is asked in every turn.
    ``receive(message, generation)`` is called for each delivery; ``generation`` numbers the connections.
    ``malformed`` is told of what lay in a queue and is no message at all.
    ``reconnected`` is called after each connection but the first, and ``lost`` after each connection that was lost, before the
    next one is tried. ``scheduled(messages)`` is called once a second at least where the broker keeps messages until they
    are due.
    """

    allowance: Callable[[], int]
    receive: Callable[[Message, int], None]
    malformed: Callable[[Exception], None]
    reconnected: Callable[[], None]
    lost: Callable[[], None]
    scheduled: Callable[[ScheduledMessages], None] = _nothing
