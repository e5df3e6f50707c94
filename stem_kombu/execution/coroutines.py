"""The event loop of coroutine handlers, in a thread of its own, and whatever they do to it.

Handlers share the loop and may stop it, close it, cancel each other's tasks, or end it by ``sys.exit()`` in a task of their
own. Each coroutine that was given has its end all the same, and those that come later have a loop.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from stem_kombu.concurrency import threads

T = TypeVar("T")

logger = logging.getLogger(__name__)


class CoroutineLoop(Generic[T]):
    """Runs ``work(item)`` on the loop for each item that is given.

    ``lost(item, error)`` is called, in the loop's thread, for one whose work was cut off from outside and could not tell so.
    """

    def __init__(
        self, work: Callable[[T], Coroutine[Any, Any, None]], lost: Callable[[T, BaseException], None]
    ) -> None:
        self._work = work
        self._lost = lost
        self._lock = threads.Lock()
        self._given: collections.deque[T] = collections.deque()
        self._tasks: dict[asyncio.Task[None], T] = {}  # a loop keeps only weak references
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threads.Thread | None = None

    def give(self, item: T) -> None:
        """Have it done. Raises :class:`RuntimeError` or :class:`OSError` when there is no loop and none can be made."""
        while True:
            loop = self._running_loop()
            with self._lock:
                if self._loop is not loop:
                    continue  # closed by a handler meanwhile
                self._given.append(item)
                told = len(self._given) > 1  # and it has not looked yet
            try:
                if not told:
                    loop.call_soon_threadsafe(self._take, loop)
            except RuntimeError:
                pass  # closed by a handler: its thread sees to what was given
            return

    def stop(self, timeout: float) -> None:
        """End the loop; what has not begun by now never does. Returns when its thread has ended, or after ``timeout``."""
        with self._lock:
            loop, self._loop = self._loop, None
            self._given.clear()
        if loop is None or self._thread is None:
            return
        try:
            loop.call_soon_threadsafe(loop.stop)
        except RuntimeError:
            pass  # closed by a handler
        self._thread.join(timeout)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threads.Thread(target=self._run, args=(loop,), name="stem-loop", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    # -- in the loop's thread -----------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - sys.exit() in a task of a handler's own comes out here
                logger.error("an exception stopped the event loop of coroutine handlers, which runs again: %r", error)
            with self._lock:
                if self._loop is not loop:
                    break
                if not loop.is_closed():
                    continue
                self._loop = None
                given, self._given = self._given, collections.deque()
            for item in (*self._tasks.values(), *given):
                self._lost(item, RuntimeError("a handler closed the event loop on which this coroutine was to run"))
            self._tasks = {}
            return
        loop.close()

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            items, self._given = self._given, collections.deque()
        for item in items:
            # Not by the loop's own method: a handler may have given it a factory that fails.
            task = asyncio.Task(self._work(item), loop=loop)
            self._tasks[task] = item
            task.add_done_callback(partial(self._done, item))

    def _done(self, item: T, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            self._lost(item, asyncio.CancelledError("another task cancelled it before it began"))
        elif (error := task.exception()) is not None:
            self._lost(item, error)
