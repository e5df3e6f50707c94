"""Making child processes, by the fork server or by billiard: the pipe, the queue of jobs, and the process itself.

Used under the pool's lock only.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any

import billiard
import billiard.connection
import billiard.spawn

from stem_kombu import machine
from stem_kombu.clock import Clock
from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.child import main as child
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.interpreter import interpreter
from stem_kombu.execution.leftovers import mark_for_children
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.fork_server import ForkServer
from stem_kombu.execution.pool.job_queue import ChildJobQueue
from stem_kombu.execution.pool.semaphore_tracker import no_tracker_begun, running_tracker
from stem_kombu.execution.signals import held_back

logger = logging.getLogger(__name__)

START_METHODS = ("forkserver", "spawn", "fork")


class ChildLauncher:
    """Raises :class:`~stem_kombu.errors.ConfigurationError` for an unknown start method."""

    def __init__(self, setup: ChildSetup, start_method: str, clock: Clock) -> None:
        if start_method not in START_METHODS:
            raise ConfigurationError(
                f"start method {start_method!r} is unknown", hint=f"one of {', '.join(START_METHODS)}"
            )
        self._setup = setup
        self._start_method = start_method
        self._clock = clock
        self._fork_server: ForkServer | None = None

    def begin(self) -> None:
        """Prepare for a new set of children."""
        self._method = self._start_method
        if self._start_method == "forkserver":
            server = ForkServer(self._setup)
            try:
                server.start()
            except (OSError, EOFError) as error:
                server.stop()
                self._give_up_forking(error)
            except BaseException:
                server.stop()
                raise
            else:
                self._fork_server = server

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What keeps the process alive that forks children."""
        return () if self._fork_server is None else (self._fork_server.descriptor,)

    def end(self) -> None:
        """Free what the start of children needed; no child is left."""
        if self._fork_server is not None:
            self._fork_server.stop()
            self._fork_server = None

    def _give_up_forking(self, error: Exception) -> None:
        logger.warning("children are spawned from now on, which takes longer: no process can fork them: %s", error)
        self._method = "spawn"

    def launch(self, slot: int, foreign: Sequence[int]) -> ChildHandle:
        """A new child in the slot. ``foreign`` are descriptors that a forked child must close."""
        method = self._method
        try:
            return self._spawned(slot, foreign)
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if method != "forkserver":
                raise
            # The fork server ends when a fork fails: without it there is still spawn.
            self._give_up_forking(error)
            return self._spawned(slot, foreign)

    def _spawned(self, slot: int, foreign: Sequence[int]) -> ChildHandle:
        queue = ChildJobQueue(self._clock)
        try:
            (ours, theirs), taken = (
                billiard.Pipe(duplex=True),
                billiard.connection.Connection(queue.childs_end(), writable=False),
            )
        except BaseException:
            queue.close()
            raise
        setup = replace(self._setup, worker_pid=machine.getpid(), mark=mark_for_children())
        try:
            if self._method == "forkserver" and self._fork_server is not None:
                given = (theirs.fileno(), taken.fileno(), *running_tracker())
                process: Any = self._fork_server.fork(setup, f"stem-child-{slot}", given)
            else:
                inherited = (*foreign, ours.fileno(), *queue.descriptors) if self._method == "fork" else ()
                process = self._started_by_billiard(f"stem-child-{slot}", theirs, taken, setup, inherited)
        except BaseException:
            ours.close()
            queue.close()
            raise
        finally:
            # Kept open here, it would hide the child's death from us.
            theirs.close()
            taken.close()
        return ChildHandle(slot, process, ours, queue, self._clock, has_status=self._method != "forkserver")

    def _started_by_billiard(self, name: str, *args: object) -> billiard.Process:
        process = billiard.get_context(self._method).Process(target=child.main, args=args, name=name, daemon=True)
        right = _right_interpreter() if self._method == "spawn" else nullcontext()
        with _main_module_hidden(), no_tracker_begun(), right, held_back():
            process.start()
        return process


class _Hidden(ModuleType):
    """Stands in for ``__main__``: everything that it has but its name and its file."""

    def __init__(self, main: ModuleType) -> None:
        super().__init__("__main__")
        self.__dict__["_main"] = main

    def __getattr__(self, name: str) -> object:
        if name in ("__file__", "__path__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_main"], name)


@contextmanager
def _right_interpreter() -> Iterator[None]:
    """Have billiard spawn processes with an interpreter, and not with a server that has one inside."""
    held = billiard.spawn.get_executable()
    billiard.spawn.set_executable(interpreter())
    try:
        yield
    finally:
        billiard.spawn.set_executable(held)


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep billiard from running the program's main module again in the child, which imports what it needs by itself.

    A program that starts a worker without ``if __name__ == "__main__"`` would start another in each child. A look-up
    in ``__main__`` by another thread (an unpickling, say) still finds everything.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = _Hidden(main)
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def leave_to_parent(descriptors: Sequence[int]) -> None:
    """In a process that was forked off by a pool's: keep none of its pipes open, nor that of its fork server.

    They are pointed at nothing and not closed, as a number that is free again may soon be something else's.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        if descriptor >= 0:
            os.dup2(nothing, descriptor)
    os.close(nothing)
