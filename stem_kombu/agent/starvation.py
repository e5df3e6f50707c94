"""Whether messages wait for this worker that it does not get, though it is connected and has a slot free (G34)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.control.server.worker_view import WorkerSummary


class StarvingView(Protocol):
    """What is looked at of a worker."""

    def standing(self) -> WorkerSummary: ...

    def totals(self) -> Mapping[str, int]: ...

    def queue_depths(self) -> Mapping[str, int | None]: ...


class StarvationWatch:
    """Looks at the depths of the queues while nothing comes. It starves when two looks in a row, some seconds apart, find
    messages, and all the time a slot was free and nothing was received.

    ``show(since)`` is told since when (monotonic), 0 when it does not. ``close()`` lets the connection go over which depths are
    asked for: a look is rare.
    """

    def __init__(
        self, view: StarvingView, show: Callable[[float], None], close: Callable[[], None], clock: Clock
    ) -> None:
        self._view, self._show, self._close, self._clock = view, show, close, clock
        self._received = -1
        self._looked = 0.0
        self._hungry: float | None = None
        #: Set while the worker itself takes less than it could: a rate limit, a pause.
        self.is_excused = False

    def tick(self) -> None:
        """Called now and then; asks the broker for depths every fifteen seconds at most."""
        received, standing, now = self._view.totals().get("received", 0), self._view.standing(), self._clock.monotonic()
        could = standing.consuming and standing.in_flight + standing.reserved < standing.concurrency
        if received != self._received or not could or self.is_excused or standing.state != "running":
            self._received = received
            self._found(None)
        elif now - self._looked >= timeouts.STARVING_LOOKS or self._looked == 0.0:
            self._looked = now
            depths = self._view.queue_depths()
            self._close()
            self._found(now if any(depths.values()) else None)

    def _found(self, hungry_at: float | None) -> None:
        self._show(0.0 if hungry_at is None or self._hungry is None else self._hungry)
        self._hungry = hungry_at if hungry_at is None or self._hungry is None else self._hungry
