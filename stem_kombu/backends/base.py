"""The ports of a result backend: task states by compare-and-set, and the roster of live workers.

A revoke store's place can keep a roster as well, for fleets without a backend; so the two are separate ports that
one class may serve.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.outcome import TaskRecord


@dataclass(frozen=True, slots=True)
class RosterView:
    """What a roster holds at one moment: the last beat of each worker whose entry has not aged out, sorted by worker
    id, and the roster's own clock (aware UTC), by which ages are judged."""

    heartbeats: tuple[Heartbeat, ...]
    now: datetime


class TaskStates(ABC):
    """Recorded task states, shared by any number of processes. Thread-safe; connects on first use; reconnects."""

    #: The URL with its password masked, for people.
    url: str

    @abstractmethod
    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """What is held after each record was offered, in order: the record itself (with what
        :func:`stem_kombu.outcome.carried_over` adds) where :func:`stem_kombu.outcome.admits` let it in, else what was
        held. Each record is compared and set atomically (G10); the batch as a whole need not be."""

    @abstractmethod
    def get(self, task_id: str) -> TaskRecord | None:
        """The recorded state of a task, or ``None`` when it is unknown."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the backend answers; raises :class:`~stem_kombu.errors.StoreUnavailable`."""

    @abstractmethod
    def close(self) -> None:
        """Let connections go. May be called twice, and the backend may be used again afterwards."""


class Roster(ABC):
    """Who is alive, by their heartbeats. Thread-safe; connects on first use; reconnects."""

    url: str

    @abstractmethod
    def beat(self, heartbeat: Heartbeat) -> datetime:
        """Keep the heartbeat as the worker's last, stamped by the roster's clock, and return that clock's now.

        The entry vanishes by itself :data:`~stem_kombu.backends.heartbeat.DEAD_AFTER` intervals and a margin later.
        A beat of another ``boot`` replaces the held one (the caller checks for duplicates beforehand).
        """

    @abstractmethod
    def leave(self, namespace: str, worker: str, boot: str) -> None:
        """Forget the worker at once, unless the entry is of another boot."""

    @abstractmethod
    def view(self, namespace: str) -> RosterView:
        """Every entry of the namespace that has not aged out, stale ones included, and the roster's now."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the roster answers; raises :class:`~stem_kombu.errors.StoreUnavailable`."""

    @abstractmethod
    def close(self) -> None:
        """Let connections go. May be called twice, and the roster may be used again afterwards."""


class Backend(TaskStates, Roster):
    """A result backend: both ports in one place."""
