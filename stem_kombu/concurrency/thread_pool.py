"""Threads for what may take a while, so that those who must not wait don't.

Unlike the standard library's executors these are daemons: a driver that blocks in a dead socket, or a command of an
application that never returns, must not keep the process from ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from stem_kombu.clock import SYSTEM, Clock

T = TypeVar("T")

#: Seconds after which a thread that has nothing to do ends.
_IDLE = 30.0


class ThreadPool:
    """Runs functions in order of submission, at most ``size`` at once (``None``: each at once) in threads of its own.

    At most ``backlog`` functions wait their turn; a further one is not taken.
    """

    def __init__(self, name: str, size: int | None = None, *, backlog: int = 10_000, clock: Clock = SYSTEM) -> None:
        self._name = name
        self._size = size
        self._backlog = backlog
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._threads = 0
        self._idle = 0
        self._busy = 0
        self._stopped = False

    def submit(self, function: Callable[[], T]) -> Future[T] | None:
        """The future of the function's result; ``None`` when the lane has stopped or too much waits already."""
        future: Future[T] = Future()
        with self._changed:
            if self._stopped or len(self._waiting) >= self._backlog:
                return None
            self._waiting.append((function, future))
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._size is None or self._threads < self._size:
                self._threads += 1
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
        return future

    def stop(self, timeout: float) -> bool:
        """Take nothing more, forget what waits, and give what runs ``timeout`` seconds; whether all of it ended.

        May be called twice. A thread that does not end is left behind.
        """
        deadline = self._clock.monotonic() + timeout
        with self._changed:
            self._stopped = True
            while self._waiting:
                self._waiting.popleft()[1].cancel()
            self._changed.notify_all()
            while self._busy:
                left = deadline - self._clock.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return not self._busy

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._waiting and not self._stopped:
                    if not self._changed.wait(_IDLE):
                        break
                self._idle -= 1
                if not self._waiting:
                    self._threads -= 1
                    return
                function, future = self._waiting.popleft()
                self._busy += 1
            _carry_out(function, future)
            with self._changed:
                self._busy -= 1
                if self._stopped:
                    self._changed.notify_all()


def _carry_out(function: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - handed over to whoever asks the future
        future.set_exception(error)
    else:
        future.set_result(result)
