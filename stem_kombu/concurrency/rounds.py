"""A thread that looks again after a while, and at once when it is woken."""

from __future__ import annotations

from collections.abc import Callable

from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service


class Rounds(Service):
    """``look()`` again and again in a thread of its own, between each start and the next stop.

    ``look()`` returns the seconds until the next call: 0 for at once, ``None`` for not before :meth:`wake`.
    """

    def __init__(self, look: Callable[[], float | None], name: str) -> None:
        super().__init__(self._keep_looking, name, begin=self._allow, wake=self._end_soon)
        self._look = look
        self._woken = threads.Event()
        self._ended = False

    def wake(self) -> None:
        """Have it look once more, also when it is looking now. Safe from any thread."""
        self._woken.set()

    def _allow(self) -> None:
        self._ended = False

    def _end_soon(self) -> None:
        self._ended = True
        self._woken.set()

    def _keep_looking(self) -> None:
        while True:
            self._woken.clear()  # before the look at `_ended`, so that no stop is missed
            if self._ended:
                return
            seconds = self._look()
            if seconds is None or seconds > 0:
                self._woken.wait(seconds)
