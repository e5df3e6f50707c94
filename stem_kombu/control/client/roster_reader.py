"""Who is alive, as a client knows it: the roster, read without waiting for it longer than the command may take."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError

from stem_kombu.backends.base import RosterView
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
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
        self._clock = clock
        self._lane = ThreadPool("stem-roster", _LOOKS, clock=clock)

    def view(self, until: float, notes: list[str]) -> RosterView | None:
        """The roster, or ``None``, and a note that says why, when it can't be had by the monotonic time ``until``: the one
        deadline of a command holds for a roster that is slow as well (G13)."""
        answered = threads.Event()
        future = self._lane.submit(self._look)
        if future is not None:
            future.add_done_callback(lambda _: answered.set())
        if future is None or not answered.wait(max(0.0, until - self._clock.monotonic())):
            notes.append("who is alive can't be told, waiting for the whole timeout: the roster does not answer")
            return None
        try:
            view = future.result()
            if view.set_aside:
                more = ", …" if len(view.set_aside) > _NAMED else ""
                named = ", ".join(view.set_aside[:_NAMED]) + more
                notes.append(f"{len(view.set_aside)} roster entries can't be read and are set aside: {named}")
            return view
        except CancelledError:  # by close(), before its turn came
            notes.append("who is alive can't be told, waiting for the whole timeout: the client was closed")
            return None
        except StoreError as error:
            notes.append(f"who is alive can't be told, waiting for the whole timeout: {error}")
            return None

    def close(self) -> None:
        """Wait for nobody. What is under way is left behind, in daemon threads."""
        self._lane.stop(0.0)
