"""Which process wrote a heartbeat, in a form that tells it apart from every other, and whether it is still there.

A host name and a process id do not: containers share the one (``hostname:``, ``network_mode: host``) and begin to count the
other at 1. Linux tells what does: the kernel's boot id, the process id namespace, and when the process started. Without
``/proc`` only the process id is left, and then no more is concluded than that a process of this id is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from stem_kombu import machine


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
        boot_id, namespace, own = (
            machine.boot_id(),
            machine.pid_namespace(),
            machine.stat_of(machine.pid_in_proc() or 0),
        )
        if boot_id is None or namespace is None or own is None:
            return None
        return cls(boot_id, namespace, machine.getpid(), own.started)

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
        gone = here is None and process is None and hostname == our_hostname
        gone = gone and (pid == machine.getpid() or not machine.runs(pid))
        return Presence.GONE if gone else Presence.UNKNOWN
    if (process.boot_id, process.namespace) != (here.boot_id, here.namespace):
        return Presence.UNKNOWN
    if process.pid == here.pid:
        return Presence.ALIVE if process.started == here.started else Presence.GONE
    if not machine.runs(process.pid):
        return Presence.GONE
    if machine.pid_in_proc() != here.pid:
        return Presence.UNKNOWN  # /proc is of another namespace, and counts others
    found = machine.stat_of(process.pid)
    if found is None:
        # Hidden from this user, or it has ended just now.
        return Presence.UNKNOWN if machine.runs(process.pid) else Presence.GONE
    # Z and X: killed, and its parent has not taken notice yet.
    return Presence.ALIVE if found.started == process.started and found.state not in "ZX" else Presence.GONE
