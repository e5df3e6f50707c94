"""The port of a control board: messages with an expiry, in a database that all processes of a fleet share.

Kombu keeps bindings in the memory of one process on SQS, SQLAlchemy and the like, and polls there for up to ten seconds. On
such a broker commands, replies and heartbeats travel through the database of the revoke store instead. The contract suite
:mod:`stem_kombu.testing.control_board_contract` says in tests what is promised here.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stem_kombu.concurrency.poller import POLLIN, poller

#: Messages that one :meth:`BoardReader.wait` returns at most, of each address.
BURST = 500
#: Expired rows that are deleted at a time.
PRUNED_AT_ONCE = 1000


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


def inbox_address(name: str) -> Address:
    """The address of one worker or one client; ``name`` is the name of its queue at a broker."""
    return Address(name, shared=False)


class BoardReader(Protocol):
    """Reads some addresses of a board; used by one thread at a time. It misses nothing that is published after it is open.

    Positions are by the order in which the database makes messages visible, and outlive a lost connection: after a
    :class:`~stem_kombu.errors.StoreUnavailable` the next :meth:`wait` connects again and returns what came meanwhile. A
    message may then come twice, and those of one sender to one address keep their order. Readers delete what has expired.
    """

    def wait(self, timeout: float, wakes: Sequence[int] = ()) -> list[tuple[Address, bytes]]:
        """Messages that have not expired, after waiting at most ``timeout`` seconds for the first, or until one of the
        descriptors ``wakes`` is readable; empty when none came. Those of an unshared address are deleted by the next call, or by
        :meth:`close`. Raises :class:`~stem_kombu.errors.StoreError`."""

    def close(self, *, broken: bool = False) -> None:
        """Delete what was returned of unshared addresses, unless the database is not expected to answer (``broken``), and let
        the connection go. May be called twice; never raises."""


class ControlBoard(Protocol):
    """Messages of one namespace. Safe from any thread; connects when first used, and again after a loss.

    Every method raises :class:`~stem_kombu.errors.StoreUnavailable` when the database can't be reached within a bounded time.
    """

    #: The URL with its password masked, for people.
    url: str

    def publish(self, addresses: Sequence[Address], body: bytes, *, expires: float) -> None:
        """Put one message into each of the addresses, for ``expires`` seconds by the database's clock. Repeated once when
        the answer is lost, so it may then be there twice."""

    def open_reader(self, addresses: Sequence[Address]) -> BoardReader:
        """A reader of these addresses, open when this returns."""

    def limit(self, seconds: float) -> None:
        """Wait no longer than that for any one answer of the database from now on, here and in readers."""

    def close(self) -> None:
        """Let the connections go. May be called twice, and the board may be used again afterwards."""


def readable(descriptors: Sequence[int | socket.socket], seconds: float) -> set[int]:
    """Which of the descriptors are readable, after waiting at most ``seconds`` for one."""
    waiting = poller()
    for descriptor in descriptors:
        waiting.register(descriptor, POLLIN)
    return {descriptor for descriptor, _ in waiting.poll(max(0.0, seconds) * 1000)}
