"""Process groups of children: each child leads one, so that what its tasks have started ends with it (G28).

The number of a group names the same group for as long as it has a member. A signal goes to a group only after a look that
says that the child leads it; else it goes to the child alone, and never to the worker's own group.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What the system says about a process. ``started`` are clock ticks since the machine's start, ``state`` is a letter."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    started: int


def stat_of(pid: int) -> ProcessStat | None:
    """``None`` when there is no such process, or no ``/proc``."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return ProcessStat(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def processes() -> Iterator[ProcessStat]:
    """Every process that runs here; none where there is no ``/proc``. Zombies, which run nothing, are left out."""
    try:
        names = [entry.name for entry in _PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return
    for name in names:
        if (found := stat_of(int(name))) is not None and found.state not in "ZX":
            yield found


def started_at(pid: int) -> int | None:
    """The ticks at which that process started, ``None`` where it can't be told."""
    found = stat_of(pid)
    return None if found is None else found.started


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when that process ends, ``None`` where the system has no such thing."""
    opened: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
    if opened is None or pid <= 0:
        return None
    try:
        return opened(pid)
    except OSError:
        return None  # an old system; or the process is dead already, which other ways tell


def is_readable(descriptor: int) -> bool:
    """Whether there is something to read, or the end of something, without waiting."""
    return bool(select.select([descriptor], (), (), 0)[0])


def lead_a_group() -> bool:
    """Make this process the leader of a group of its own; whether it is."""
    with suppress(OSError):  # a session's leader is one already
        os.setpgid(0, 0)
    return leads_its_group(os.getpid())


def leads_its_group(pid: int) -> bool:
    """Whether that process lives and leads a group, which is not this process's."""
    try:
        return os.getpgid(pid) == pid and (pid == os.getpid() or pid != os.getpgrp())
    except OSError:
        return False


def kill(pid: int) -> None:
    """SIGKILL to the group that the process leads, else to it alone."""
    with suppress(ProcessLookupError):  # it was quicker
        if leads_its_group(pid):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def terminate(pid: int) -> None:
    """SIGTERM to the group that the process leads, else to it alone: what a task has started takes notice, its child does not."""
    with suppress(ProcessLookupError):
        if leads_its_group(pid):
            os.killpg(pid, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGTERM)


def kill_leaderless(group: int, since: int | None) -> list[int]:
    """SIGKILL to what is left of the group of a child that is dead; the ids of these processes, where they can be told.

    ``since`` are the ticks at which the child started. Call it as soon as the death is known: the group keeps
    its number while it has a member. A member that is older, of another session, or the leader shows that it is another group.
    """
    if group == os.getpgrp():
        return []
    try:
        os.killpg(group, 0)
    except OSError:
        return []  # nothing is left
    members = [one for one in processes() if one.group == group]
    if stat_of(os.getpid()) is None:  # no /proc: a group without its leader has outlived it
        if _exists(group):
            return []
    elif since is None or not members or not all(_outlived(one, group, since) for one in members):
        return []
    with suppress(OSError):
        os.killpg(group, signal.SIGKILL)
    return [one.pid for one in members]


def _outlived(member: ProcessStat, leader: int, since: int) -> bool:
    return member.pid != leader and member.started >= since and member.session == os.getsid(0)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def end_own_group(status: int) -> None:
    """Leave at once, together with everything in the group that this process leads. Does not return."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(status)
