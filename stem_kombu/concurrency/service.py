"""A thread that does its owner's work between a start and a stop: the one place where such threads begin and end.

It may be started twice, stopped twice, stopped before the first start and during one, from any threads at
once. Starts and stops of one thread happen one after the other, so that none is started twice, joined before it runs,
or left behind; a start that waits for something outside of that lock asks :attr:`Service.stops` whether it was
overtaken.

A thread that an unexpected error ends is started again, and a :class:`Watch` is told: what many tasks depend on must not
end with one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from stem_kombu import timeouts
from stem_kombu.clock import monotonic
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.pulse import Pulse, Pulses

logger = logging.getLogger(__name__)

#: Failures in a row after which a thread is not started again.
_MOST_FAILURES = 8


class Watch:
    """What became of the threads of one worker. ``gave_up(name, error)`` is called, in the thread itself, for one that fails
    again and again and is not started any more."""

    def __init__(self, gave_up: Callable[[str, BaseException], None]) -> None:
        self.gave_up = gave_up
        #: What its threads stamp.
        self.pulses = Pulses()
        self._restarts: dict[str, int] = {}

    @property
    def restarts(self) -> Mapping[str, int]:
        """How often each thread was started again after an unexpected error; those that never failed are not named."""
        return dict(self._restarts)

    def failed(self, name: str) -> None:
        self._restarts[name] = self._restarts.get(name, 0) + 1


_watch: ContextVar[Watch | None] = ContextVar("stem_kombu_watch", default=None)


@contextmanager
def watched_by(watch: Watch) -> Iterator[None]:
    """Have every :class:`Service` that is made in here tell ``watch`` of its failures."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def pulses_here() -> Pulses:
    """What the worker stamps that is being made inside of :func:`watched_by`; elsewhere some that nothing shows."""
    watch = _watch.get()
    return Pulses() if watch is None else watch.pulses


def _nothing() -> None:
    """Nothing has to be done."""


class Service:
    """``run()`` in a thread of its own, between each start and the next stop.

    ``begin()`` prepares what ``run`` needs; what it raises is raised by :meth:`start`. ``wake()`` makes ``run`` return
    soon. ``end()`` lets go of what ``run`` used, once it has returned. None of the three may start or stop it.

    ``run()`` is called again when it raises, after a pause, and is given up when it does so many times in a row.

    ``period`` makes it a vital thread of the worker that is made (:func:`watched_by`): ``run()`` then calls ``pulse.beat()``
    at least so often, in seconds, when all goes well.
    """

    def __init__(
        self,
        run: Callable[[], None],
        name: str,
        *,
        begin: Callable[[], None] = _nothing,
        wake: Callable[[], None],
        end: Callable[[], None] = _nothing,
        period: float | None = None,
    ) -> None:
        short = name.removeprefix("stem-")
        self.pulse = Pulse(short) if period is None else pulses_here().thread(short, period)
        self._run, self._name = run, name
        self._begin, self._wake, self._end = begin, wake, end
        self._lock = threads.Lock()
        self._thread: threads.Thread | None = None
        self._leaving: threads.Thread | None = None
        self._watch = _watch.get()
        self._ends = threads.Event()
        #: How often it was stopped: a start that finds another number than at its beginning was stopped meanwhile.
        self.stops = 0
        #: Whether it begins with the next :meth:`needed`.
        self.is_deferred = False
        self._deferred_at = 0

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
                self._ends.clear()
                thread = threads.Thread(target=self._keep_running, name=self._name, daemon=True)
                try:
                    thread.start()
                except BaseException:  # RuntimeError: the system has no more threads
                    self._end()
                    raise
                self._thread = thread
            return True

    def start_when_needed(self) -> None:
        """Have it begin with the first :meth:`needed`, unless it is stopped before: an idle worker needs no such thread."""
        self._deferred_at, self.is_deferred = self.stops, True

    def needed(self) -> None:
        """Begin now, after :meth:`start_when_needed`; costs nothing afterwards."""
        if self.is_deferred:
            self.is_deferred = False
            self.start(self._deferred_at)

    def stop(self, timeout: float | None = None, *, hurry: Callable[[], None] | None = None) -> None:
        """Return when it has ended, or does not within ``timeout`` seconds.

        ``hurry()`` is called once it has ended or the time is up; in that case a few more seconds are waited.
        """
        self.is_deferred = False
        with self._lock:
            self.stops += 1
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._ends.set()
            self._wake()
            thread.join(timeout)
            if hurry is not None:
                hurry()
                thread.join(timeouts.SERVICE_HURRIED)
            if thread.is_alive():
                self._leaving = thread
            self._end()

    def _keep_running(self) -> None:
        try:
            self._run_again_and_again()
        finally:
            self.pulse.rest()

    def _run_again_and_again(self) -> None:
        failures = 0
        while True:
            began = monotonic()
            self.pulse.beat()
            try:
                self._run()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary of every thread of a worker
                failures = 1 if monotonic() - began >= timeouts.SERVICE_WORKS else failures + 1
                last = failures > _MOST_FAILURES or self._ends.is_set()
                self._log_failure(error, last)
                if last:
                    return
            else:
                return
            self._ends.wait(min(timeouts.SERVICE_FIRST_PAUSE * 2.0 ** (failures - 1), timeouts.SERVICE_LONGEST_PAUSE))

    def _log_failure(self, error: BaseException, last: bool) -> None:
        then = "is not started any more" if last else "is started again"
        logger.error("thread %s ended by an unexpected error and %s", self._name, then, exc_info=error)
        if self._watch is not None:
            self._watch.failed(self._name)
            if last and not self._ends.is_set():
                self._watch.gave_up(self._name, error)
