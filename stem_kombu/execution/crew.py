"""Threads that are made when they are needed, stay for the next jobs, and end when none have come for a while."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Seconds after which a thread that has nothing to do ends.
IDLE = 30.0


class Crew(Generic[T]):
    """Carries ``work(item)`` out for each item that is given, at once, in threads of its own.

    A thread that has just done its work is not idle yet when its slot is given to the next item, which then gets a new
    thread: so there may be more of them than items at a time, and those of ``idle`` seconds without work end.
    """

    def __init__(self, work: Callable[[T], None], *, idle: float = IDLE) -> None:
        self._work = work
        self._longest_idle = idle
        self._changed = threading.Condition()
        self._items: collections.deque[T] = collections.deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        # One thread at a time is woken, and wakes the next: a wake-up costs more than a short task, and few do them all.
        self._one_comes = False
        self._open = False

    def open(self) -> None:
        """Take items. May be called twice, and again after :meth:`close`."""
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Let the threads end that have nothing to do; the others end when they have done it."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def give(self, item: T, name: str) -> None:
        """Have it done by an idle thread, else by a new one of that name.

        Raises :class:`RuntimeError` when there is none and none can be started."""
        with self._changed:
            self._items.append(item)
            if self._idle >= len(self._items):
                self._summon()
                return
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            with self._changed:
                self._threads.discard(thread)
                if self._threads or item not in self._items:
                    return  # a thread that comes free takes it
                self._items.remove(item)
            raise

    def __len__(self) -> int:
        """How many threads there are."""
        with self._changed:
            return len(self._threads)

    def _summon(self) -> None:
        if not self._one_comes:
            self._one_comes = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                try:
                    while not self._items:
                        if not self._open:
                            self._threads.discard(threading.current_thread())
                            return
                        called = self._changed.wait(self._longest_idle)
                        self._one_comes = False
                        if not called and not self._items:
                            self._threads.discard(threading.current_thread())
                            return
                    item = self._items.popleft()
                finally:
                    self._idle -= 1
                if self._items and self._idle:
                    self._summon()
            try:
                self._work(item)
            except BaseException:
                # The boundary of a thread that many items share: what one of them raises is not the next one's.
                logger.exception("%s goes on after an unexpected error", threading.current_thread().name)
