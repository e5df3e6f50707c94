"""How many messages to hold, when isolates and inline tasks come through the same queue.

The broker knows no modes, so a worker with both kinds fetches what it could run whichever kind comes. While the slots of one
kind are full it looks for the other: what it fetches and can't start is deferred, in order, and starts as its slots free.
A message that waits here while another worker is idle is what operators can't understand. So a look is bounded in depth and
time, and what is still deferred then is given back together, because a message that is given back is the next to come
again; other workers have a moment to take it. If none did, the next look lasts longer. Pure: the time is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from stem_kombu import timeouts
from stem_kombu.task import Mode

#: The largest prefetch count: AMQP has 16 bits for it.
MOST = 65_535
#: Messages that a look defers at a time.
LOOK_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Load:
    """What is here: running or waiting for a slot, by mode."""

    isolates: int
    inline: int


class PrefetchPolicy:
    """The allowance of a worker with ``isolates`` children and ``inline`` slots, and ``multiplier`` messages for each."""

    def __init__(self, isolates: int, inline: int, multiplier: int) -> None:
        self._multiplier = multiplier
        self._places = isolates * multiplier
        self._inline = inline * multiplier
        #: Whether both kinds may come, so that the allowance has to move.
        self.is_mixed = self._places > 0 and self._inline > 0
        self._look_until = float("-inf")
        self._look_for = timeouts.PREFETCH_LOOK
        self._came_back = False

    def resize(self, isolates: int) -> None:
        """There are so many children from now on; at least one, where there were any."""
        self._places = isolates * self._multiplier

    def allowance(self, load: Load, now: float, deferred: int = 0) -> int:
        """How many messages may be here, those of ``load`` included, besides the ``deferred`` ones. ``now`` is monotonic."""
        if not self.is_mixed:
            return min(MOST, self._places + self._inline)
        children = max(0, self._places - load.isolates)
        slots = max(0, self._inline - load.inline)
        if children and slots:
            room = min(children, slots)
        elif children or slots:
            looks = not self._look_until <= now < self._look_until + timeouts.PREFETCH_LOOK_EVERY
            room = max(0, min(children or slots, LOOK_DEPTH - deferred)) if looks else 0
        else:
            room = 0
        return min(MOST, load.isolates + load.inline + room)

    def deferred_until(self, mode: Mode, load: Load, now: float) -> float | None:
        """``None`` when a message that has just come, and is part of ``load``, may wait for its slot; else until when
        (monotonic) it is to be deferred."""
        if not self.is_mixed:
            return None
        if load.isolates <= self._places if mode is Mode.ISOLATE else load.inline <= self._inline:
            return None
        if now >= self._look_until:
            self._look_for = (
                min(timeouts.PREFETCH_LONGEST_LOOK, 2 * self._look_for) if self._came_back else timeouts.PREFETCH_LOOK
            )
            self._look_until, self._came_back = now + self._look_for, False
        return self._look_until

    def came_back(self) -> None:
        """What was given back here has come again: no other worker had a slot for it."""
        self._came_back = True
