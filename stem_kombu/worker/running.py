"""A worker that has a process to itself: it runs until it is stopped, and a signal is how it is told."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Protocol

from stem_kombu.background import Watch
from stem_kombu.errors import ExecutionError, StoreUnavailable

logger = logging.getLogger(__name__)

#: Seconds that tasks get to end when a thread of their worker can't go on.
_LEAVE_TIMEOUT = 10.0


class Runnable(Protocol):
    """What is asked of a worker here; see :class:`~stem_kombu.worker.worker.Worker`."""

    def start(self) -> object: ...

    def stop(self) -> None: ...

    def release(self) -> None: ...


class Departure:
    """A worker leaves when one of its threads fails again and again: ``stop(seconds)`` is called in the background, and
    :meth:`check` then raises why. :attr:`watch` hears of the threads."""

    def __init__(self, stop: Callable[[float], None]) -> None:
        self._stop = stop
        self._error: ExecutionError | None = None
        self.watch = Watch(self._begin)

    def check(self) -> None:
        """Raise :class:`~stem_kombu.errors.ExecutionError` when the worker left because it could not go on."""
        if self._error is not None:
            raise self._error

    def _begin(self, thread: str, error: BaseException) -> None:
        if self._error is None:
            self._error = ExecutionError(
                f"the worker's thread {thread} can't go on ({type(error).__name__}: {error}), so the worker stopped",
                hint="start it again; its log has the traceback",
            )
            logger.critical("%s", self._error)
            threading.Thread(target=self._stop, args=(_LEAVE_TIMEOUT,), name="stem-leave", daemon=True).start()


def run_until_stopped(
    worker: Runnable,
    stopped: Callable[[], threading.Event],
    ready: Callable[[], None],
    *,
    gave_up: Callable[[], bool],
    signals: bool,
) -> None:
    """Start the worker, call ``ready()``, and return when it is down; raises what its ``start()`` does, unless
    ``gave_up()`` says that it was told to stop while it waited for the revoke store.

    With ``signals`` the first SIGTERM or SIGINT drains, or ends a start that waits for the revoke store; the second returns
    what runs to the queue.
    """
    received: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            threading.Thread(target=worker.stop, name="stem-stop", daemon=True).start()
        elif len(received) == 2:
            threading.Thread(target=worker.release, name="stem-release", daemon=True).start()

    # Handlers are installed first: a signal during start-up then stops the worker in order as well.
    held = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)} if signals else {}
    # CPU-bound inline handlers would otherwise keep a reply waiting for the default five milliseconds a turn.
    turn = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    try:
        try:
            worker.start()
        except StoreUnavailable as error:
            if not gave_up():
                raise
            logger.info("the worker ends before it has started: %s", error)
            return
        if not stopped().is_set():
            ready()
        while not stopped().wait(3600.0):
            pass
    finally:
        sys.setswitchinterval(turn)
        for number, handler in held.items():
            signal.signal(number, handler)
