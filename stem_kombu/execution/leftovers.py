"""What a killed worker's tasks have started, where the worker and its children were killed in the same instant.

Each process that a child starts carries a mark in its environment, as long as the task does not take that away: of which
worker, since when it ran, and in which child's group. The next worker on the host ends what carries the mark of a worker
that is dead and is still in its child's group (G28). What has left that group is left alone.
"""

from __future__ import annotations

import logging
import signal
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from stem_kombu import machine, timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.environment import environment, put_into_environment
from stem_kombu.machine import ProcessStat

logger = logging.getLogger(__name__)

#: The variable that carries the mark.
VARIABLE = "STEM_CHILD_OF"


@dataclass(frozen=True, slots=True)
class Mark:
    """``boot`` and ``space`` (of process ids) say where the numbers count; ``started`` are the worker's ticks, ``group`` and
    ``session`` its own; ``child`` is the child's id and so its group's, 0 before there is one."""

    boot: str
    space: str
    worker: int
    started: int
    group: int
    session: int
    child: int = 0

    def __str__(self) -> str:
        return ":".join(map(str, (getattr(self, name) for name in self.__slots__)))

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """``None`` for what is none."""
        parts = text.split(":")
        if len(parts) != 7 or not all(part.isdigit() for part in parts[2:]):
            return None
        return cls(parts[0], parts[1], *(int(part) for part in parts[2:]))

    @classmethod
    def here(cls) -> Mark | None:
        """Of this process as a worker; ``None`` where there is no ``/proc``."""
        own, boot, space = machine.stat_of(machine.getpid()), machine.boot_id(), machine.pid_namespace()
        if own is None or boot is None or space is None:
            return None
        return cls(boot, str(space), own.pid, own.started, own.group, own.session)


def environment_with_mark() -> dict[str, str]:
    """This process's environment and its mark as a worker, for the process that forks its children."""
    mark = Mark.here()
    return environment() if mark is None else {**environment(), VARIABLE: str(mark)}


def mark_for_children() -> str | None:
    """This process's mark as a worker, to which each of its children adds its own id."""
    mark = Mark.here()
    return None if mark is None else str(mark).rpartition(":")[0]


def mark_what_this_child_starts(mark: str | None) -> None:
    """In a child, once it leads its group: programs that it starts carry that mark of its worker, and its id."""
    if mark is not None:
        put_into_environment(VARIABLE, f"{mark}:{machine.getpid()}")


def end_leftovers(*, also_children: bool = False) -> list[int]:
    """Kill what dead workers' children have left in their groups; the ids. With ``also_children`` the children as well,
    which would end by themselves."""
    here = Mark.here()
    if here is None:
        return []
    marked = [
        (one, mark) for one in machine.processes() if (mark := _mark_of(one.pid)) is not None and _is_orphan(mark, here)
    ]
    leaders = {one.pid for one, _ in marked if one.pid == one.group}
    ended = []
    for one, mark in marked:
        if mark.child:
            stays = one.group == mark.child  # a program, which says itself in which group it began
        else:
            stays = one.session == mark.session and (one.pid != one.group or also_children) and one.group != mark.group
        waits = one.group in leaders and not also_children  # its child lives, and ends it
        if stays and not waits and _kill(one):
            ended.append(one.pid)
    return ended


def tell_of_strays(child: int) -> None:
    """Log, in the background, how many processes that tasks of a dead child have started left its group, and go on."""

    def tell() -> None:
        strays = [one.pid for one in machine.processes() if one.group != child and _child_of(one.pid) == child]
        if strays:
            logger.warning(
                "%d processes that tasks of child %d had started left its process group and go on: %s",
                len(strays),
                child,
                ", ".join(map(str, strays)),
            )

    with suppress(RuntimeError):  # no more threads
        threads.Thread(target=tell, name="stem-strays", daemon=True).start()


def _child_of(pid: int) -> int | None:
    mark, here = _mark_of(pid), Mark.here()
    if mark is None or here is None or (mark.boot, mark.space, mark.worker) != (here.boot, here.space, here.worker):
        return None
    return mark.child


class LeftoverReaper:
    """Looks twice: when a worker starts, and when children of a dead one must have ended by themselves."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: When (monotonic) :meth:`tend` has something to do.
        self.due = inf

    def begin(self) -> None:
        """At a worker's start."""
        self._tell(end_leftovers())
        self.due = self._clock.monotonic() + timeouts.ORPHANS_END

    def tend(self, now: float) -> None:
        """When :attr:`due`: a second look."""
        if now >= self.due:
            self.due = inf
            self._tell(end_leftovers(also_children=True))

    @staticmethod
    def _tell(ended: list[int]) -> None:
        if ended:
            logger.warning(
                "ended %d processes that tasks of a killed worker on this host had left running: %s",
                len(ended),
                ", ".join(map(str, ended)),
            )


def _mark_of(pid: int) -> Mark | None:
    variables = machine.environment_of(pid)
    if variables is None:
        return None
    _, found, rest = (b"\0" + variables).partition(f"\0{VARIABLE}=".encode())
    return Mark.parse(rest.partition(b"\0")[0].decode(errors="replace")) if found else None


def _is_orphan(mark: Mark, here: Mark) -> bool:
    """Whether the mark is of a worker that ran here, on this boot, and is dead."""
    if (mark.boot, mark.space) != (here.boot, here.space):
        return False
    worker = machine.stat_of(mark.worker)
    return worker is None or worker.started != mark.started or worker.state in "ZX"


def _kill(one: ProcessStat) -> bool:
    again = machine.stat_of(one.pid)
    if again is None or again.started != one.started:
        return False
    with suppress(OSError):
        machine.kill(one.pid, signal.SIGKILL)
        return True
    return False
