"""Threads for what may take a while: made when they are needed, kept for the next work, ended when none comes.

Unlike the standard library's executors these are daemons: a driver that blocks in a dead socket, or a command of an
application that never returns, must not keep the process from ending.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import TypeVar

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency import threads

T = TypeVar("T")
Work = Callable[[], object]

logger = logging.getLogger(__name__)


class ThreadPool:
    """Runs functions in order of submission, at most ``size`` at once (``None``: each at once) in threads of that name.

    At most ``backlog`` functions wait for one of ``size`` threads; no further one is taken. A thread that has just ended its
    work is not idle yet: where nothing may wait, the next function gets a new thread. So there may be more threads than
    functions at a time. A thread without work for ``idle`` seconds ends.
    """

    def __init__(
        self,
        name: str,
        size: int | None = None,
        *,
        backlog: int = 10_000,
        idle: float = timeouts.THREAD_IDLE,
        clock: Clock = SYSTEM,
    ) -> None:
        self._name = name
        self._size = size
        self._backlog = backlog
        self._longest_idle = idle
        self._clock = clock
        self._lock = threads.RLock()
        self._changed = threads.Condition(self._lock)
        self._waiting: deque[tuple[Work, Callable[[], object] | None]] = deque()
        self._threads: set[threads.Thread] = set()
        self._idle = 0
        self._busy = 0
        # One thread at a time is woken, and wakes the next: a wake-up costs more than a short function, and few do them all.
        self._one_comes = False
        self._stopped = False

    def open(self) -> None:
        """Take work again after :meth:`stop`. May be called twice; a new pool is open."""
        with self._lock:
            self._stopped = False

    def submit(self, function: Callable[[], T]) -> Future[T] | None:
        """As :meth:`run`, with a future of the function's result; ``None`` where it is not taken."""
        future: Future[T] = Future()
        return future if self.run(partial(_carry_out, function, future), future.cancel) else None

    def call(self, function: Callable[[], T], within: float) -> T:
        """What the function returns, or raises, within so many seconds. After that it is left to its thread, what it returns is
        dropped, and this raises :class:`TimeoutError`; :class:`CancelledError` where the pool was stopped before its turn."""
        ended, results, errors = threads.Event(), list[T](), list[BaseException]()

        def carry_out() -> None:
            try:
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - raised to the caller, which waits
                errors.append(error)
            ended.set()

        taken = self.run(carry_out, ended.set)
        if not (ended.wait(max(0.0, within)) if taken else self._stopped):
            raise TimeoutError(f"not done within {within:g} s")
        if errors:
            raise errors[0]
        if not results:
            raise CancelledError(f"{self._name} was stopped")
        return results[0]

    def run(self, function: Work, cancel: Callable[[], object] | None = None) -> bool:
        """Call the function; what it raises is logged. ``False`` when the pool has stopped or too many functions wait already.
        ``cancel()`` is called instead where the pool is stopped before.

        Raises :class:`RuntimeError` when there is no thread and the system can start none."""
        entry = (function, cancel)
        with self._lock:
            if self._stopped or (self._size is not None and len(self._waiting) >= self._backlog):
                return False
            self._waiting.append(entry)
            if self._idle >= len(self._waiting):
                if not self._one_comes:
                    self._one_comes = True
                    self._changed.notify()
                return True
            if self._size is not None and len(self._threads) >= self._size:
                return True
            thread = threads.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads.discard(thread)
                if self._threads or entry not in self._waiting:
                    return True  # a thread that comes free takes it
                self._waiting.remove(entry)
            raise
        return True

    def __len__(self) -> int:
        """How many threads there are."""
        with self._lock:
            return len(self._threads)

    def stop(self, timeout: float = 0.0) -> bool:
        """Take nothing more, cancel what waits, and give what runs ``timeout`` seconds; whether all of it ended.

        May be called twice. A thread that does not end in time is left behind, and ends when its work has.
        """
        deadline = self._clock.monotonic() + timeout
        with self._lock:
            self._stopped = True
            while self._waiting:
                cancel = self._waiting.popleft()[1]
                if cancel is not None:
                    cancel()
            self._changed.notify_all()
            while self._busy:
                left = deadline - self._clock.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return not self._busy

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except BaseException:
                # The boundary of a thread that runs many functions: what one of them raises must not end the others.
                logger.exception("%s goes on after an unexpected error", threads.current_thread().name)
            with self._lock:
                self._busy -= 1
                if self._stopped:
                    self._changed.notify_all()

    def _next(self) -> Work | None:
        """The next function, ``None`` when this thread is to end."""
        with self._lock:
            self._idle += 1
            try:
                while not self._waiting:
                    called = not self._stopped and self._changed.wait(self._longest_idle)
                    self._one_comes = False
                    if not called and not self._waiting:
                        self._threads.discard(threads.current_thread())
                        return None
                function = self._waiting.popleft()[0]
                self._busy += 1
            finally:
                self._idle -= 1
            if self._waiting and self._idle and not self._one_comes:
                self._one_comes = True
                self._changed.notify()
            return function


def _carry_out(function: Callable[[], T], future: Future[T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - raised to the caller that asks the future
        future.set_exception(error)
    else:
        future.set_result(result)
