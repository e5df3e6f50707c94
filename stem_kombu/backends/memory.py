"""Task states and a roster in this process's memory: for tests and for programs that are their own only worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.outcome import TaskRecord, admits, carried_over


@dataclass(slots=True)
class _Shelf:
    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    roster: dict[tuple[str, str], Heartbeat] = field(default_factory=dict)


# One lock for all, so that a fork can hold it: a child must not inherit a shelf in the middle of a change.
_LOCK = threading.RLock()
_SHARED: dict[str, _Shelf] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class MemoryBackend(Backend):
    """A backend that lives as long as its process; backends of the same name share what they hold."""

    def __init__(self, name: str = "", *, clock: Clock = SYSTEM) -> None:
        self.url = f"memory://{name}"
        self._clock = clock
        with _LOCK:
            self._shelf = _SHARED.setdefault(name, _Shelf())

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        with _LOCK:
            tasks = self._shelf.tasks
            for record in records:
                held = tasks.get(record.task_id)
                if admits(held, record):
                    tasks[record.task_id] = carried_over(held, record)
            return [tasks[record.task_id] for record in records]

    def get(self, task_id: str) -> TaskRecord | None:
        with _LOCK:
            return self._shelf.tasks.get(task_id)

    def beat(self, heartbeat: Heartbeat) -> datetime:
        now = self._clock.utcnow()
        with _LOCK:
            self._shelf.roster[heartbeat.namespace, heartbeat.worker] = replace(heartbeat, timestamp=now)
        return now

    def claim(self, heartbeat: Heartbeat) -> Heartbeat | None:
        with _LOCK:
            held = self._shelf.roster.get((heartbeat.namespace, heartbeat.worker))
            if held is not None and held.boot != heartbeat.boot and is_live(held, self._clock.utcnow()):
                return held
            self.beat(heartbeat)
        return None

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        with _LOCK:
            held = self._shelf.roster.get((namespace, worker))
            if held is not None and held.boot == boot:
                del self._shelf.roster[namespace, worker]

    def view(self, namespace: str) -> RosterView:
        with _LOCK:
            now = self._clock.utcnow()
            aged = [key for key, beat in self._shelf.roster.items() if beat.age(now) > beat.lifetime]
            for key in aged:
                del self._shelf.roster[key]
            beats = [beat for (space, _), beat in self._shelf.roster.items() if space == namespace]
        return RosterView(tuple(sorted(beats, key=lambda beat: beat.worker)), now)

    def ping(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Nothing to let go; what is held stays for other backends of the same name."""


def is_live(heartbeat: Heartbeat, now: datetime) -> bool:
    """Whether the worker of that beat holds its id: neither stale nor dead."""
    return heartbeat.liveness(now) in (Liveness.LIVE, Liveness.DRAINING)
