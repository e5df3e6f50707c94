"""The ports of a result backend: task states by compare-and-set, and the roster of live workers.

A revoke store's place can keep a roster as well, for fleets without a backend; so the two are separate ports that
one class may serve.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from stem_kombu import timeouts
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import ConfigurationError, StoreCorrupt
from stem_kombu.outcome import TaskRecord, TaskState


@dataclass(frozen=True, slots=True)
class RosterView:
    """What a roster holds at one moment: the last beat of each worker whose entry has not aged out, sorted by worker
    id, and the roster's own clock (aware UTC), by which ages are judged. ``unreadable`` counts the entries that are no
    heartbeats and were left out; each is logged once."""

    heartbeats: tuple[Heartbeat, ...]
    now: datetime
    unreadable: int = 0
    #: Their workers, as the roster names them (G37).
    set_aside: tuple[str, ...] = ()


class TaskStates(ABC):
    """Recorded task states, shared by any number of processes. Thread-safe; connects on first use; reconnects."""

    #: The URL with its password masked, for people.
    url: str

    @abstractmethod
    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """What is held after each record was offered, in order: the record itself (with what
        :func:`stem_kombu.outcome.carried_over` adds) where :func:`stem_kombu.outcome.admits` let it in, else what was
        held. Each record is compared and set atomically (G10); the batch as a whole need not be.

        A held record that can't be read is set aside, named in the log, and gives way (G37).

        Raises :class:`~stem_kombu.errors.StoreUnavailable`, and then the same batch may be offered again; another
        :class:`~stem_kombu.errors.StoreError` for a record that can't be stored. Such
        an error tells nothing about the rest of the batch: offer its records one by one.
        """

    @abstractmethod
    def get(self, task_id: str) -> TaskRecord | None:
        """The recorded state of a task, or ``None`` when it is unknown or has expired.

        Raises :class:`~stem_kombu.errors.StoreCorrupt`, naming the place, when what is held is no record.
        """

    def scan(self, states: Collection[TaskState] | None = None) -> Iterator[TaskRecord]:
        """Every record that is held, only those in one of ``states`` where these are given, streamed in no order. A record
        that changes meanwhile may come in its old or its new form; one that can't be read is passed over.

        No writer waits for a scan. Raises :class:`~stem_kombu.errors.StoreUnavailable`, and
        :class:`~stem_kombu.errors.ConfigurationError` for a backend that can't list its records.
        """
        raise ConfigurationError(f"result backend {self.url} can't list its records")

    def find(self, task_ids: Sequence[str]) -> dict[str, TaskRecord | None]:
        """The records of those of the tasks that are known; ``None`` for one whose record can't be read. Ten thousand ids
        take few requests."""
        found: dict[str, TaskRecord | None] = {}
        for task_id in task_ids:
            try:
                if (record := self.get(task_id)) is not None:
                    found[task_id] = record
            except StoreCorrupt:
                found[task_id] = None
        return found

    def wait(self, task_id: str, timeout: float | None = None, *, clock: Clock = SYSTEM) -> TaskRecord | None:
        """The record of the task once it is terminal, or as it stands after ``timeout`` seconds (``None``: no bound).

        Looks every 5 ms at first, every 100 ms later, and once more at the deadline; raises what :meth:`get` raises.
        """
        deadline = None if timeout is None else clock.monotonic() + timeout
        pause = timeouts.RECORD_FIRST_LOOK
        while True:
            record = self.get(task_id)
            if record is not None and record.state.is_terminal:
                return record
            left = pause if deadline is None else deadline - clock.monotonic()
            if left <= 0:
                return record
            clock.sleep(min(pause, left))
            pause = min(pause * 1.5, timeouts.RECORD_LONGEST_LOOK)

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

        The entry vanishes by itself :data:`~stem_kombu.timeouts.DEAD_INTERVALS` intervals and a margin later.
        A beat of another ``boot`` replaces the held one; :meth:`offer` asks first.
        """

    @abstractmethod
    def offer(self, heartbeat: Heartbeat, *, dead: Heartbeat | None = None) -> tuple[datetime, Heartbeat | None]:
        """Beat, unless another boot holds the worker id with an entry that is neither stale nor dead: the roster's now, and
        then that entry.

        ``dead`` is an entry as the roster showed it, of a worker that has ended: while it is unchanged it holds nothing.
        Atomic: of any number of boots that offer a beat under one id at once, one gets ``None``.
        """

    def claim(self, heartbeat: Heartbeat) -> Heartbeat | None:
        """As :meth:`offer`, without the time."""
        return self.offer(heartbeat)[1]

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

    def check(self, namespace: str) -> list[str]:
        """Make sure that the backend takes writes, and say what threatens what it holds, a sentence each.

        A marker is written and removed. Raises :class:`~stem_kombu.errors.StoreUnavailable` when the backend does not take it.
        """
        self.ping()
        return []
