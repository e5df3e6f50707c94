"""A child as a process: what it is before its first task and what it does at its end, in the order of any Python program."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stem_kombu import machine, timeouts
from stem_kombu.execution.child.loading import load
from stem_kombu.execution.child.pipe import ChildPipe
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.groups import end_own_group, lead_a_group
from stem_kombu.execution.leftovers import mark_what_this_child_starts
from stem_kombu.execution.signals import leave_signals_to_the_worker, restore_in_forks
from stem_kombu.hooks import HookTable, call_all
from stem_kombu.task import TaskRegistry

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

logger = logging.getLogger(__name__)


class ChildLife:
    """What a child does as a process, and a simulated one does otherwise."""

    def begin(self, setup: ChildSetup, end: ChildPipe) -> bool:
        """First of all in a new process; whether it leads a process group now."""
        leave_signals_to_the_worker()
        leads = lead_a_group()
        mark_what_this_child_starts(setup.mark)
        if setup.is_fork:
            atexit._clear()  # what the worker has registered is the worker's to do
        end.watch_over(machine.open_pidfd(setup.worker_pid))
        restore_in_forks()
        os.register_at_fork(after_in_child=end.leave_to_original)
        return leads

    def load(self, setup: ChildSetup) -> tuple[TaskRegistry, HookTable]:
        """The tasks and hooks of the application, with logging set up. Raises what an import raises."""
        registry, hooks = load(setup)
        if setup.log is not None:
            setup.log.apply(hooks.setup_logging)
        leave_signals_to_the_worker()  # again: an import may have put handlers of its own in the way
        return registry, hooks

    def finish(self, hooks: HookTable, loop: ChildLoop) -> None:
        """The end of a child that ends in order: hooks, the event loop, threads, ``atexit`` functions; all in bounded time."""
        with _Bound(timeouts.CHILD_END_HOOKS, "the end of the child (hooks, threads, atexit functions)"):
            call_all(hooks.child_stop)
            loop.close()
            # As the interpreter does at its end, which a process made by billiard never comes to: wait for threads, then atexit.
            getattr(threading, "_shutdown", lambda: None)()
            atexit._run_exitfuncs()
            flush()

    def leave(self) -> None:
        """End this process and its group, as the worker is dead. Does not return."""
        flush()
        end_own_group(0)


def run_start_hooks(hooks: HookTable) -> None:
    """Call the application's hooks for a child's start; raises what one raises."""
    if hooks.child_start:
        with _Bound(timeouts.CHILD_START_HOOKS, "the child's start hooks"):
            for hook in hooks.child_start:
                hook()


def flush() -> None:
    """Write out what Python holds back of the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


class ChildLoop:
    """One event loop for all coroutine tasks of a child, so that a client kept in a module works in each of them.

    A child without such tasks never loads asyncio, which with its TLS is a sixth of what a child holds.
    """

    def __init__(self) -> None:
        self._loop: AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, object]) -> Any:
        """Run the coroutine to its end."""
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)  # a plain task in between may have set another
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Cancel what still runs there, and close it."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        import asyncio

        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        except Exception:
            # What is left in a loop is any code; the other steps of the end come all the same.
            logger.exception("the event loop of a child did not end in order")
        finally:
            loop.close()


class _Bound:
    """Ends this process when what is done inside takes longer than so many seconds."""

    def __init__(self, seconds: float, what: str) -> None:
        self._timer = threading.Timer(seconds, self._give_up, (seconds, what))
        self._timer.daemon = True

    def __enter__(self) -> None:
        with suppress(RuntimeError):  # no more threads: the worker's own bound holds
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @staticmethod
    def _give_up(seconds: float, what: str) -> None:
        logger.error("%s took longer than %g s: child %d ends without waiting for it", what, seconds, machine.getpid())
        flush()
        end_own_group(1)
