"""A shutdown that operators asked for: what it finishes, what it requeues, and when. Later orders may only escalate (G33).

Three modes. ``warm`` lets all that runs finish. ``soft`` has handlers leave at their next checkpoint (``WorkerStopping``), and
what they ran goes back to its queue. ``hard`` does so at once and kills what has not left a second later.
"""

from __future__ import annotations

import logging
from math import inf
from typing import Protocol

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.control.protocol.messages import Shutdown, ShutdownMode
from stem_kombu.control.server.worker_view import StopStanding

logger = logging.getLogger(__name__)


class Stoppable(Protocol):
    """What is stopped; see :class:`~stem_kombu.worker.worker.Worker`."""

    def stop(self) -> None: ...

    def release(self) -> None: ...

    @property
    def state(self) -> str: ...


class Releasing(Protocol):
    """What has running handlers leave at their next checkpoint."""

    def release_running(self) -> None: ...


class StopOrders:
    """Of one worker. Each method is quick, and safe from any thread."""

    def __init__(self, worker: Stoppable, tasks: Releasing, name: str, clock: Clock) -> None:
        self._worker, self._tasks, self._name, self._clock = worker, tasks, name, clock
        self._changed = threads.Condition()
        self._mode: ShutdownMode | None = None
        self._soft_at = self._hard_at = inf
        #: With which code the worker's process is to end.
        self.exit_code = 0

    def take(self, order: Shutdown) -> StopStanding:
        """Begin to stop as ordered, or escalate; a weaker order than one in force changes nothing."""
        now = self._clock.monotonic()
        with self._changed:
            was = self._standing()
            is_first = self._mode is None
            self._mode = order.mode if self._mode is None else max(self._mode, order.mode, key=_rank)
            soft_at, hard_at = due(order, now)
            self._soft_at, self._hard_at = min(self._soft_at, soft_at), min(self._hard_at, hard_at)
            self.exit_code = max(self.exit_code, order.exit_code)
            standing = StopStanding(self._mode.value, was, self.exit_code)
            self._changed.notify_all()
        logger.warning(
            "%s shutdown requested by %s: %s", order.mode.value, order.requested_by or "-", order.reason or "no reason given",
            extra={"worker": self._name},
        )  # fmt: skip
        if is_first:
            threads.Thread(target=self._stop, name="stem-shutdown", daemon=True).start()
        return standing

    def _standing(self) -> str:
        if self._mode is not None:
            return self._mode.value
        state = self._worker.state
        return ShutdownMode.WARM.value if state == "draining" else state

    def _stop(self) -> None:
        threads.Thread(target=self._escalate, name="stem-escalate", daemon=True).start()
        try:
            self._worker.stop()
        finally:
            with self._changed:
                self._soft_at = self._hard_at = -inf  # nothing is left to do
                self._changed.notify_all()

    def _escalate(self) -> None:
        while True:
            with self._changed:
                now = self._clock.monotonic()
                until = min(self._soft_at, self._hard_at)
                if until > now:
                    self._changed.wait(None if until == inf else until - now)
                    continue
                if until == -inf:
                    return
                is_hard = self._hard_at <= now
            if is_hard:
                self._worker.release()
            else:
                self._tasks.release_running()
            with self._changed:
                if min(self._soft_at, self._hard_at) > -inf:
                    self._changed.wait(timeouts.STOP_AGAIN)


def due(order: Shutdown, now: float) -> tuple[float, float]:
    """When handlers are asked to leave, and when they are killed (monotonic; infinity for never)."""
    later = now + order.grace
    if order.mode is ShutdownMode.HARD:
        return now, now
    if order.mode is ShutdownMode.SOFT:
        return later, later + order.grace if order.then is ShutdownMode.HARD else inf
    if order.then is ShutdownMode.HARD:
        return inf, later
    return (later, inf) if order.then is ShutdownMode.SOFT else (inf, inf)


def _rank(mode: ShutdownMode) -> int:
    return list(ShutdownMode).index(mode)
