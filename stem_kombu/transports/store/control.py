"""The control link through the store, for brokers that cannot fan out between processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.errors import BrokerRefused, BrokerUnavailable, StoreError, StoreRefused
from stem_kombu.transports.control_link import Addresses, ControlMessage, MalformedMessage, MessageKind, Received
from stem_kombu.transports.store.board import (
    COMMANDS,
    HEARTBEATS,
    Address,
    BoardReader,
    ControlBoard,
    inbox_address,
    readable,
)

#: Makes the board of a namespace; the second number is the longest wait for an answer, in seconds.
OpenBoard = Callable[[str, float], ControlBoard]


class StoreControlLink:
    """See :class:`~stem_kombu.transports.control_link.ControlLink`. Nothing is made or asked at the broker.

    ``url`` is that of the store, masked; ``open_board(namespace, patience)`` makes a board of it.
    """

    def __init__(self, url: str, open_board: OpenBoard) -> None:
        self.url = url
        self._open_board = open_board

    def fans_out(self, timeout: float = 2.0) -> bool:
        return True

    def open(
        self, addresses: Addresses, *, timeout: float, limit: float, confirms: bool = False
    ) -> StoreControlConnection:
        board = self._open_board(addresses.namespace, min(timeout, limit))
        with _broker_errors():
            try:
                connection = StoreControlConnection(board, addresses)
            except BaseException:
                board.close()
                raise
        connection.limit(limit)
        return connection


class StoreControlConnection:
    """See :class:`~stem_kombu.transports.control_link.ControlConnection`. ``board`` is this connection's own."""

    #: Each wait looks after itself.
    keepalive: float | None = None

    def __init__(self, board: ControlBoard, addresses: Addresses) -> None:
        self._board = board
        self._largest = addresses.largest
        self._kinds = dict(_places(addresses))
        self._reader: BoardReader | None = board.open_reader(list(self._kinds)) if self._kinds else None
        self._reading = threading.Lock()
        self._closing = WakePipe()
        self._closing.open()
        self._closed = False

    @property
    def is_blocked(self) -> bool:
        return False

    def broadcast(self, body: bytes, *, expires: float) -> None:
        self._publish(COMMANDS, body, expires)

    def send(self, inbox: str, body: bytes, *, expires: float) -> None:
        self._publish(inbox_address(inbox), body, expires)

    def publish_heartbeat(self, body: bytes, *, expires: float) -> None:
        self._publish(HEARTBEATS, body, expires)

    def settle(self) -> None:
        """What was published is in the store."""

    def wait(self, seconds: float, wake: int = -1) -> Sequence[Received]:
        with self._reading:
            self._require_open()
            wakes = [self._closing.reader, *([wake] if wake >= 0 else [])]
            if self._reader is None:
                readable(wakes, seconds)
                return []
            with _broker_errors():
                found = self._reader.wait(seconds, wakes)
        return [self._received(address, body) for address, body in found]

    def limit(self, seconds: float) -> None:
        self._board.limit(seconds)

    def close(self, *, broken: bool = False) -> None:
        self._closed = True
        self._closing.wake()
        with self._reading:  # which a wait in another thread lets go of now
            if self._reader is not None:
                self._reader.close(broken=broken)
            self._closing.close()
        self._board.close()

    def _publish(self, address: Address, body: bytes, expires: float) -> None:
        self._require_open()
        with _broker_errors():
            self._board.publish([address], body, expires=expires)

    def _received(self, address: Address, body: bytes) -> Received:
        if len(body) > self._largest:
            return MalformedMessage(f"a message of {len(body)} bytes, of which at most {self._largest} are read")
        return ControlMessage(self._kinds[address], body)

    def _require_open(self) -> None:
        if self._closed:
            raise BrokerUnavailable(f"{self._board.url}: this control connection was closed")


def _places(addresses: Addresses) -> Iterator[tuple[Address, MessageKind]]:
    if addresses.inbox is not None:
        yield inbox_address(addresses.inbox), MessageKind.INBOX
    if addresses.broadcasts:
        yield COMMANDS, MessageKind.BROADCAST
    if addresses.heartbeats:
        yield HEARTBEATS, MessageKind.HEARTBEAT


@contextmanager
def _broker_errors() -> Iterator[None]:
    """Raise what the store raises as the broker's errors, which is what callers of a link expect."""
    try:
        yield
    except StoreRefused as error:
        raise BrokerRefused(error.message, hint=error.hint) from error
    except StoreError as error:
        raise BrokerUnavailable(error.message, hint=error.hint) from error
