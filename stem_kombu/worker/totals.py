"""The counters that ``stats`` shows and heartbeats carry, and what is measured by queue and task."""

from __future__ import annotations

from stem_kombu.concurrency import threads
from stem_kombu.measures import NAMES, TaskMeasures


class Totals:
    """Counts since the worker started; every method is safe from any thread.

    A total and the rows of :class:`~stem_kombu.measures.TaskMeasures` change together, so that they agree at any moment (G35).
    """

    def __init__(self) -> None:
        self._lock = threads.Lock()
        self._counts = dict.fromkeys(NAMES, 0)
        self._measured = TaskMeasures()

    def add(self, name: str, queue: str, task: str) -> None:
        """One more; raises ``KeyError`` for a counter that ``stats`` doesn't know."""
        with self._lock:
            self._counts[name] += 1
            self._measured.count(name, queue, task)

    def started(self, queue: str, task: str, waited: float | None) -> None:
        """An attempt begins, ``waited`` seconds after it could have; ``None`` where its sender wrote no time."""
        with self._lock:
            self._counts["started"] += 1
            self._measured.count("started", queue, task)
            if waited is not None:
                self._measured.waited(queue, waited)

    def ended(self, name: str, queue: str, task: str, *, ran: float | None = None, how: str | None = None) -> None:
        """An attempt has ended as ``name``, after ``ran`` seconds in its handler; ``how`` it was cancelled, if it was."""
        with self._lock:
            self._counts[name] += 1
            self._measured.count(name, queue, task)
            if ran is not None:
                self._measured.ran(queue, task, ran, failed=name in ("failed", "retried"))
            if how is not None:
                self._measured.cancelled(how)

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def measured(self) -> tuple[dict[str, int], dict[str, object]]:
        """The totals and the measures of one moment."""
        with self._lock:
            return dict(self._counts), self._measured.to_dict()
