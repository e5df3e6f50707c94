"""What the tests of this room share: reading messages, processes that are killed, sockets that fail."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from kombu import Connection, Consumer, Queue

from stem_kombu.clock import SYSTEM
from stem_kombu.transports.connections import connect, open_connection, pump


def connected(url: str, **options: Any) -> Connection:
    """A connection that is up; the caller releases it."""
    return connect(open_connection(url, options=options or None))


class Inbox:
    """Consumes one queue of a connection and keeps what comes, unacknowledged."""

    def __init__(self, connection: Connection, queue: Queue, *, prefetch: int = 0, declare: bool = True) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        self.consumer = Consumer(
            connection.default_channel, [queue], on_message=self.messages.append, accept=["json"], auto_declare=declare
        )
        self.consumer.qos(prefetch_count=prefetch)
        self.consumer.consume()

    def until(self, count: int, timeout: float = 10.0) -> list[Any]:
        """The messages, once there are so many of them; fails when no further one comes for so long."""
        deadline, found = SYSTEM.monotonic() + timeout, len(self.messages)
        while len(self.messages) < count:
            left = deadline - SYSTEM.monotonic()
            assert left > 0, f"{found} of {count} messages came, and no further one within {timeout} s"
            pump(self.connection, min(left, 0.2))
            if len(self.messages) > found:
                deadline, found = SYSTEM.monotonic() + timeout, len(self.messages)
        return self.messages

    def listen(self, seconds: float, between: Callable[[], object] = lambda: None) -> list[Any]:
        """The messages that came within that time; ``between`` is called several times a second."""
        deadline = SYSTEM.monotonic() + seconds
        while (left := deadline - SYSTEM.monotonic()) > 0:
            between()
            pump(self.connection, min(left, 0.1))
        return self.messages


@contextlib.contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs the script and has printed its first line; killed with SIGKILL at the end."""
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Relay:
    """A port on this machine that passes everything on to another one, until told otherwise."""

    def __init__(self, port: int, wrap: Callable[[socket.socket], socket.socket] | None = None) -> None:
        self._target = port
        self._wrap = wrap
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection that is open now."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Refuse new connections as well."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            near = near if self._wrap is None else self._wrap(near)
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # a handshake that the client broke off
            near.close()
            return
        self._pairs.append((near, far))
        back = threading.Thread(target=self._pass_on, args=(far, near), daemon=True)
        back.start()
        self._pass_on(near, far)
        back.join()
        near.close()
        far.close()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
