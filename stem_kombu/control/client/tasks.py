"""The recorded tasks of a fleet, found by what they are."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import itemgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stem_kombu.backends.base import Backend
from stem_kombu.backends.registry import open_backend
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control.client.places import settings_of
from stem_kombu.durations import checked_duration
from stem_kombu.errors import ConfigurationError
from stem_kombu.outcome import TaskRecord
from stem_kombu.settings import Settings
from stem_kombu.task_filter import TaskFilter, last_seen

if TYPE_CHECKING:
    from stem_kombu.app import Stem

SCHEMA = "stem.tasks/1"
#: Tasks that :meth:`TaskClient.find` returns at most.
MOST_FOUND = 100_000
#: Records between two looks at the clock.
_LOOKED_AT = 100
_EVERY = TaskFilter()
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class FoundTasks:
    """The newest matching records, newest first. ``matched`` of ``looked_at`` records match; ``complete`` is false where
    the time was over before all records had been looked at."""

    tasks: tuple[TaskRecord, ...]
    matched: int
    looked_at: int
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "tasks": [record.to_record() for record in self.tasks],
            "matched": self.matched,
            "looked_at": self.looked_at,
            "complete": self.complete,
        }


class TaskClient:
    """Looks into a fleet's result backend. ``target`` is an application or settings.

    Raises :class:`~stem_kombu.errors.ConfigurationError` where there is no result backend, and
    :class:`~stem_kombu.errors.StoreUnavailable` when it can't be reached.
    """

    def __init__(self, target: Stem | Settings, *, clock: Clock = SYSTEM) -> None:
        self.settings: Settings = settings_of(target)
        self._clock = clock
        source = self.settings.backend
        if source is None:
            raise ConfigurationError(
                "there is no result backend to ask",
                hint="set STEM_RESULT_BACKEND_URL, or give --backend, in Python backend=…",
            )
        self._backend: Backend = open_backend(source.value, name=source.name, tls=self.settings.tls)

    def find(self, wanted: TaskFilter = _EVERY, *, limit: int = 50, timeout: float | None = None) -> FoundTasks:
        """The newest ``limit`` tasks that match, by the last that is recorded of each. Looks for at most ``timeout`` seconds
        (default: the settings' control timeout), and keeps no more than ``limit`` records in memory."""
        if not 1 <= limit <= MOST_FOUND:
            raise ConfigurationError(f"limit {limit!r} is not between 1 and {MOST_FOUND}")
        span = self.settings.control_timeout if timeout is None else checked_duration(timeout, name="timeout")
        until = self._clock.monotonic() + span
        newest: list[tuple[datetime, str, TaskRecord]] = []
        matched = looked_at = 0
        complete = True
        for record in self._backend.scan(wanted.states or None):
            looked_at += 1
            if wanted.matches(record):
                matched += 1
                entry = (last_seen(record) or _LONG_AGO, record.task_id, record)
                if len(newest) < limit:
                    heapq.heappush(newest, entry)
                else:
                    heapq.heappushpop(newest, entry)
            if not looked_at % _LOOKED_AT and self._clock.monotonic() >= until:
                complete = False
                break
        ordered = tuple(record for _, _, record in sorted(newest, key=itemgetter(0, 1), reverse=True))
        return FoundTasks(ordered, matched, looked_at, complete)

    def scan(self, wanted: TaskFilter = _EVERY, *, timeout: float | None = None) -> Iterator[TaskRecord]:
        """Every task that matches, streamed in no order, however many there are; those that are found within ``timeout``
        seconds, where it is given."""
        until = None if timeout is None else self._clock.monotonic() + timeout
        for looked_at, record in enumerate(self._backend.scan(wanted.states or None), 1):
            if wanted.matches(record):
                yield record
            if until is not None and not looked_at % _LOOKED_AT and self._clock.monotonic() >= until:
                return

    def close(self) -> None:
        """Let connections go. May be called twice."""
        self._backend.close()

    def __enter__(self) -> TaskClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
