"""What is left of a command's one deadline."""

from __future__ import annotations

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM


class TimeLeft:
    """The seconds that a command has for its looks and for what it does after them together (G13). An operator who is asked in
    between takes his time: :meth:`renew` after that."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._until = SYSTEM.monotonic() + self.seconds

    def __call__(self) -> float:
        """At least enough to send a command."""
        return max(self._until - SYSTEM.monotonic(), timeouts.CLIENT_LEAST_REPLY)
