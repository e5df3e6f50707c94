"""Which process wrote a heartbeat, in a form that tells it apart from every other, and whether it is still there.

A host name and a process id do not: containers share the one (``hostname:``, ``network_mode: host``) and begin to count the
other at 1. Linux tells what does: the kernel's boot id, the process id namespace, and when the process started. Without
``/proc`` only the process id is left, and then no more is concluded than that a process of this id is gone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_PROC = Path("/proc")
#: Fields of ``/proc/PID/stat`` behind the command's name: the state, and the start in clock ticks since the boot.
_STATE, _STARTED = 0, 19


class Presence(Enum):
    ALIVE = "alive"
    GONE = "gone"
    #: It may be on another machine, or in a container that can't be looked into.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Process:
    """``boot_id`` is the kernel's since it started, ``namespace`` the inode of the process id namespace in which ``pid`` counts,
    ``started`` clock ticks since the boot."""

    boot_id: str
    namespace: int
    pid: int
    started: int

    @classmethod
    def here(cls) -> Process | None:
        """This process, ``None`` where the system does not tell."""
        try:
            boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
            namespace = (_PROC / "self/ns/pid").stat().st_ino
            _, started = _looked_up("self")
        except (OSError, ValueError, IndexError):
            return None
        return cls(boot_id, namespace, os.getpid(), started) if boot_id else None

    def to_record(self) -> dict[str, object]:
        return {"boot_id": self.boot_id, "pid_namespace": self.namespace, "started_ticks": self.started}

    @classmethod
    def from_record(cls, record: Mapping[str, object], pid: int) -> Process | None:
        """The process of a JSON form, ``None`` when it isn't one."""
        boot_id, namespace, started = (record.get(name) for name in ("boot_id", "pid_namespace", "started_ticks"))
        if not isinstance(boot_id, str) or not boot_id or type(namespace) is not int or type(started) is not int:
            return None
        return cls(boot_id[:64], namespace, pid, started)


def presence(process: Process | None, hostname: str, pid: int, here: Process | None, our_hostname: str) -> Presence:
    """Whether the process that wrote a heartbeat with this host name and process id lives, as far as can be seen from here."""
    if process is None or here is None:
        # Of an old version, or on a system that tells no more. A namespace can't be ruled out where there are any.
        gone = here is None and process is None and hostname == our_hostname and (pid == os.getpid() or not _runs(pid))
        return Presence.GONE if gone else Presence.UNKNOWN
    if (process.boot_id, process.namespace) != (here.boot_id, here.namespace):
        return Presence.UNKNOWN
    if process.pid == here.pid:
        return Presence.ALIVE if process.started == here.started else Presence.GONE
    if not _runs(process.pid):
        return Presence.GONE
    try:
        if str((_PROC / "self").readlink()) != str(here.pid):
            return Presence.UNKNOWN  # /proc is of another namespace, and counts others
        state, started = _looked_up(str(process.pid))
    except FileNotFoundError:
        # Hidden from this user, or it has ended just now.
        return Presence.UNKNOWN if _runs(process.pid) else Presence.GONE
    except (OSError, ValueError, IndexError):
        return Presence.UNKNOWN
    # Z and X: killed, and its parent has not taken notice yet.
    return Presence.ALIVE if started == process.started and state not in "ZX" else Presence.GONE


def _looked_up(pid: str) -> tuple[str, int]:
    fields = (_PROC / pid / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[_STATE], int(fields[_STARTED])


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
