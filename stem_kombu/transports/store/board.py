"""The port of a control board: messages with an expiry, in a database that all processes of a fleet share.

Kombu keeps bindings in the memory of one process on SQS, SQLAlchemy and the like, and polls there for up to ten seconds. On
such a broker commands, replies and heartbeats travel through the database of the revoke store instead. The contract suite
:mod:`stem_kombu.testing.control_board_contract` says in tests what is promised here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stem_kombu.clock import Clock

#: Messages that one :meth:`BoardReader.wait` returns at most, of each address.
BURST = 500
#: Longest time without a look at the database, in seconds: a notification may be lost.
LOOK_EVERY = 1.0
#: Expired rows that are deleted at a time, and seconds between two times.
PRUNED_AT_ONCE, _PRUNE_EVERY = 1000, 20.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where messages of one namespace are put.

    ``shared``: each reader gets each message that is published after it was opened. Otherwise one reader takes the messages
    out, those that were there before it included.
    """

    name: str
    shared: bool


#: What is sent to all workers of a namespace, and what they say of themselves.
COMMANDS = Address("commands", shared=True)
HEARTBEATS = Address("heartbeats", shared=True)


def inbox(name: str) -> Address:
    """The address of one worker or one client; ``name`` is the name of its queue at a broker."""
    return Address(name, shared=False)


class BoardReader(Protocol):
    """Reads some addresses of a board; used by one thread at a time. It misses nothing that is published after it is open.

    Positions are by the order in which the database makes messages visible, and outlive a lost connection: after a
    :class:`~stem_kombu.errors.StoreUnavailable` the next :meth:`wait` connects again and returns what came meanwhile. A
    message may then come twice, and those of one sender to one address keep their order.
    """

    def wait(self, timeout: float, wake: int = -1) -> list[tuple[Address, bytes]]:
        """Messages that have not expired, after waiting at most ``timeout`` seconds for the first, or until the descriptor
        ``wake`` is readable; empty when none came. Those of an unshared address are deleted by the next call, or by
        :meth:`close`. Raises :class:`~stem_kombu.errors.StoreError`."""

    def close(self) -> None:
        """Delete what was returned of unshared addresses, and let the connection go. May be called twice; never raises."""


class ControlBoard(Protocol):
    """Messages of one namespace. Safe from any thread; connects when first used, and again after a loss.

    Every method raises :class:`~stem_kombu.errors.StoreUnavailable` when the database can't be reached within a bounded time.
    """

    #: The URL with its password masked, for people.
    url: str

    def publish(self, addresses: Sequence[Address], body: bytes, *, expires: float) -> None:
        """Put one message into each of the addresses, for ``expires`` seconds by the database's clock. Repeated once when
        the answer is lost, so it may then be there twice. Deletes some of what has expired."""

    def open_reader(self, addresses: Sequence[Address]) -> BoardReader:
        """A reader of these addresses, open when this returns."""

    def close(self) -> None:
        """Let the connections go. May be called twice, and the board may be used again afterwards."""


class PruneSchedule:
    """When to delete what has expired: at once, and then every twenty seconds or so, each process at moments of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_at = 0.0

    def due(self) -> bool:
        """Whether it is time; it counts as done then."""
        now = self._clock.monotonic()
        if now < self._due_at:
            return False
        self._due_at = now + _PRUNE_EVERY * random.uniform(0.5, 1.5)
        return True
