"""The children of a pool, by slot, and waiting for any of them to send frames, to take more bytes, or to end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stem_kombu import machine
from stem_kombu.clock import Clock
from stem_kombu.concurrency.pulse import Pulse
from stem_kombu.execution.frames import ChildState, SetLogLevels
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.slots import SlotView


class Children(dict[int, ChildHandle]):
    """Used under the pool's lock only. Numbers below zero are children that retire: their slots are others' already, and
    :meth:`views` leaves them out."""

    #: What each child's loggers log, as :class:`SetLogLevels` takes it.
    levels: Mapping[str, str] = {}

    def set_levels(self, levels: Mapping[str, str]) -> None:
        """Have the children log these levels: those that are loaded now, the others when they are."""
        self.levels = dict(levels)
        for child in self.values():
            if child.state not in (ChildState.STARTING, ChildState.RETIRING):
                child.send(SetLogLevels(self.levels))

    def loaded(self, child: ChildHandle) -> None:
        """A child is ready."""
        if self.levels:
            child.send(SetLogLevels(self.levels))

    def holds(self, child: ChildHandle) -> bool:
        """Whether it has not been taken out since."""
        return self.get(child.slot) is child

    def running(self, token: int) -> ChildHandle | None:
        """The child that has that job."""
        for child in self.values():
            if child.job is not None and child.job.token == token:
                return child
        return None

    def views(self) -> list[SlotView]:
        """Every slot as it stands, in order."""
        return [child.view() for slot, child in sorted(self.items()) if slot >= 0]

    def descriptors(self) -> list[int]:
        """What a process that is forked meanwhile must not keep."""
        return [descriptor for child in self.values() for descriptor in child.descriptors]

    def have_started(self, slots: int) -> bool:
        """Whether there are as many, and all of them have loaded the application or failed to."""
        return len(self) >= slots and all(child.state is not ChildState.STARTING for child in self.values())

    def leave_slot(self, child: ChildHandle) -> int:
        """Keep a child that retires under a number below zero; the number of the slot that is free for another one."""
        slot = child.slot
        del self[slot]
        child.slot = -child.pid
        self[child.slot] = child
        return slot

    def mark_surplus(self, slots: int) -> list[ChildHandle]:
        """The children beyond so many slots, which get nothing more to run; the others may."""
        for slot, child in self.items():
            child.is_surplus = slot >= slots
        return [child for child in self.values() if child.is_surplus]

    def wind_down(self, now: float, release_at: float | None) -> None:
        """Retire the children that are idle. Once ``release_at`` (monotonic) has passed, release what the others run."""
        for child in self.values():
            if child.is_free or child.state is ChildState.STARTING:
                child.retire(now)
            elif release_at is not None and now >= release_at:
                child.release(now)


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
