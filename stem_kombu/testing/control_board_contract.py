"""What every control board promises, as tests: derive from :class:`ControlBoardContract` and say where the board is.

As :mod:`stem_kombu.testing.store_contract`, for :class:`stem_kombu.transports.store.board.ControlBoard`.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import StoreError
from stem_kombu.testing.parallel import in_processes
from stem_kombu.transports.store.board import (
    BURST,
    COMMANDS,
    HEARTBEATS,
    Address,
    BoardReader,
    ControlBoard,
    inbox_address,
)
from stem_kombu.transports.store.registry import open_control_board

#: Longest wait for something that must happen, and life of what must not expire during a test, in seconds.
PATIENCE, HOUR = 60.0, 3600.0
#: Short enough to wait for.
MOMENT = 0.02
MINE, YOURS = inbox_address("stem-x-ctl-i-mine"), inbox_address("stem-x-ctl-i-yours")


class ControlBoardContract:
    """The promises of :class:`ControlBoard` and :class:`BoardReader`."""

    @pytest.fixture
    def url(self) -> str:
        """Where an empty board is. Override it."""
        raise NotImplementedError("override the fixture url: it gives the URL of an empty store")

    @pytest.fixture
    def left(self) -> Callable[[], int]:
        """Tells how many rows or keys are at the URL. Override it."""
        raise NotImplementedError("override the fixture left: it tells how many rows or keys of the board are there")

    @pytest.fixture
    def cut(self) -> Callable[[], None]:
        """Ends every connection to the database, as a server that restarts does. Override it."""
        raise NotImplementedError("override the fixture cut: it ends every connection to the database")

    @pytest.fixture
    def namespace(self) -> str:
        return f"contract-{uuid.uuid4().hex[:8]}"

    @pytest.fixture
    def open_board(self, url: str, namespace: str) -> Iterator[Callable[..., ControlBoard]]:
        """Opens one more board at the URL, closed at the end of the test."""
        opened: list[ControlBoard] = []

        def open_another(namespace: str = namespace) -> ControlBoard:
            opened.append(open_control_board(url, namespace))
            return opened[-1]

        yield open_another
        for board in opened:
            board.close()

    @pytest.fixture
    def board(self, open_board: Callable[..., ControlBoard]) -> ControlBoard:
        return open_board()

    @pytest.fixture
    def open_reader(self, open_board: Callable[..., ControlBoard]) -> Iterator[Callable[..., BoardReader]]:
        """Opens one more reader, of a board of its own as another process has, closed at the end of the test."""
        opened: list[BoardReader] = []

        def open_another(*addresses: Address) -> BoardReader:
            opened.append(open_board().open_reader(addresses))
            return opened[-1]

        yield open_another
        for reader in opened:
            reader.close()

    # What arrives.

    def test_each_reader_gets_what_is_published_to_a_shared_address_in_order(
        self, board: ControlBoard, open_reader: Callable[..., BoardReader]
    ) -> None:
        readers = [open_reader(COMMANDS), open_reader(COMMANDS, MINE)]

        sent = [f"{number}".encode() for number in range(20)]
        for body in sent:
            board.publish([COMMANDS], body, expires=HOUR)

        assert [all_of(reader, len(sent)) for reader in readers] == [[(COMMANDS, body) for body in sent]] * 2

    def test_what_was_shared_before_a_reader_opened_is_not_for_it(
        self, board: ControlBoard, open_reader: Callable[..., BoardReader]
    ) -> None:
        board.publish([COMMANDS], b"before", expires=HOUR)
        reader = open_reader(COMMANDS)
        board.publish([COMMANDS], b"after", expires=HOUR)

        assert all_of(reader, 1) == [(COMMANDS, b"after")]

    def test_what_waits_in_an_inbox_is_for_the_reader_that_comes(
        self, board: ControlBoard, open_reader: Callable[..., BoardReader]
    ) -> None:
        board.publish([MINE], b"before", expires=HOUR)
        reader = open_reader(COMMANDS, MINE)
        board.publish([MINE], b"after", expires=HOUR)

        assert all_of(reader, 2) == [(MINE, b"before"), (MINE, b"after")]

    def test_one_message_to_many_addresses_reaches_each_of_them(
        self, board: ControlBoard, open_reader: Callable[..., BoardReader]
    ) -> None:
        addresses = [inbox_address(f"stem-x-ctl-i-{number}") for number in range(200)]
        some = open_reader(*addresses[:3])

        board.publish([*addresses, addresses[0]], b"to all", expires=HOUR)

        assert sorted(all_of(some, 3), key=str) == [(address, b"to all") for address in addresses[:3]]
        assert all_of(open_reader(addresses[-1]), 1) == [(addresses[-1], b"to all")]

    def test_others_get_nothing_of_it(
        self, board: ControlBoard, open_board: Callable[..., ControlBoard], open_reader: Callable[..., BoardReader]
    ) -> None:
        reader = open_reader(COMMANDS, MINE)

        board.publish([YOURS, HEARTBEATS], b"to others", expires=HOUR)
        open_board("another").publish([COMMANDS, MINE], b"to another namespace", expires=HOUR)
        board.publish([COMMANDS], b"to this one", expires=HOUR)

        assert all_of(reader, 1) == [(COMMANDS, b"to this one")]

    @pytest.mark.parametrize("body", [b"", b"\0", bytes(range(256)), os.urandom(1_000_000)], ids=len)
    def test_a_body_is_any_bytes(
        self, board: ControlBoard, open_reader: Callable[..., BoardReader], body: bytes
    ) -> None:
        reader = open_reader(COMMANDS)

        board.publish([COMMANDS], body, expires=HOUR)

        ((_, arrived),) = all_of(reader, 1)
        assert type(arrived) is bytes
        assert arrived == body

    def test_a_burst_arrives_whole(self, board: ControlBoard, open_reader: Callable[..., BoardReader]) -> None:
        reader = open_reader(COMMANDS, MINE)
        sent = [f"{number}".encode() for number in range(BURST + 20)]

        for body in sent:
            board.publish([COMMANDS, MINE], body, expires=HOUR)

        arrived = all_of(reader, 2 * len(sent))
        assert [body for address, body in arrived if address == COMMANDS] == sent
        assert [body for address, body in arrived if address == MINE] == sent

    def test_many_writers_at_once_lose_nothing_and_double_nothing(
        self, url: str, namespace: str, open_reader: Callable[..., BoardReader]
    ) -> None:
        readers = [open_reader(COMMANDS), open_reader(COMMANDS), open_reader(MINE)]
        expected = sorted(f"{place}:{number}".encode() for place in range(4) for number in range(50))
        arrived: list[list[bytes]] = [[] for _ in readers]

        def read(place: int) -> None:
            arrived[place] = [body for _, body in all_of(readers[place], len(expected))]

        threads = [threading.Thread(target=read, args=(place,)) for place in range(len(readers))]
        for thread in threads:
            thread.start()
        in_processes(4, publish_many, url, namespace, 50)
        for thread in threads:
            thread.join(PATIENCE)

        assert [sorted(bodies) for bodies in arrived] == [expected] * 3

    # Waiting.

    def test_a_reader_that_waits_is_woken_by_what_comes(
        self, board: ControlBoard, open_reader: Callable[..., BoardReader]
    ) -> None:
        reader = open_reader(COMMANDS, MINE)
        arrived: list[tuple[Address, bytes]] = []
        thread = threading.Thread(target=lambda: arrived.extend(all_of(reader, 1)))
        thread.start()

        board.publish([MINE], b"wake up", expires=HOUR)

        thread.join(PATIENCE)
        assert arrived == [(MINE, b"wake up")]

    def test_a_wait_ends_when_its_time_is_up(self, open_reader: Callable[..., BoardReader]) -> None:
        reader = open_reader(COMMANDS)

        assert reader.wait(0.0) == []
        assert reader.wait(MOMENT) == []

    def test_a_wait_ends_when_its_descriptor_is_readable(self, open_reader: Callable[..., BoardReader]) -> None:
        reader, (readable, writable) = open_reader(COMMANDS), os.pipe()
        try:
            os.write(writable, b"x")
            began = SYSTEM.monotonic()

            assert reader.wait(HOUR, [readable]) == []

            assert SYSTEM.monotonic() - began < PATIENCE
        finally:
            os.close(readable)
            os.close(writable)

    # What goes.

    def test_what_has_expired_is_not_read(self, board: ControlBoard, open_reader: Callable[..., BoardReader]) -> None:
        reader = open_reader(COMMANDS, MINE)
        board.publish([COMMANDS, MINE], b"short", expires=MOMENT)
        SYSTEM.sleep(5 * MOMENT)
        board.publish([COMMANDS, MINE], b"long", expires=HOUR)

        assert sorted(all_of(reader, 2), key=str) == [(COMMANDS, b"long"), (MINE, b"long")]

    def test_what_was_read_from_an_inbox_is_taken_out(
        self, board: ControlBoard, open_reader: Callable[..., BoardReader], left: Callable[[], int]
    ) -> None:
        reader = open_reader(MINE)
        board.publish([MINE], b"one", expires=HOUR)
        board.publish([MINE], b"two", expires=HOUR)
        all_of(reader, 2)

        assert reader.wait(0.0) == []

        assert left() == 0

    def test_closing_takes_out_what_was_read_and_leaves_what_was_not(
        self, board: ControlBoard, open_reader: Callable[..., BoardReader], left: Callable[[], int]
    ) -> None:
        reader = open_reader(MINE)
        board.publish([MINE], b"read", expires=HOUR)
        all_of(reader, 1)
        board.publish([MINE], b"not read", expires=HOUR)

        reader.close()
        reader.close()

        assert all_of(open_reader(MINE), 1) == [(MINE, b"not read")]
        open_reader(MINE).close()

    def test_nothing_is_left_when_all_has_expired(
        self, board: ControlBoard, open_board: Callable[..., ControlBoard], left: Callable[[], int]
    ) -> None:
        reader = board.open_reader([COMMANDS, MINE])
        for _ in range(30):
            board.publish([COMMANDS, HEARTBEATS, MINE, YOURS], b"x", expires=MOMENT)
        open_board("another").publish([COMMANDS], b"x", expires=MOMENT)
        SYSTEM.sleep(5 * MOMENT)

        reader.close()

        deadline = SYSTEM.monotonic() + PATIENCE  # a server that deletes by itself does so a moment later
        while left() and SYSTEM.monotonic() < deadline:
            SYSTEM.sleep(MOMENT)
        assert left() == 0

    # Losses.

    def test_a_reader_whose_connection_was_lost_misses_nothing(
        self, open_board: Callable[..., ControlBoard], open_reader: Callable[..., BoardReader], cut: Callable[[], None]
    ) -> None:
        reader = open_reader(COMMANDS, MINE)
        board = open_board()
        board.publish([COMMANDS, MINE], b"0", expires=HOUR)
        arrived = set(all_of(reader, 2))
        for number in range(1, 4):
            cut()
            board.publish([COMMANDS, MINE], f"{number}".encode(), expires=HOUR)
            deadline = SYSTEM.monotonic() + PATIENCE
            while len(arrived) < 2 * (number + 1) and SYSTEM.monotonic() < deadline:
                try:
                    arrived |= set(reader.wait(1.0))
                except StoreError:
                    continue
        assert sorted(arrived, key=str) == sorted(
            ((address, f"{number}".encode()) for address in (COMMANDS, MINE) for number in range(4)), key=str
        )

    def test_a_closed_board_opens_again(self, board: ControlBoard, open_reader: Callable[..., BoardReader]) -> None:
        reader = open_reader(COMMANDS)
        board.close()
        board.close()

        board.publish([COMMANDS], b"again", expires=HOUR)

        assert all_of(reader, 1) == [(COMMANDS, b"again")]


def all_of(reader: BoardReader, count: int) -> list[tuple[Address, bytes]]:
    """At least ``count`` messages, and what came together with the last of them."""
    arrived: list[tuple[Address, bytes]] = []
    deadline = SYSTEM.monotonic() + PATIENCE
    while len(arrived) < count and (left := deadline - SYSTEM.monotonic()) > 0:
        arrived += reader.wait(left)
    return arrived


def publish_many(place: int, url: str, namespace: str, count: int) -> None:
    """In a process of its own: publish that many messages to all and to one inbox."""
    board = open_control_board(url, namespace)
    try:
        for number in range(count):
            board.publish([COMMANDS, MINE], f"{place}:{number}".encode(), expires=HOUR)
    finally:
        board.close()
