"""What is counted and timed of a worker's tasks, by queue and task, in a bounded number of rows (G35).

What comes beyond a bound counts under ``other``, so that sums stay true. A metrics page with all rows taken has fewer than
2,000 series.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping

#: What is counted of tasks.
NAMES = ("received", "started", "succeeded", "failed", "retried", "cancelled", "redelivered")
#: Upper bounds of a histogram's buckets, in seconds; one more has no bound.
BOUNDS = (0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0)
#: How many pairs of queue and task have a row of counts, how many of these a histogram of durations, and how many queues one of
#: waits.
MOST_ROWS, MOST_DURATIONS, MOST_WAITS = 180, 30, 20
#: How many pairs of a command and its result are counted.
MOST_COMMANDS = 100
OTHER = "other"


class Histogram:
    """Counts of spans by bucket. Changed under its owner's lock."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more; a span below zero (two hosts' clocks) counts as zero."""
        if seconds < 0.0:
            seconds = 0.0
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def to_dict(self) -> dict[str, object]:
        return {"counts": list(self.counts), "sum_s": round(self.sum, 6)}


class Totals:
    """The counters that ``stats`` shows and heartbeats carry, and what is measured by queue and task, since the worker started.

    Every method is safe from any thread. A total and the rows change together, so that they agree at any moment (G35).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], dict[str, int]] = {}
        #: How many of the rows are those of the other tasks of a queue.
        self._others = 0
        self._durations: dict[tuple[str, str], Histogram] = {}
        #: Of these the attempts that failed, or are tried again.
        self._failures: dict[tuple[str, str], Histogram] = {}
        self._waits: dict[str, Histogram] = {}
        self._cancelled: dict[str, int] = {}

    def add(self, name: str, queue: str, task: str) -> None:
        """One more of :data:`NAMES`, of that queue and task; raises ``KeyError`` for another name."""
        with self._lock:
            (self._rows.get((queue, task)) or self._row(queue, task))[name] += 1

    def started(self, queue: str, task: str, waited: float | None) -> None:
        """An attempt begins, ``waited`` seconds after it could have; ``None`` where its sender wrote no time."""
        with self._lock:
            (self._rows.get((queue, task)) or self._row(queue, task))["started"] += 1
            if waited is None:
                return
            found = self._waits.get(queue)
            if found is None:
                key = queue if len(self._waits) < MOST_WAITS else OTHER
                found = self._waits.setdefault(key, Histogram())
            found.observe(waited)

    def ended(self, name: str, queue: str, task: str, *, ran: float | None = None, how: str | None = None) -> None:
        """An attempt has ended as ``name``, after ``ran`` seconds in its handler; ``how`` it was cancelled, if it was."""
        with self._lock:
            key = queue, task
            (self._rows.get(key) or self._row(queue, task))[name] += 1
            if how is not None:
                self._cancelled[how] = self._cancelled.get(how, 0) + 1
            if ran is None:
                return
            found = self._durations.get(key)
            if found is None:
                key = key if len(self._durations) < MOST_DURATIONS else (OTHER, OTHER)
                found = self._durations.setdefault(key, Histogram())
            found.observe(ran)
            if name in ("failed", "retried"):
                self._failures.setdefault(key, Histogram()).observe(ran)

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            return self._sums()

    def measured(self) -> tuple[dict[str, int], dict[str, object]]:
        """The totals and the measures of one moment, these as ``stats`` answers them: counters that never go back, and
        histograms whose buckets do not add up."""
        with self._lock:
            return self._sums(), {
                "bounds_s": list(BOUNDS),
                "tasks": [{"queue": queue, "task": task, **row} for (queue, task), row in self._rows.items()],
                "durations": [self._duration(*key) for key in self._durations],
                "waits": [{"queue": queue, **found.to_dict()} for queue, found in self._waits.items()],
                "cancelled": dict(self._cancelled),
            }

    def _sums(self) -> dict[str, int]:
        return {name: sum(row[name] for row in self._rows.values()) for name in NAMES}

    def _row(self, queue: str, task: str) -> dict[str, int]:
        """A new row, or beyond the bound one for the other tasks of the queue, and one for all queues beyond theirs."""
        key = queue, task
        if len(self._rows) >= MOST_ROWS:
            key = queue, OTHER
            if key not in self._rows and self._others >= MOST_WAITS:
                key = OTHER, OTHER
        if (row := self._rows.get(key)) is None:
            row = self._rows[key] = dict.fromkeys(NAMES, 0)
            self._others += key[1] == OTHER
        return row

    def _duration(self, queue: str, task: str) -> dict[str, object]:
        failures = self._failures.get((queue, task))
        failed = {} if failures is None else {"failed": failures.to_dict()}
        return {"queue": queue, "task": task, **self._durations[queue, task].to_dict(), **failed}


class CommandCounts:
    """How many control commands were answered, by command and result (``ok`` or ``error``). Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, command: str, result: str) -> None:
        with self._lock:
            key = (command, result)
            if key not in self._counts and len(self._counts) >= MOST_COMMANDS:
                key = (OTHER, result)
            self._counts[key] = self._counts.get(key, 0) + 1

    def snapshot(self) -> list[Mapping[str, object]]:
        with self._lock:
            return [
                {"command": command, "result": result, "count": count}
                for (command, result), count in self._counts.items()
            ]
