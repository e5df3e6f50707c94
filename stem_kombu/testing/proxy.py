"""A TCP proxy whose connections can be cut, stalled and delayed: network faults without mocks.

with TcpProxy("127.0.0.1", server_port) as proxy:
    client = connect(proxy.host, proxy.port)
    proxy.stall()      # bytes stop, connections stay: a network that swallows packets
    proxy.resume()     # and what was held goes on, in order
    proxy.cut()        # every open connection is reset; new ones are welcome
    proxy.half_open()  # the server loses its peers, the clients are told nothing
    proxy.stop()       # as cut, and new connections are refused until start()
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import TracebackType

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.testing.ports import free_port
from stem_kombu.testing.proxy_loop import Loop, Weather


class TcpProxy:
    """Forwards connections made to ``host``:``port`` to a target. The port stays the same over every stop and start.

    Every method returns once its effect is in force and may be called in any state, from any thread.
    """

    def __init__(self, target_host: str, target_port: int, *, clock: Clock = SYSTEM) -> None:
        self.host = "127.0.0.1"
        self.port = free_port(self.host)
        self._weather = Weather()
        self._target = (target_host, target_port)
        self._clock = clock
        self._lock = threading.RLock()
        self._loop: Loop | None = None

    def __enter__(self) -> TcpProxy:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return 0 if self._loop is None else len(self._loop.links)

    @property
    def accepted(self) -> int:
        """How many connections were accepted since the proxy was made: a client that reconnects adds one."""
        return self._weather.accepted

    @property
    def bytes_to_target(self) -> int:
        """How many bytes were handed on to the target since the proxy was made."""
        return self._weather.passed[True]

    @property
    def bytes_to_client(self) -> int:
        """How many bytes were handed on to clients since the proxy was made."""
        return self._weather.passed[False]

    def start(self) -> None:
        """Listen. Raises ``OSError`` if something else has taken the port meanwhile."""
        with self._lock:
            if self._loop is None:
                listener = socket.create_server((self.host, self.port), backlog=128)
                self._loop = Loop(listener, self._target, self._weather, self._clock)
                self._loop.start()

    def stop(self) -> None:
        """Refuse new connections and reset the open ones."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.stop()

    def cut(self) -> None:
        """Reset every open connection, on both sides. New ones are accepted and forwarded."""
        self._order(Loop.cut)

    def half_open(self) -> None:
        """Reset the target's side of every open connection; the clients are told nothing and send into the void."""
        self._order(Loop.abandon)

    def stall(self, *, to_target: bool = True, to_client: bool = True) -> None:
        """Hold back every byte in the directions named, of open and of new connections, until :meth:`resume`."""
        self._hold(to_target, to_client)

    def stall_after(self, answered: int) -> None:
        """Let this many bytes more reach clients, then hold back what follows, until :meth:`resume`: a server that falls
        silent in the middle of a conversation."""
        self._hold(False, not answered, answered or None)

    def resume(self) -> None:
        """Let go what :meth:`stall` holds back, in order. Connections of :meth:`half_open` stay lost."""
        self._hold(False, False)

    def delay(self, seconds: float) -> None:
        """Let every byte that is sent from now on arrive that much later, in each direction; 0 ends it."""
        self._weather.delay = seconds
        self._order(Loop.look_again)

    def _hold(self, to_target: bool, to_client: bool, left: int | None = None) -> None:
        def change(_: Loop | None) -> None:
            self._weather.stalled = {True: to_target, False: to_client}
            self._weather.left = left

        with self._lock:
            if self._loop is None:
                change(None)
            else:
                self._loop.carry_out(change)  # by the thread that counts what is left

    def _order(self, what: Callable[[Loop], None]) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.carry_out(what)
