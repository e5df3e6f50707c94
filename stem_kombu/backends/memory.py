"""Task states and roster in this process's memory: for tests, demonstrations and programs that are their own worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from operator import attrgetter

from stem_kombu import timeouts
from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.stored import checked_ttl, lifetime, parsed_record, record_text
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.copies import replaced
from stem_kombu.outcome import TaskRecord, TaskState, admits, carried_over

#: Entries looked at for expiry after each record.
_SLICE = 4


@dataclass(frozen=True, slots=True)
class _Held:
    """A record in its stored form, so that a caller who changes a result it was given changes nothing here."""

    text: str
    expires_at: float


@dataclass(slots=True)
class _Shelf:
    """What backends of one name share. Records of tasks that ended are apart from the others, since each kind expires
    about in the order in which it was written."""

    ended: dict[str, _Held] = field(default_factory=dict)
    unfinished: dict[str, _Held] = field(default_factory=dict)
    beats: dict[tuple[str, str], Heartbeat] = field(default_factory=dict)


# One lock for all, so that a fork can hold it: a child must not inherit a shelf in the middle of a change.
_LOCK = threading.RLock()
_SHARED: dict[str, _Shelf] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class MemoryBackend(Backend):
    """A backend that lives as long as its process; backends of the same name share what they hold.

    It keeps nothing on disk and is not seen by other processes; a forked child goes on with a copy.
    """

    def __init__(self, name: str = "", *, result_ttl: float = timeouts.RESULT_TTL, clock: Clock = SYSTEM) -> None:
        self.url = f"memory://{name}"
        self._name = name
        self._result_ttl = checked_ttl(result_ttl)
        self._clock = clock

    # -- task states ------------------------------------------------------------------------------------------------

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        with _LOCK:
            return [self._record(self._shelf(), record) for record in records]

    def get(self, task_id: str) -> TaskRecord | None:
        with _LOCK:
            return self._held(self._shelf(), task_id)

    def scan(self, states: Collection[TaskState] | None = None) -> Iterator[TaskRecord]:
        with _LOCK:
            shelf = self._shelf()
            ids = [*shelf.unfinished, *shelf.ended]
        for task_id in ids:
            record = self.get(task_id)
            if record is not None and (states is None or record.state in states):
                yield record

    def _record(self, shelf: _Shelf, new: TaskRecord) -> TaskRecord:
        record_text(new)  # one that can't be stored is refused even where the rule would not admit it
        held = self._held(shelf, new.task_id)
        if held is not None and not admits(held, new):
            return held
        merged = carried_over(held, new)
        expires_at = self._clock.now() + lifetime(merged.state, self._result_ttl)
        shelf.unfinished.pop(new.task_id, None)
        shelf.ended.pop(new.task_id, None)
        (shelf.ended if merged.state.is_terminal else shelf.unfinished)[new.task_id] = _Held(
            record_text(merged), expires_at
        )
        self._prune(shelf)
        return merged

    def _held(self, shelf: _Shelf, task_id: str) -> TaskRecord | None:
        held = shelf.ended.get(task_id) or shelf.unfinished.get(task_id)
        if held is None or held.expires_at <= self._clock.now():
            return None
        return parsed_record(task_id, held.text, place=f"result backend {self.url}: task {task_id}")

    def _prune(self, shelf: _Shelf) -> None:
        now = self._clock.now()
        for records in (shelf.ended, shelf.unfinished):
            oldest = islice(records.items(), _SLICE)
            for task_id in [task_id for task_id, held in oldest if held.expires_at <= now]:
                del records[task_id]

    # -- roster -----------------------------------------------------------------------------------------------------

    def beat(self, heartbeat: Heartbeat) -> datetime:
        with _LOCK:
            now = self._clock.utcnow()
            self._shelf().beats[heartbeat.namespace, heartbeat.worker] = replaced(heartbeat, timestamp=now)
            return now

    def offer(self, heartbeat: Heartbeat, *, dead: Heartbeat | None = None) -> tuple[datetime, Heartbeat | None]:
        with _LOCK:
            now = self._clock.utcnow()
            held = self._shelf().beats.get((heartbeat.namespace, heartbeat.worker))
            if held is not None and held.blocks(heartbeat, now, dead):
                return now, held
            return self.beat(heartbeat), None

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        with _LOCK:
            beats = self._shelf().beats
            held = beats.get((namespace, worker))
            if held is not None and held.boot == boot:
                del beats[namespace, worker]

    def view(self, namespace: str) -> RosterView:
        with _LOCK:
            now, beats = self._clock.utcnow(), self._shelf().beats
            for key in [key for key, beat in beats.items() if beat.age(now) >= beat.lifetime]:
                del beats[key]
            found = [beat for (place, _), beat in beats.items() if place == namespace]
        return RosterView(tuple(sorted(found, key=attrgetter("worker"))), now)

    # -- both -------------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Nothing to let go; the shelves stay for other backends of the same name."""

    def _shelf(self) -> _Shelf:
        return _SHARED.setdefault(self._name, _Shelf())
