"""Waiting for any child of a pool to send frames, to take more bytes, or to end."""

from __future__ import annotations

from collections.abc import Iterable

from stem_kombu import machine
from stem_kombu.clock import Clock
from stem_kombu.concurrency.pulse import Pulse
from stem_kombu.execution.pool.child_handle import ChildHandle


class ChildWatch:
    """A selector over the children's pipes and ends, and ``wake``, a descriptor by which other threads end a wait.
    ``pulse`` is stamped with each wait."""

    def __init__(self, wake: int, pulse: Pulse, clock: Clock) -> None:
        self._pulse, self._clock = pulse, clock
        self._selector = machine.Selector()
        self._selector.register(wake, machine.EVENT_READ)
        self._watched: dict[int, tuple[ChildHandle, bool]] = {}
        self._followed: list[tuple[ChildHandle, bool]] = []

    def follow(self, children: Iterable[ChildHandle]) -> None:
        """Watch these children and no others; where something waits to be written, for room as well."""
        followed = [(child, bool(child.unsent)) for child in children]
        if followed == self._followed:
            return
        self._followed = followed
        wanted: dict[int, tuple[ChildHandle, bool]] = {}
        for child, has_unsent in followed:
            wanted[child.descriptor] = (child, has_unsent)
            for ending in child.sentinels:
                wanted[ending] = (child, False)
        for fd, entry in list(self._watched.items()):
            if wanted.get(fd) != entry:
                self._selector.unregister(fd)
                del self._watched[fd]
        for fd, entry in wanted.items():
            if fd not in self._watched:
                self._selector.register(fd, machine.EVENT_READ | (machine.EVENT_WRITE if entry[1] else 0))
                self._watched[fd] = entry

    def wait(self, seconds: float, rest: float = 0.0) -> list[ChildHandle | None]:
        """Those that something has happened to, within so many seconds, ``rest`` of which pass in any case; ``None`` for the
        descriptor that wakes."""
        self._pulse.beat()
        if rest:
            self._clock.sleep(min(seconds, rest))
        watched = self._watched
        return [watched[key.fd][0] if key.fd in watched else None for key, _ in self._selector.select(seconds)]

    def close(self) -> None:
        self._pulse.rest()
        self._selector.close()
