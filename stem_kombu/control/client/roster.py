"""The roster as a client knows it: who is alive, read without waiting for it longer than the command may take, and its clock
between two looks, so that a command need not wait for a look to be stamped."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.backends.base import RosterView
from stem_kombu.clock import Clock
from stem_kombu.concurrency.thread_pool import ThreadPool
from stem_kombu.errors import StoreError

#: Looks that may be under way at once, in threads that a roster which does not answer holds up.
_LOOKS = 8

#: Entries of the roster that can't be read and are named.
_NAMED = 10


class RosterReader:
    """Reads a roster by ``look()``, which may block for as long as its driver lets it. Safe from any thread."""

    def __init__(self, look: Callable[[], RosterView], clock: Clock) -> None:
        self._look = look
        self._lane = ThreadPool("stem-roster", _LOOKS, clock=clock)

    def view(self, within: float, notes: list[str]) -> RosterView | None:
        """The roster, or ``None``, and a note that says why, when it can't be had within so many seconds: the one deadline of a
        command holds for a roster that is slow as well (G13)."""
        unknown = "live workers are unknown, waiting for the whole timeout"
        try:
            view = self._lane.call(self._look, within)
        except TimeoutError:
            notes.append(f"{unknown}: the roster does not answer")
            return None
        except CancelledError:  # by close(), before its turn came
            notes.append(f"{unknown}: the client was closed")
            return None
        except StoreError as error:
            notes.append(f"{unknown}: {error}")
            return None
        if view.set_aside:
            more = ", …" if len(view.set_aside) > _NAMED else ""
            named = ", ".join(view.set_aside[:_NAMED]) + more
            notes.append(f"{len(view.set_aside)} roster entries can't be read and are set aside: {named}")
        return view

    def close(self) -> None:
        """Return at once. Looks that are under way are left to daemon threads."""
        self._lane.stop(0.0)


class RosterClock:
    """``read(now)`` tells what the roster's clock shows; :meth:`now` is what it shows later, ``None`` when it was not read or
    the reading is older than ``longest`` seconds.

    Used under its owner's lock, or by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reading: tuple[datetime, float, float] | None = None

    def read(self, now: datetime) -> None:
        self._reading = (now, self._clock.monotonic(), self._clock.now())

    def now(self, *, longest: float = timeouts.ROSTER_CLOCK_RELIANCE) -> datetime | None:
        reading = self._reading
        if reading is None:
            return None
        shown, monotonic, wall = reading
        passed = self._clock.monotonic() - monotonic
        if passed > longest or abs(self._clock.now() - wall - passed) > timeouts.ROSTER_CLOCK_STEP:
            return None
        return shown + timedelta(seconds=passed)
