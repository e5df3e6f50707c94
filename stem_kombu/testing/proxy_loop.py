"""The thread behind :class:`stem_kombu.testing.proxy.TcpProxy`, which owns its sockets.

It carries out the proxy's orders between two looks at them. (With a thread per direction a reset could not be sent while
another thread sits in ``recv`` of the same socket.)
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from stem_kombu.clock import Clock

_CHUNK_BYTES = 65_536
_HELD_BYTES = 4 * 1024 * 1024
_CONNECT_TIMEOUT = 1.0
_ORDER_TIMEOUT = 10.0
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Weather:
    """What is asked of the network, and what passed; survives stops. ``True`` is the direction to the target."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.stalled = {True: False, False: False}
        #: How many bytes may still go to clients before that direction stalls; ``None``: any number.
        self.left: int | None = None
        self.passed = {True: 0, False: 0}
        self.accepted = 0


class _End:
    """What follows the last byte of a stream."""


_ORDERLY, _RESET = _End(), _End()


@dataclass(slots=True)
class _Stream:
    """One direction of a connection: what was read and may not go on yet, each with the time from which it may."""

    to_target: bool
    source: socket.socket
    sink: socket.socket
    held: deque[tuple[float, bytes | _End]] = field(default_factory=deque)
    held_bytes: int = 0
    ended: bool = False

    def read(self, due: float) -> None:
        """Take a chunk, or the end, from the source."""
        chunk: bytes | _End
        try:
            chunk = self.source.recv(_CHUNK_BYTES) or _ORDERLY
        except BlockingIOError:
            return
        except OSError:
            chunk = _RESET
        self.held.append((due, chunk))
        self.ended = isinstance(chunk, _End)
        self.held_bytes += 0 if isinstance(chunk, _End) else len(chunk)


@dataclass(slots=True, eq=False)
class _Link:
    """A client's connection and its counterpart at the target. ``target`` is ``None`` once it was abandoned."""

    client: socket.socket
    target: socket.socket | None
    streams: list[_Stream]

    def ends(self) -> list[socket.socket]:
        return [end for end in (self.client, self.target) if end is not None]


