"""The port of a place that keeps messages and who holds them: what :class:`LeasedConsumer` and :class:`PlaceLeases` need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from stem_kombu.transports.giving_back import Swept

#: Messages that are changed together.
BATCH = 500


class Taken(NamedTuple):
    """A message that is leased now. ``tag`` names this lease of it and no other; ``text`` is what lay in the queue."""

    tag: str
    queue: str
    text: str
    redelivered: bool


class LeasedPlace(Protocol):
    """Each step is atomic for each message, whatever other processes do and whenever this one is killed. Used by one thread.

    A message is in its queue or leased, never both and never neither. Every method raises what the driver raises.
    """

    def take(self, queues: Sequence[str], room: int, acknowledged: Sequence[str] = ()) -> list[Taken]:
        """Remove the messages of the tags in ``acknowledged``, whose leases still stand, and lease at most ``room`` messages of
        these queues, the oldest first."""

    def remove(self, tag: str) -> None:
        """The same of one message, for any reason."""

    def give_back(self, tags: Sequence[str]) -> None:
        """Let the messages of the leases that still stand be in their queues again, at the places that they had."""

    def set_aside(self, tag: str, queue: str) -> None:
        """Move the message to that queue."""

    def renew(self, tags: Sequence[str], seconds: float) -> list[bool]:
        """Let the leases end ``seconds`` from now. Whether each still stood."""

    def take_back(self) -> Swept:
        """Let every message whose lease is over be in its queue again."""

    def ping(self) -> None:
        """Return when the broker answers."""

    def close(self) -> None:
        """Let go of what is open. May be called twice."""
