"""A worker that has a process to itself: it runs until it is stopped, and a signal is how it is stopped."""

from __future__ import annotations

import errno
import logging
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Protocol

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.pulse import Pulse
from stem_kombu.concurrency.service import Watch
from stem_kombu.errors import ExecutionError, StemError
from stem_kombu.execution.signals import write_stacks_on_request

logger = logging.getLogger(__name__)


class Runnable(Protocol):
    """What is asked of a worker here; see :class:`~stem_kombu.worker.worker.Worker`."""

    def start(self) -> object: ...

    def stop(self) -> None: ...

    def release(self) -> None: ...


class StopSignals:
    """The signals of a worker's process, from before its application is loaded until it is down.

    SIGTERM, SIGINT and SIGHUP stop it: the first drains, a later one returns what runs to the queue. SIGHUP that is ignored
    (``nohup``) stays ignored. SIGUSR1 writes the stacks of all threads to stderr; SIGUSR2 is ignored, which is logged.

    Used in the main thread. A stop that comes while no worker is there is kept for it, and raises :class:`SystemExit`
    inside of :meth:`loading`.
    """

    def __init__(self) -> None:
        self._worker: Runnable | None = None
        self._held: dict[int, Any] = {}
        self._last = float("-inf")
        self._stops = 0
        self._is_loading = False

    @property
    def stopped(self) -> bool:
        """Whether a stop has come."""
        return self._stops > 0

    def install(self) -> StopSignals:
        """Take the signals; again, when an application may have put handlers of its own in the way."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._take(number, self._on_stop)
        if signal.getsignal(signal.SIGUSR2) in (signal.SIG_DFL, self._on_usr2):
            self._take(signal.SIGUSR2, self._on_usr2)
        write_stacks_on_request()
        return self

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._held.items():
            signal.signal(number, handler)
        self._held.clear()

    def __enter__(self) -> StopSignals:
        return self.install()

    def __exit__(self, *_: object) -> None:
        self.restore()

    def loading(self, load: Callable[[], object]) -> Any:
        """What ``load()`` returns, while which a stop leaves by ``SystemExit(0)``: nothing has begun that had to end."""
        self._is_loading = True
        try:
            if self.stopped:
                raise SystemExit(0)
            loaded = load()
        finally:
            self._is_loading = False
        if self.stopped:  # an application's own "except" has kept the exit from coming here
            raise SystemExit(0)
        return loaded

    def lead_to(self, worker: Runnable) -> None:
        """From now on the signals are the worker's."""
        self._worker = worker

    def _take(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        before = signal.signal(number, handler)
        self._held.setdefault(number, signal.SIG_DFL if before is None else before)

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        now = SYSTEM.monotonic()
        if now - self._last < timeouts.SAME_SIGNAL:
            return
        self._last = now
        self._stops += 1
        if self._worker is None:
            if self._is_loading:
                raise SystemExit(0)
        elif self._stops == 1:
            _in_thread(self._worker.stop, "stem-stop")
        else:
            _in_thread(self._worker.release, "stem-release")

    @staticmethod
    def _on_usr2(_number: int, _frame: FrameType | None) -> None:
        _in_thread(partial(logger.warning, "SIGUSR2 means nothing to a worker and is ignored"), "stem-signal")


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    return "can't start new thread" in str(error)


def _in_thread(function: Callable[[], object], name: str) -> None:
    # Not in the handler itself: it interrupts the main thread anywhere, also where that holds a lock.
    threads.Thread(target=function, name=name, daemon=True).start()


class Departure:
    """A worker leaves when one of its threads fails again and again: ``stop(seconds)`` is called in the background, and
    :meth:`check` then raises why. :attr:`watch` is told of the threads."""

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
            threads.Thread(target=self._stop, args=(timeouts.STUCK_LEAVE,), name="stem-leave", daemon=True).start()


def run_until_stopped(
    worker: Runnable,
    stopped: Callable[[], threads.Event],
    ready: Callable[[], None],
    *,
    gave_up: Callable[[], bool],
    signals: StopSignals | bool,
    pulse: Pulse,
) -> None:
    """Start the worker, call ``ready()``, and return when it is down; raises what its ``start()`` does, unless it was asked to
    stop meanwhile, as ``signals`` or, of a wait for the revoke store, ``gave_up()`` say.

    ``signals`` stop it, also while it starts, and are given back at the end. ``pulse`` is stamped while it runs.
    """
    # Installed first: a signal during start-up then stops the worker in order as well.
    taken = StopSignals() if signals is True else signals or None
    if taken is not None:
        taken.install()
    # CPU-bound inline handlers would otherwise keep a reply waiting for the default five milliseconds a turn.
    turn = sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    try:
        try:
            if taken is not None and taken.stopped:
                logger.info("the worker ends before it has started: a signal requested it")
                return
            if taken is not None:
                taken.lead_to(worker)
            worker.start()
        except StemError as error:
            # Asked to stop while it waited for the revoke store, or in the moment before its start.
            if not gave_up() and not (taken is not None and taken.stopped and stopped().is_set()):
                raise
            logger.info("the worker ends before it has started: %s", error)
            return
        except (OSError, RuntimeError) as error:
            if not _is_shortage(error):
                raise
            raise ExecutionError(
                f"the system gives this worker no more threads, processes, memory or descriptors: {error}",
                hint="look at ulimit -u and -n, TasksMax of the service, pids.max of the container; or use fewer children",
            ) from error
        if not stopped().is_set():
            ready()
        pulse.beat()
        while not stopped().wait(timeouts.MAIN_LOOK):
            pulse.beat()
    finally:
        pulse.rest()
        sys.setswitchinterval(turn)
        if taken is not None:
            taken.restore()
