"""Waiting for descriptors with ``poll()``, or with ``select()`` where eventlet has taken ``poll()`` away: its ``select()`` is its
own, and knows descriptors above 1023 as well."""

from __future__ import annotations

import select
import socket
from typing import Protocol

POLLIN, POLLOUT = 1, 4


class Poller(Protocol):
    """What is used of ``select.poll``."""

    def register(self, fd: int | socket.socket, eventmask: int, /) -> None: ...

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        """Descriptors that are ready, with what for, after at most ``timeout`` milliseconds."""


def poller() -> Poller:
    """A new one."""
    made: Poller = select.poll() if hasattr(select, "poll") else _Selecting()
    return made


class _Selecting:
    """``select()`` with the methods of ``poll()``."""

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def register(self, fd: int | socket.socket, eventmask: int, /) -> None:
        self._masks[fd if isinstance(fd, int) else fd.fileno()] = eventmask

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        reading = [fd for fd, mask in self._masks.items() if mask & POLLIN]
        writing = [fd for fd, mask in self._masks.items() if mask & POLLOUT]
        readable, writable, _ = select.select(reading, writing, [], timeout / 1000)
        return [(fd, POLLIN) for fd in readable] + [(fd, POLLOUT) for fd in writable]
