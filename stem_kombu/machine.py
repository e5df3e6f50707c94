"""What the machine tells of processes and does to them: ids, pipes, signals, memory.

The rooms that run tasks and the control server ask nothing else of the operating system about processes, so that another
machine can stand in for this one, as another clock can (:mod:`stem_kombu.clock`). The short names are Python's own and mean
what they mean there.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import close, dup, getpid, kill, pipe, read, write
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from socket import gethostname

_PROC = Path("/proc")

#: Something can be read.
POLLIN: int = getattr(select, "POLLIN", 1)
leave_at_once: Callable[[int], None] = os._exit
#: Waits for many descriptors at once.
Selector = selectors.DefaultSelector

if sys.platform != "win32":
    from os import getpgid, getpgrp, getsid, killpg, readv, set_blocking, setpgid

    def datagram_pair() -> tuple[socket.socket, socket.socket]:
        """Two ends of a queue of datagrams."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def poll() -> select.poll:
    """A poll object. Looked up when it is asked for: eventlet takes it away."""
    return select.poll()


def wake_descriptors() -> tuple[int, int]:
    """A descriptor to read and one to write, neither of which blocks: one eventfd, or a pipe's."""
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return descriptor, descriptor
    reader, writer = pipe()
    set_blocking(reader, False)
    set_blocking(writer, False)
    return reader, writer


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when that process ends, ``None`` where the system has no such thing."""
    opened: Callable[[int], int] | None = getattr(os, "pidfd_open", None)
    if opened is None or pid <= 0:
        return None
    try:
        return opened(pid)
    except OSError:
        return None  # an old system; or the process is dead already, which other ways tell


def is_readable(descriptor: int, timeout: float | None = 0.0) -> bool:
    """Whether there is something to read, or the end of something, within so many seconds. By ``poll``: ``select.select`` takes
    no descriptor above 1023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def user_name() -> str:
    """Of the user that this process runs as, ``unknown`` where the system does not tell."""
    try:
        from getpass import getuser  # with what sets up terminals; no worker asks

        return getuser()
    except (KeyError, OSError):
        return "unknown"  # a container without a passwd entry for its user


# -- what the system tells of processes -----------------------------------------------------------------------------------


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


def started_at(pid: int) -> int | None:
    """The ticks at which that process started, ``None`` where it is unknown."""
    found = stat_of(pid)
    return None if found is None else found.started


def processes() -> Iterator[ProcessStat]:
    """Every process that runs here; none where there is no ``/proc``. Zombies, which run nothing, are left out."""
    try:
        names = [entry.name for entry in _PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return
    for name in names:
        if (found := stat_of(int(name))) is not None and found.state not in "ZX":
            yield found


def runs(pid: int) -> bool:
    """Whether there is a process of that id, a zombie or another user's included."""
    try:
        kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def environment_of(pid: int) -> bytes | None:
    """The variables that a process began with, a zero byte after each; ``None`` where this process may not know them."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - of every process: a Path costs as much as the look
            return file.read()
    except OSError:
        return None  # it has ended, or is another user's


def boot_id() -> str | None:
    """Of the kernel since it started, ``None`` where the system does not tell."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip() or None
    except OSError:
        return None


def pid_namespace() -> int | None:
    """The inode of the namespace in which this process's ids count, ``None`` where the system does not tell."""
    try:
        return (_PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return None


def pid_in_proc() -> int | None:
    """The id that ``/proc`` has for this process: another one than :func:`getpid` where it counts in another namespace."""
    try:
        return int((_PROC / "self").readlink().name)
    except (OSError, ValueError):
        return None


def rss_bytes(pid: int | None = None) -> int | None:
    """Resident memory of a process in bytes, of this one unless told; ``None`` where the platform doesn't tell cheaply."""
    try:
        with open(f"/proc/{'self' if pid is None else pid}/statm", "rb", buffering=0) as statm:  # noqa: PTH123 - for each job: a Path costs more
            return int(statm.read(200).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def load_avg() -> float | None:
    """The machine's load average over one minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


__all__ = [
    "EVENT_READ",
    "EVENT_WRITE",
    "POLLIN",
    "ProcessStat",
    "Selector",
    "boot_id",
    "close",
    "datagram_pair",
    "dup",
    "environment_of",
    "gethostname",
    "getpgid",
    "getpgrp",
    "getpid",
    "getsid",
    "is_readable",
    "kill",
    "killpg",
    "leave_at_once",
    "load_avg",
    "open_pidfd",
    "pid_in_proc",
    "pid_namespace",
    "poll",
    "processes",
    "read",
    "readv",
    "rss_bytes",
    "runs",
    "set_blocking",
    "setpgid",
    "started_at",
    "stat_of",
    "user_name",
    "wake_descriptors",
    "write",
]
