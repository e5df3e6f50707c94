"""Starting the children of a pool: which slots are due for one, by which method, and when to give up.

Used under the pool's lock only.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any

import billiard
import billiard.forkserver
import billiard.spawn

from stem_kombu.clock import Clock
from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.child import main as child
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.frames import LoadFailed
from stem_kombu.execution.interpreter import interpreter
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.fork_server import ForkServer, is_supported
from stem_kombu.execution.pool.job_queue import ChildJobQueue
from stem_kombu.execution.pool.semaphore_tracker import no_tracker_begun
from stem_kombu.execution.signals import held_back

logger = logging.getLogger(__name__)

START_METHODS = ("forkserver", "spawn", "fork")
#: Seconds for all children to load the application.
START_TIMEOUT = 60.0
#: Deaths in a row while loading the application that make a start fail.
_DEATHS_AT_START = 3


class ChildSpawner:
    """Raises :class:`~stem_kombu.errors.ConfigurationError` for an unknown start method."""

    def __init__(self, setup: ChildSetup, start_method: str, clock: Clock) -> None:
        if start_method not in START_METHODS:
            raise ConfigurationError(
                f"start method {start_method!r} is unknown", hint=f"one of {', '.join(START_METHODS)}"
            )
        self._setup = setup
        self._start_method = start_method
        self._clock = clock
        #: When the slots get their next child (monotonic).
        self.due: dict[int, float] = {}
        #: Why the application can't be loaded at all, as the last child reported.
        self.load_failure: str | None = None
        #: Why the last child did not start, though the next one may.
        self.trouble: str | None = None
        self._deaths = 0
        self._failed_starts = 0
        self._warned = False
        self._fork_server: ForkServer | None = None

    def begin(self) -> None:
        """Prepare for a new set of children: the failures of the last one are forgotten."""
        self.due, self.load_failure, self.trouble, self._deaths, self._failed_starts = {}, None, None, 0, 0
        self._method, self._context = self._start_method, billiard.get_context(self._start_method)
        if self._start_method == "forkserver" and not is_supported():
            self._give_up_forking("this version of billiard has another fork server")
        elif self._start_method == "forkserver":
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

    def _give_up_forking(self, error: Exception | str) -> None:
        logger.warning("children are spawned from now on, which takes longer: no process can fork them: %s", error)
        self._method, self._context = "spawn", billiard.get_context("spawn")

    def spawn(self, slot: int, foreign: Sequence[int]) -> ChildHandle:
        """A new child in the slot. ``foreign`` are descriptors that a forked child must close."""
        method = self._method
        try:
            return self._spawned(slot, foreign)
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if method != "forkserver":
                raise
            # billiard's forkserver ends when a fork fails: without it there is still spawn.
            self._give_up_forking(error)
            return self._spawned(slot, foreign)

    def fill(self, slots: int, taken: Container[int], now: float) -> None:
        """Have a child started in each of so many slots that has none, and in no other."""
        self.due = {slot: due for slot, due in self.due.items() if slot < slots}
        for slot in range(slots):
            if slot not in taken:
                self.due.setdefault(slot, now)

    def take_due(self, now: float) -> list[int]:
        """The slots that get their next child by now (monotonic), of which each is told once."""
        slots = [slot for slot, due in self.due.items() if due <= now]
        for slot in slots:
            del self.due[slot]
        return slots

    def try_spawn(self, slot: int, foreign: Sequence[int]) -> ChildHandle | None:
        """As :meth:`spawn`; ``None`` when no child could be started, and the slot is due again later."""
        try:
            return self.spawn(slot, foreign)
        except Exception as error:  # noqa: BLE001 - out of processes, memory or descriptors: the other children go on
            self._failed(slot, error)
            return None

    def loaded(self, rss: int | None) -> None:
        """A child has loaded the application, after which it has that many bytes of resident memory."""
        most = self._setup.max_rss
        if most is not None and rss is not None and rss >= most and not self._warned:
            self._warned = True
            logger.warning(
                "children have %.0f MB before their first task and are replaced from %.0f MB on, so that each task costs a new"
                " process: raise max_rss_per_child",
                rss / 1e6,
                most / 1e6,
            )
        self._deaths = self._failed_starts = 0
        self.trouble = None

    def _failed(self, slot: int, error: Exception) -> None:
        self._deaths += 1
        self.trouble = f"no child could be started: {error}"
        delay = self._delay()
        logger.error("no child could be started in slot %d, next try in %.1f s: %s", slot, delay, error)
        self.due[slot] = self._clock.monotonic() + delay

    def died(self, *, started: bool, load_failure: LoadFailed | None) -> None:
        """A child has died, before it had loaded the application unless ``started``."""
        if load_failure is not None and load_failure.again:
            self.trouble = load_failure.message
            self._failed_starts += 1
            self._deaths += load_failure.is_short
            logger.error("a child did not start, next try in %.1f s: %s", self._delay(), load_failure.message)
        elif load_failure is not None:
            self.load_failure = load_failure.message
            logger.error("a child can't load the application %s: %s", self._setup.target, load_failure.message)
        elif started:
            return
        else:
            self._deaths += 1

    def schedule_replacement(self, slot: int) -> None:
        """Schedule a new child for the slot of a dead one: the first at once, others later, as a child that dies while
        it starts is likely to do so again."""
        again_at_once = self._deaths < 2 and not self._failed_starts
        self.due[slot] = self._clock.monotonic() + (0.0 if again_at_once else self._delay())

    @property
    def is_given_up(self) -> bool:
        """Whether a start makes no sense any more."""
        return self.load_failure is not None or self._deaths >= _DEATHS_AT_START

    def problem(self, *, ready: bool) -> str | None:
        """Why the fleet is not complete, if it isn't; ``ready``: every child has loaded the application in time."""
        if self.load_failure is not None:
            return self.load_failure
        if self._deaths >= _DEATHS_AT_START:
            return self.trouble or "they die while they do"
        return None if ready else f"not ready within {START_TIMEOUT:g} s{f': {self.trouble}' if self.trouble else ''}"

    def _starter(self) -> AbstractContextManager[None]:
        if self._method == "forkserver" and self._fork_server is not None:
            return self._fork_server.in_use()
        return _right_interpreter() if self._method == "spawn" else nullcontext()

    def explain(self, problem: str) -> str:
        """A sentence about what :meth:`problem` says."""
        what = "can't load" if self.load_failure is not None or self.trouble is None else "did not start with"
        return f"children {what} the application {self._setup.target}: {problem}"

    @property
    def hint(self) -> str:
        """What to try about it."""
        if self.load_failure is not None or self.trouble is None:
            return "the module must be importable by that name in a new process"
        return "the log has the error of each child"

    def _delay(self) -> float:
        return float(min(0.1 * 2.0 ** min(self._deaths + self._failed_starts, 10), 30.0))

    def _spawned(self, slot: int, foreign: Sequence[int]) -> ChildHandle:
        queue = ChildJobQueue(self._clock)
        try:
            (ours, theirs), taken = billiard.Pipe(duplex=True), queue.childs_end()
        except BaseException:
            queue.close()
            raise
        inherited = (*foreign, ours.fileno(), *queue.descriptors) if self._method == "fork" else ()
        args = (theirs, taken, replace(self._setup, worker_pid=os.getpid()), inherited)
        process = self._context.Process(target=child.main, args=args, name=f"stem-child-{slot}")
        process.daemon = True
        try:
            with _main_module_hidden(), no_tracker_begun(), self._starter(), held_back():
                process.start()
        except BaseException:
            ours.close()
            queue.close()
            raise
        finally:
            # Kept open here, it would hide the child's death from us.
            theirs.close()
            taken.close()
        return ChildHandle(slot, process, ours, queue, self._clock, has_status=self._method != "forkserver")


class _Hidden(ModuleType):
    """Stands in for ``__main__``: everything that it has but its name and its file."""

    def __init__(self, main: ModuleType) -> None:
        super().__init__("__main__")
        self.__dict__["_main"] = main

    def __getattr__(self, name: str) -> Any:
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
    server: Any = getattr(billiard.forkserver, "_forkserver", None)
    if getattr(server, "_forkserver_alive_fd", None) in descriptors:  # another thread was starting a child
        server._forkserver_alive_fd = server._forkserver_address = None
