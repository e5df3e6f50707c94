"""How the latest tasks of a worker ended, and which revocation requested their stop: for questions a moment after the end.

Used under the lock of :class:`~stem_kombu.worker.deliveries.InFlight`.
"""

from __future__ import annotations

from stem_kombu.outcome import EndedBy

#: How many are remembered of each.
_MOST = 4096


class RecentEndings:
    """By task id; the oldest go first. An ending is a state's name, or ``released``."""

    def __init__(self) -> None:
        self._endings: dict[str, tuple[str, EndedBy | None]] = {}
        #: The version of the revocation that requested the stop of a task. Read by others, changed here.
        self.stopped_by: dict[str, int] = {}

    def add(self, task_id: str, ending: str, ended_by: EndedBy | None = None) -> None:
        """The outcome of the task is recorded."""
        self._endings[task_id] = ending, ended_by
        if len(self._endings) > _MOST:
            del self._endings[next(iter(self._endings))]

    def forget(self, task_id: str) -> None:
        """The task runs again: how it ended before says nothing now."""
        self._endings.pop(task_id, None)

    def stopped(self, task_id: str, version: int) -> None:
        """That version of its revocation has requested its stop."""
        self.stopped_by[task_id] = version
        if len(self.stopped_by) > _MOST:
            del self.stopped_by[next(iter(self.stopped_by))]

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._endings

    def get(self, task_id: str) -> tuple[str, EndedBy | None] | None:
        """The ending, and what is known of it."""
        return self._endings.get(task_id)
