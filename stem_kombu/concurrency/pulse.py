"""The stamps of a worker's vital threads, which a probe in another process reads (:mod:`stem_kombu.health_page`)."""

from __future__ import annotations

from typing import Protocol

from stem_kombu.clock import monotonic


class Cells(Protocol):
    """Where a stamp goes: the first of them."""

    def __getitem__(self, number: int, /) -> float: ...

    def __setitem__(self, number: int, stamp: float, /) -> None: ...


class Pulse:
    """The stamp of one thread, or of one thing that is to happen again and again. ``period``: seconds that lie between two of
    them at most, when all goes well. Of no consequence until a health file shows it."""

    __slots__ = ("_cell", "name", "period")

    def __init__(self, name: str, period: float = 0.0) -> None:
        self.name, self.period = name, period
        self._cell: Cells = [0.0]

    def beat(self) -> None:
        """It moves, now. Costs as much as reading the clock."""
        self._cell[0] = monotonic()

    def lag(self, now: float) -> float:
        """By how many seconds its next stamp is late; 0 where it is not, or has not begun."""
        stamp = self._cell[0]
        return max(0.0, now - stamp - self.period) if stamp else 0.0

    def rest(self) -> None:
        """It has ended, so that its silence means nothing."""
        self._cell[0] = 0.0

    def show_in(self, cell: Cells) -> None:
        """Stamp that cell from now on, beginning with the last stamp."""
        cell[0] = self._cell[0]
        self._cell = cell

    def hide(self) -> None:
        """Stamp no cell of a file any more."""
        self._cell = [self._cell[0]]


class Pulses:
    """What one worker stamps: its vital threads; ``consumed``, each turn with the broker in which its queues were consumed; and
    ``synced``, each time the revoke store was read."""

    def __init__(self) -> None:
        self.threads: list[Pulse] = []
        self.consumed, self.synced = Pulse("consumed"), Pulse("synced")

    def thread(self, name: str, period: float) -> Pulse:
        """A new one, of a vital thread."""
        pulse = Pulse(name, period)
        self.threads.append(pulse)
        return pulse
