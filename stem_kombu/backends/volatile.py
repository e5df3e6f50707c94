"""No roster: heartbeats of a fleet that has no place for them. They are still sent to those who listen."""

from __future__ import annotations

from datetime import datetime

from stem_kombu.backends.base import Roster, RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import StoreUnavailable
from stem_kombu.volatile import HOW_DURABLE, NOWHERE


class NoRoster(Roster):
    """Keeps nothing. Who is alive can't be read from it, so that a client waits for answers instead."""

    def __init__(self, *, clock: Clock = SYSTEM) -> None:
        self.url = NOWHERE.value
        self._clock = clock

    def beat(self, heartbeat: Heartbeat) -> datetime:
        return self._clock.utcnow()

    def offer(self, heartbeat: Heartbeat, *, dead: Heartbeat | None = None) -> tuple[datetime, Heartbeat | None]:
        return self._clock.utcnow(), None

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        """Nothing is held."""

    def view(self, namespace: str) -> RosterView:
        """Raises :class:`~stem_kombu.errors.StoreUnavailable`."""
        raise StoreUnavailable("there is no backend that could keep a roster", hint=HOW_DURABLE)

    def ping(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Nothing to let go."""
