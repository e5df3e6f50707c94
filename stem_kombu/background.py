"""A thread that does its owner's work between a start and a stop: the one place where such threads begin and end.

Whoever has one may be started twice, stopped twice, stopped before the first start and during one, from any threads at
once. Starts and stops of one thread happen one after the other, so that none is started twice, joined before it runs,
or left behind; a start that waits for something outside of that lock asks :attr:`Background.stops` whether it was
overtaken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Seconds that a thread gets to end after it was told to hurry.
_HURRIED = 5.0


def _nothing() -> None:
    """Nothing has to be done."""


class Background:
    """``run()`` in a thread of its own, between each start and the next stop.

    ``begin()`` prepares what ``run`` needs; what it raises is raised to whoever starts. ``wake()`` makes ``run`` return
    soon. ``end()`` lets go of what ``run`` used, once it has returned. None of the three may start or stop it.
    """

    def __init__(
        self,
        run: Callable[[], None],
        name: str,
        *,
        begin: Callable[[], None] = _nothing,
        wake: Callable[[], None],
        end: Callable[[], None] = _nothing,
    ) -> None:
        self._run, self._name = run, name
        self._begin, self._wake, self._end = begin, wake, end
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._leaving: threading.Thread | None = None
        #: How often it was stopped: a start that finds another number than at its beginning was stopped meanwhile.
        self.stops = 0

    @property
    def runs(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._thread is not None

    def start(self, stops: int | None = None) -> bool:
        """Have it run, if it doesn't; whether it does now.

        With ``stops`` it is left alone, and ``False`` returned, when it was stopped since :attr:`stops` was that. Waits
        for a thread that did not end in time when it was stopped last, as two must not do the same work.
        """
        with self._lock:
            if stops is not None and stops != self.stops:
                return False
            if self._thread is None:
                if self._leaving is not None:
                    self._leaving.join()
                    self._leaving = None
                self._begin()
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except BaseException:  # RuntimeError: the system has no more threads
                    self._end()
                    raise
                self._thread = thread
            return True

    def stop(self, timeout: float | None = None, *, hurry: Callable[[], None] | None = None) -> None:
        """Return when it has ended, or does not within ``timeout`` seconds.

        ``hurry()`` is called once it has ended or the time is up; in that case a few more seconds are waited.
        """
        with self._lock:
            self.stops += 1
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._wake()
            thread.join(timeout)
            if hurry is not None:
                hurry()
                thread.join(_HURRIED)
            if thread.is_alive():
                self._leaving = thread
            self._end()
