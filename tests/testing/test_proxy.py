"""The proxy's faults are the faults that they are named after, seen from both ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.testing.proxy import TcpProxy
from tests.waiting import consistently, eventually


class EchoServer:
    """Answers every byte with itself, and remembers how its connections ended."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.endings: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(peer,), daemon=True).start()

    def _echo(self, peer: socket.socket) -> None:
        with peer:
            try:
                while said := peer.recv(65_536):
                    peer.sendall(said)
                self.endings.append("orderly")
            except ConnectionError:
                self.endings.append("reset")

    def close(self) -> None:
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", echo.port) as running:
        yield running


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with connect(proxy) as connection:
        yield connection


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=5)


def ask(connection: socket.socket, said: bytes = b"hello") -> bytes:
    connection.sendall(said)
    answer = b""
    while len(answer) < len(said):
        read = connection.recv(65_536)
        if not read:
            raise EOFError
        answer += read
    return answer


def quiet(connection: socket.socket) -> bool:
    """Whether nothing can be read, neither a byte nor an end."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
        return False
    except BlockingIOError:
        return True
    finally:
        connection.settimeout(5)


def test_bytes_pass_in_order_and_are_counted(proxy: TcpProxy, client: socket.socket) -> None:
    said = bytes(range(256)) * 4096  # more than the proxy takes in one bite
    heard = bytearray()
    reader = threading.Thread(
        target=lambda: [heard.extend(client.recv(65_536)) for _ in iter(lambda: len(heard) < len(said), False)]
    )
    reader.start()
    client.sendall(said)
    reader.join(20)
    assert bytes(heard) == said
    # counted once the kernel has them, which may be after the client has read them
    eventually(lambda: (proxy.bytes_to_target, proxy.bytes_to_client) == (len(said), len(said)))


def test_an_orderly_end_reaches_the_other_side_and_so_does_its_answer(
    proxy: TcpProxy, client: socket.socket, echo: EchoServer
) -> None:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    heard = b""
    while read := client.recv(100):
        heard += read
    assert heard == b"last words"
    eventually(lambda: proxy.connections == 0)
    assert echo.endings == ["orderly"]


def test_cut_resets_both_sides_and_welcomes_the_next(proxy: TcpProxy, client: socket.socket, echo: EchoServer) -> None:
    assert ask(client) == b"hello"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    eventually(lambda: echo.endings == ["reset"])
    with connect(proxy) as again:
        assert ask(again) == b"hello"
    assert proxy.accepted == 2


def test_a_server_falls_silent_after_so_many_bytes(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.stall_after(8)
    assert ask(client) == b"hello"
    client.sendall(b"hello")
    heard = b""
    while len(heard) < 3:
        heard += client.recv(100)
    assert heard == b"hel"
    eventually(lambda: proxy.bytes_to_target == 10)
    assert quiet(client)
    proxy.resume()
    assert client.recv(100) == b"lo"
    assert ask(client) == b"hello"


def test_stop_refuses_and_start_listens_on_the_same_port(proxy: TcpProxy, client: socket.socket) -> None:
    assert ask(client) == b"hello"
    port = proxy.port
    proxy.stop()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.start()
    assert proxy.port == port
    with connect(proxy) as again:
        assert ask(again) == b"hello"


def test_stall_holds_bytes_back_and_resume_lets_them_go(proxy: TcpProxy, client: socket.socket) -> None:
    assert ask(client) == b"hello"
    proxy.stall()
    client.sendall(b"held")
    with connect(proxy) as newcomer:  # a connection is made, and stays silent too
        newcomer.sendall(b"also held")
        consistently(lambda: quiet(client) and quiet(newcomer), during=0.2)
        proxy.resume()
        assert client.recv(100) == b"held"
        assert newcomer.recv(100) == b"also held"


def test_stall_of_one_direction_loses_the_answer_only(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.stall(to_target=False)
    client.sendall(b"asked")
    eventually(lambda: proxy.bytes_to_target == 5, message="the question arrives")
    consistently(lambda: quiet(client) and proxy.bytes_to_client == 0, during=0.1)
    proxy.resume()
    assert client.recv(100) == b"asked"


def test_a_client_that_leaves_during_a_stall_is_noticed_afterwards(
    proxy: TcpProxy, client: socket.socket, echo: EchoServer
) -> None:
    assert ask(client) == b"hello"
    proxy.stall()
    client.close()
    consistently(lambda: echo.endings == [], during=0.1)
    proxy.resume()
    eventually(lambda: echo.endings == ["orderly"])


def test_delay_makes_a_round_trip_take_at_least_twice_as_long(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.delay(0.05)
    began = SYSTEM.monotonic()
    assert ask(client) == b"hello"
    assert SYSTEM.monotonic() - began >= 0.1
    proxy.delay(0)
    assert ask(client, b"quick again") == b"quick again"


def test_half_open_resets_the_target_and_tells_the_client_nothing(
    proxy: TcpProxy, client: socket.socket, echo: EchoServer
) -> None:
    assert ask(client) == b"hello"
    proxy.half_open()
    eventually(lambda: echo.endings == ["reset"])
    client.sendall(b"anybody there?")
    consistently(lambda: quiet(client), during=0.1)
    client.close()
    eventually(lambda: proxy.connections == 0)


def test_a_target_that_is_down_ends_the_clients_connection(proxy: TcpProxy, echo: EchoServer) -> None:
    echo.close()
    with pytest.raises(ConnectionError), connect(proxy) as connection:
        ask(connection)


def test_everything_may_be_called_in_any_state() -> None:
    proxy = TcpProxy("127.0.0.1", 1)
    for method in (
        proxy.stop,
        proxy.cut,
        proxy.half_open,
        proxy.stall,
        proxy.resume,
        proxy.start,
        proxy.start,
        proxy.stop,
        proxy.stop,
    ):
        method()
    assert proxy.connections == 0
