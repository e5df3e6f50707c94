"""How many messages to hold, when isolates and inline tasks come through the same queue.

A message that waits here for a child while another worker is idle is what operators can't understand. The broker knows
no modes, so a worker with both kinds fetches one message for each child that is free; an isolate that comes all the
same is given back. While every child is busy it looks at one more message now and then, so that inline tasks behind
long isolates are found, and goes on at once for as long as they are inline. Pure: the time is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from stem_kombu.task import Mode

#: Seconds between two looks at the next message while every child is busy and the last one was an isolate.
LOOK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is here: running or waiting for a slot, by mode."""

    isolates: int
    inline: int


class Credit:
    """The allowance of a worker with ``isolates`` children, ``multiplier`` messages for each, and ``inline`` slots."""

    def __init__(self, isolates: int, multiplier: int, inline: int) -> None:
        self._places = isolates * multiplier
        self._inline = inline
        self._look_at = 0.0

    @property
    def is_mixed(self) -> bool:
        """Whether both kinds may come, so that the allowance has to move."""
        return self._places > 0 and self._inline > 0

    def allowance(self, load: Load, now: float) -> int:
        """How many messages may be here, those of ``load`` included. ``now`` is monotonic."""
        if not self.is_mixed:
            return self._places + self._inline
        free = max(0, self._places - load.isolates)
        if load.inline >= self._inline:
            room = 0
        elif free:
            room = free
        else:
            room = 1 if now >= self._look_at else 0
        return max(1, load.isolates + load.inline + room)

    def takes(self, mode: Mode, load: Load, now: float) -> bool:
        """Whether a message that has just come, and is part of ``load``, may stay; ``False``: give it back."""
        if not self.is_mixed or mode is Mode.INLINE:
            self._look_at = now
            return True
        if load.isolates <= self._places:
            return True
        self._look_at = now + LOOK_EVERY
        return False
