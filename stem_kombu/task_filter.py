"""Which task records an operator wants to see."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from stem_kombu.outcome import TaskRecord, TaskState


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Conditions that all have to hold; ``None`` and empty ones always do. ``name``, ``queue`` and ``worker`` are globs,
    ``since`` is the earliest time of the last that is recorded of the task."""

    states: frozenset[TaskState] = frozenset()
    name: str | None = None
    queue: str | None = None
    worker: str | None = None
    since: datetime | None = None

    def matches(self, record: TaskRecord) -> bool:
        return (
            (not self.states or record.state in self.states)
            and _matches(self.name, record.name)
            and _matches(self.queue, record.queue)
            and _matches(self.worker, record.worker)
            and (self.since is None or ((at := last_seen(record)) is not None and at >= self.since))
        )


def last_seen(record: TaskRecord) -> datetime | None:
    """When the last thing that the record tells happened: its end, else its start, else its sending; ``None``: unknown."""
    return record.ended_at or record.started_at or record.enqueued_at


def _matches(pattern: str | None, value: str | None) -> bool:
    return pattern is None or (value is not None and (value == pattern or fnmatchcase(value, pattern)))