class Loop:
    """The thread that owns the sockets, from one start of the proxy to its stop."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], weather: Weather, clock: Clock) -> None:
        self.links: set[_Link] = set()
        self._listener = listener
        self._target = target
        self._weather = weather
        self._clock = clock
        self._orders: deque[tuple[Callable[[Loop], None], threading.Event]] = deque()
        self._bell, self._rope = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._watched: dict[socket.socket, int] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"proxy-{listener.getsockname()[1]}", daemon=True)
        for end in (listener, self._bell):
            end.setblocking(False)
            self._selector.register(end, selectors.EVENT_READ)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.carry_out(Loop._end)
        self._thread.join(_ORDER_TIMEOUT)

    def carry_out(self, what: Callable[[Loop], None]) -> None:
        """Have the loop's thread do it, and wait for that."""
        done = threading.Event()
        self._orders.append((what, done))
        self._rope.send(b"!")
        if not done.wait(_ORDER_TIMEOUT):
            raise RuntimeError("the proxy's thread does not answer")

    def look_again(self) -> None:
        """Nothing but another round: the weather changed."""

    def cut(self) -> None:
        for link in list(self.links):
            self._drop(link)

    def abandon(self) -> None:
        for link in self.links:
            if link.target is not None:
                self._unwatch(link.target)
                _reset(link.target)
                link.target = None
                link.streams = [stream for stream in link.streams if stream.to_target]

    def _end(self) -> None:
        self._stopping = True
        self._selector.unregister(self._listener)
        self._listener.close()
        self.cut()

    def _run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(self._watch_all()):
                if key.fileobj is self._bell:
                    self._obey()
                elif key.fileobj is self._listener and not self._stopping:
                    self._accept()
            for link in list(self.links):
                self._carry(link)
        self._selector.close()
        self._bell.close()
        self._rope.close()

    def _obey(self) -> None:
        self._bell.recv(4096)
        while self._orders:
            what, done = self._orders.popleft()
            what(self)
            done.set()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # the client gave up between its call and our answer
            return
        try:
            target = socket.create_connection(self._target, timeout=_CONNECT_TIMEOUT)
        except OSError:  # the target is down: the client loses its connection, as it would lose one to the target
            _reset(client)
            return
        for end in (client, target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._weather.accepted += 1
        self.links.add(_Link(client, target, [_Stream(True, client, target), _Stream(False, target, client)]))

    def _watch_all(self) -> float | None:
        """Tell the selector what is awaited, and return the seconds until the next held chunk is due."""
        now, wait = self._clock.monotonic(), None
        for link in self.links:
            wanted = dict.fromkeys(link.ends(), 0)
            for stream in link.streams:
                if not stream.ended and stream.held_bytes < _HELD_BYTES:
                    wanted[stream.source] |= selectors.EVENT_READ
                if stream.held and not self._weather.stalled[stream.to_target]:
                    left = stream.held[0][0] - now
                    if left <= 0 and link.target is not None:
                        wanted[stream.sink] |= selectors.EVENT_WRITE
                    else:
                        wait = max(0.0, left) if wait is None else min(wait, max(0.0, left))
            for end, events in wanted.items():
                self._watch(end, events)
        return wait

    def _watch(self, end: socket.socket, events: int) -> None:
        if self._watched.get(end, 0) == events:
            return
        if not events:
            self._unwatch(end)
        elif end in self._watched:
            self._selector.modify(end, events)
            self._watched[end] = events
        else:
            self._selector.register(end, events)
            self._watched[end] = events

    def _unwatch(self, end: socket.socket) -> None:
        if self._watched.pop(end, None) is not None:
            self._selector.unregister(end)

    def _carry(self, link: _Link) -> None:
        """Read what can be read, write what is due; sockets don't block, so asking one too many is harmless."""
        now = self._clock.monotonic()
        for stream in link.streams:
            if not stream.ended and stream.held_bytes < _HELD_BYTES:
                stream.read(now + self._weather.delay)
            while stream.held and stream.held[0][0] <= now and not self._weather.stalled[stream.to_target]:
                if not self._pass_on(link, stream):
                    break
            if link not in self.links:
                return
        if all(stream.ended and not stream.held for stream in link.streams):
            self._drop(link, orderly=link.target is not None)

    def _pass_on(self, link: _Link, stream: _Stream) -> bool:
        """Hand on the first of what is held; whether all of it went."""
        due, chunk = stream.held.popleft()
        if isinstance(chunk, _End):
            if chunk is _RESET:
                self._drop(link)
            elif link.target is not None:
                _half_close(stream.sink)
            return chunk is _ORDERLY
        stream.held_bytes -= len(chunk)
        if link.target is None:
            return True  # the void
        left = None if stream.to_target else self._weather.left
        try:
            sent = stream.sink.send(chunk if left is None else chunk[:left])
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(link)
            return False
        self._weather.passed[stream.to_target] += sent
        if left is not None:
            self._weather.left = left - sent
            self._weather.stalled[False] |= left == sent
        if sent < len(chunk):
            stream.held.appendleft((due, chunk[sent:]))
            stream.held_bytes += len(chunk) - sent
            return False
        return True

    def _drop(self, link: _Link, *, orderly: bool = False) -> None:
        self.links.discard(link)
        for end in link.ends():
            self._unwatch(end)
            if orderly:
                end.close()
            else:
                _reset(end)


def _half_close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # gone already; the next read of it tells the loop
        end.shutdown(socket.SHUT_WR)


def _reset(end: socket.socket) -> None:
    """Close with a TCP reset instead of an orderly end."""
    with contextlib.suppress(OSError):  # the peer was faster
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    end.close()
