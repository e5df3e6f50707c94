"""How many messages to hold, when isolates and inline tasks come through the same queue.

A message that waits here for a slot while another worker is idle is what operators can't understand. The broker knows
no modes, so a worker with both kinds fetches what it could run whichever kind comes. While the slots of one kind are
full it looks for the other: it fetches a few messages, sets aside for a moment those that don't fit, gives them back
together, and looks again a while later. Together, because a message that is given back is the next to come again. Pure:
the time is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from stem_kombu.task import Mode

#: The largest prefetch count: AMQP has 16 bits for it.
MOST = 65_535
#: Seconds between two looks, seconds for which a message that doesn't fit is set aside, and how many of them at once.
LOOK_EVERY, LOOK_FOR, LOOK_DEPTH = 1.0, 0.1, 8


@dataclass(frozen=True, slots=True)
class Load:
    """What is here: running or waiting for a slot, by mode."""

    isolates: int
    inline: int


class Credit:
    """The allowance of a worker with ``isolates`` children and ``inline`` slots, and ``multiplier`` messages for each."""

    def __init__(self, isolates: int, inline: int, multiplier: int) -> None:
        self._places = isolates * multiplier
        self._inline = inline * multiplier
        self._look_at = 0.0
        self._look_until = float("-inf")

    @property
    def is_mixed(self) -> bool:
        """Whether both kinds may come, so that the allowance has to move."""
        return self._places > 0 and self._inline > 0

    def allowance(self, load: Load, now: float, aside: int = 0) -> int:
        """How many messages may be here, those of ``load`` included, besides the ``aside`` ones. ``now`` is monotonic."""
        if not self.is_mixed:
            return min(MOST, self._places + self._inline)
        children = max(0, self._places - load.isolates)
        slots = max(0, self._inline - load.inline)
        if children and slots:
            room = min(children, slots)
        elif children or slots:
            looks = now >= self._look_at or now < self._look_until
            room = max(0, min(children or slots, LOOK_DEPTH - aside)) if looks else 0
        else:
            room = 0
        return min(MOST, load.isolates + load.inline + room)

    def takes(self, mode: Mode, load: Load, now: float) -> bool:
        """Whether a message that has just come, and is part of ``load``, may stay; ``False``: set it aside."""
        if not self.is_mixed:
            return True
        fits = load.isolates <= self._places if mode is Mode.ISOLATE else load.inline <= self._inline
        if now < self._look_until:
            return fits  # this look goes on
        if fits:
            self._look_at = now
        else:
            self._look_until = now + LOOK_FOR
            self._look_at = self._look_until + LOOK_EVERY
        return fits
