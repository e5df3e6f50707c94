"""Process groups of children: each child leads one, so that what its tasks have started ends with it (G28).

The number of a group names the same group for as long as it has a member. A signal goes to a group only after a look that
says that the child leads it; else it goes to the child alone, and never to the worker's own group.
"""

from __future__ import annotations

import signal
from contextlib import suppress

from stem_kombu import machine
from stem_kombu.machine import ProcessStat


def lead_a_group() -> bool:
    """Make this process the leader of a group of its own; whether it is."""
    with suppress(OSError):  # a session's leader is one already
        machine.setpgid(0, 0)
    return leads_its_group(machine.getpid())


def leads_its_group(pid: int) -> bool:
    """Whether that process lives and leads a group, which is not this process's."""
    try:
        return machine.getpgid(pid) == pid and (pid == machine.getpid() or pid != machine.getpgrp())
    except OSError:
        return False


def kill(pid: int) -> None:
    """SIGKILL to the group that the process leads, else to it alone."""
    with suppress(ProcessLookupError):  # it was quicker
        if leads_its_group(pid):
            machine.killpg(pid, signal.SIGKILL)
        else:
            machine.kill(pid, signal.SIGKILL)


def terminate(pid: int) -> None:
    """SIGTERM to the group that the process leads, else to it alone: what a task has started takes notice, its child does not."""
    with suppress(ProcessLookupError):
        if leads_its_group(pid):
            machine.killpg(pid, signal.SIGTERM)
        else:
            machine.kill(pid, signal.SIGTERM)


def kill_leaderless(group: int, since: int | None) -> list[int]:
    """SIGKILL to what is left of the group of a child that is dead; the ids of these processes, where they can be told.

    ``since`` are the ticks at which the child started. Call it as soon as the death is known: the group keeps
    its number while it has a member. A member that is older, of another session, or the leader shows that it is another group.
    """
    if group == machine.getpgrp():
        return []
    try:
        machine.killpg(group, 0)
    except OSError:
        return []  # nothing is left
    members = [one for one in machine.processes() if one.group == group]
    if machine.stat_of(machine.getpid()) is None:  # no /proc: a group without its leader has outlived it
        if machine.runs(group):
            return []
    elif since is None or not members or not all(_outlived(one, group, since) for one in members):
        return []
    with suppress(OSError):
        machine.killpg(group, signal.SIGKILL)
    return [one.pid for one in members]


def _outlived(member: ProcessStat, leader: int, since: int) -> bool:
    return member.pid != leader and member.started >= since and member.session == machine.getsid(0)


def end_own_group(status: int) -> None:
    """Leave at once, together with everything in the group that this process leads. Does not return."""
    if machine.getpgrp() == machine.getpid():
        machine.killpg(0, signal.SIGKILL)
    machine.leave_at_once(status)
