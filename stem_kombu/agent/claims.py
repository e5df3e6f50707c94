"""Whether the worker that holds an id lives: seen at its process, or by whether its heartbeat is renewed when that is due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stem_kombu import machine, timeouts
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.processes import Presence, Process, presence

#: The boots that hold an id in this process, and its process id: a forked child has none of them.
_here: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class _Watched:
    """An entry as it was first seen, and the monotonic time by which its worker renews it, if it lives."""

    boot: str
    stamped_at: datetime | None
    until: float


class Claims:
    """What one worker knows of others that hold its id. ``process`` is this one."""

    def __init__(self, process: Process | None) -> None:
        self._process = process
        self._hostname = machine.gethostname()
        self._watched: _Watched | None = None

    def add(self, boot: str) -> None:
        """That boot holds an id in this process from now on."""
        _here[boot] = machine.getpid()
        self._watched = None

    def forget(self, boot: str) -> None:
        """It does not any more."""
        _here.pop(boot, None)

    def is_over(self, seen: Heartbeat, entry: Heartbeat, now: datetime, at: float) -> bool:
        """Whether the worker of that entry has ended, for certain or in all likelihood.

        ``entry`` is what the roster holds at ``now``, by its clock, and at the monotonic time ``at``; ``seen`` is the same
        as far as it is verified.
        """
        if not seen.holds_its_id(now):
            return True
        if _here.get(entry.boot) == machine.getpid():
            self._watched = None
            return False
        found = presence(seen.process, seen.hostname, seen.pid, self._process, self._hostname)
        if found is not Presence.UNKNOWN:
            self._watched = None
            return found is Presence.GONE
        if self._watched is None or self._watched.boot != entry.boot:
            age = seen.age(now)
            # One that is overdue may have been kept from its roster for a while, and tries again after a whole interval.
            left = seen.interval - age if age < seen.interval else seen.interval
            late = min(
                timeouts.HEARTBEAT_MOST_LATE,
                max(timeouts.HEARTBEAT_LEAST_LATE, timeouts.HEARTBEAT_LATE_SHARE * seen.interval),
            )
            self._watched = _Watched(entry.boot, entry.timestamp, at + left + late)
        return entry.timestamp == self._watched.stamped_at and at >= self._watched.until

    def left(self, entry: Heartbeat, at: float) -> float | None:
        """Seconds until it is known whether the worker of that entry lives; ``None`` when it does."""
        watched = self._watched
        if watched is None or (watched.boot, watched.stamped_at) != (entry.boot, entry.timestamp):
            return None
        return max(0.0, watched.until - at)


def described(beat: Heartbeat) -> str:
    """The process of a worker, for people."""
    where = beat.process
    container = "" if where is None else f", process namespace {where.namespace}"
    return f"host {beat.hostname}, process {beat.pid}{container} (boot {beat.boot})"
