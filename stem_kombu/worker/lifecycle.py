"""A worker's life: new, starting, running, draining, stopped. It may be ended from anywhere, and never waits for itself.

A stop that is called inside a start, a stop or a task of the same worker would wait for its own caller. So would one in a
signal handler that interrupts another call into this package: a transaction on the file that the stop has to write, for
instance. It leaves a mark and returns; the call that it interrupted, or a thread of its own, does the rest.

A process that was forked off has a copy of the parent's worker and none of its threads: there a stop only lets go.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import weakref
from collections.abc import Callable, Iterable
from enum import Enum
from types import FrameType
from typing import Protocol

from stem_kombu import machine
from stem_kombu.concurrency import threads
from stem_kombu.errors import ConfigurationError, StemError

logger = logging.getLogger(__name__)

_PACKAGE = __name__.partition(".")[0]

#: What a part does when it starts, and what undoes that.
Step = tuple[Callable[[], object], Callable[[], object]]


class State(str, Enum):
    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Owner(Protocol):
    """What a life is the life of. None of it is called twice at once."""

    def steps(self) -> Iterable[Step]:
        """What starts it, in order, each with what undoes it."""

    def drain(self, timeout: float | None) -> None:
        """Finish what runs and let everything go; after ``timeout`` seconds without what still runs."""

    def release(self) -> None:
        """While :meth:`drain` waits: go on without what still runs. From any thread."""

    def close(self) -> None:
        """Let go of what was made and never started, or was undone."""

    def give_up(self) -> None:
        """Make a step that waits raise soon. From any thread, and in a signal handler."""

    def is_own_thread(self) -> bool:
        """Whether :meth:`drain` would wait for the calling thread."""


class Lifecycle:
    """Starts its owner once and stops it once. ``worker`` is the owner's id, for messages."""

    def __init__(self, owner: Owner, worker: str) -> None:
        self._owner = owner
        self._worker = worker
        # Re-entrant, because a signal handler runs in the thread that it interrupts, which may hold it.
        self._lock = threads.RLock()
        self._inside = 0
        self._thread: threads.Thread | None = None  # the one that is inside
        self._stop_asked = False  # no Event: its lock is not re-entrant
        self._interrupted = False  # by its own thread, in a signal handler
        self._pid = machine.getpid()
        self.state = State.NEW
        #: Set once it is down.
        self.ended = threads.Event()

    @property
    def is_copy(self) -> bool:
        """Whether this is another process than the one that made it."""
        return self._pid != machine.getpid()

    def start(self) -> None:
        """Return once it runs, or, where a stop was asked for meanwhile, once everything is undone again.

        Raises what a step raises; then nothing is left running.
        """
        if self.is_copy:
            raise ConfigurationError(
                f"worker {self._worker} belongs to process {self._pid}", hint="make a new Worker here"
            )
        with self._lock:
            if self._inside or self.state is State.RUNNING:
                return
            if self.state is not State.NEW:
                raise ConfigurationError(f"worker {self._worker} was stopped", hint="make a new Worker")
            self._enter()
            try:
                self._start()
            finally:
                self._leave()
        if self._stop_asked:
            self.stop()

    def stop(self, timeout: float | None = None) -> None:
        """Return once it is down; at once in a copy, and where waiting would be waiting for the caller itself."""
        if self.is_copy:
            return
        self._stop_asked = True
        self._owner.give_up()
        if self._owner.is_own_thread() or (self._thread is not threads.current_thread() and _interrupts_a_call()):
            threads.Thread(target=self.stop, args=(timeout,), name="stem-stop", daemon=True).start()
            return
        if self.state is State.DRAINING and timeout is not None:
            # The stop that waits was not given as little time.
            hurry = threads.Timer(timeout, self._owner.release)
            hurry.daemon = True
            hurry.start()
        with self._lock:
            if self._inside:
                self._interrupted = True
                return
            self._enter()
            try:
                self._stop(timeout)
            finally:
                self._leave()

    def _enter(self) -> None:
        self._inside += 1
        self._thread = threads.current_thread()

    def _leave(self) -> None:
        self._inside -= 1
        self._thread = None

    def _start(self) -> None:
        self.state = State.STARTING
        undo: list[Callable[[], object]] = []
        try:
            for start, undo_it in self._owner.steps():
                if self._stop_asked:
                    break
                undo.append(undo_it)
                start()
        except BaseException as error:
            self._undo(undo)
            if self._interrupted and isinstance(error, StemError):
                self._log(f"was asked to stop while it started: {error}")
                return
            raise
        if self._stop_asked:
            self._undo(undo)
            self._log("was asked to stop while it started")
        else:
            self.state = State.RUNNING
            _running.add(self)
            self._log("is ready")

    def _undo(self, undo: list[Callable[[], object]]) -> None:
        try:
            for undo_it in reversed(undo):
                undo_it()
            self._owner.close()
        finally:
            self.state = State.STOPPED
            self.ended.set()

    def _stop(self, timeout: float | None) -> None:
        try:
            if self.state is State.NEW:
                self._owner.close()
            elif self.state is State.RUNNING:
                self.state = State.DRAINING
                self._log("is draining")
                self._owner.drain(timeout)
                self._log("is down")
        finally:
            self.state = State.STOPPED
            _running.discard(self)
            self.ended.set()

    def _log(self, what: str) -> None:
        logger.info("worker %s %s", self._worker, what, extra={"worker": self._worker})


def _interrupts_a_call() -> bool:
    """Whether the caller of a stop has interrupted a call into this package, as a signal handler does. That call may hold a
    lock or a transaction that the stop needs, and goes on only when the handler returns."""
    frame = inspect.currentframe()
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    while frame is not None and not _is_ours(frame):
        frame = frame.f_back
    return frame is not None


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


_running: weakref.WeakSet[Lifecycle] = weakref.WeakSet()


def _stop_all() -> None:
    """The interpreter ends and its threads with it: leave the rosters, and give back what runs."""
    for life in list(_running):
        try:
            life.stop(0.0)
        except Exception:
            # The boundary to an interpreter that is half gone: the next one is to be stopped as well.
            logger.exception("a worker could not be stopped as the interpreter ends")


atexit.register(_stop_all)
