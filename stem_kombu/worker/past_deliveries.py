"""What a worker remembers of its latest deliveries that it holds no more: how they ended, and which it gave back itself.

Parts of :class:`~stem_kombu.worker.deliveries.InFlight`.
"""

from __future__ import annotations

import collections

from stem_kombu.outcome import EndedBy
from stem_kombu.task import TaskMessage

#: How many are remembered of each kind of ending, and of what was given back.
_MOST, _MOST_GIVEN_BACK = 4096, 10_000


class RecentEndings:
    """How tasks ended, and which revocation requested their stop: for questions a moment after the end. By task id; the oldest go
    first. An ending is a state's name, or ``released``. Used under the lock of its owner."""

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


class PutBacks:
    """The latest messages that this worker has given back itself, by task and attempt, so that their coming again is not counted
    as a delivery anew. Used by the consumer's thread."""

    def __init__(self) -> None:
        self._latest: collections.OrderedDict[tuple[str, int], None] = collections.OrderedDict()

    def add(self, message: TaskMessage) -> None:
        self._latest[message.task_id, message.attempt] = None
        if len(self._latest) > _MOST_GIVEN_BACK:
            self._latest.popitem(last=False)

    def take(self, message: TaskMessage) -> bool:
        """Whether the message was given back here and comes again, which is told once."""
        if not self._latest:
            return False
        return self._latest.pop((message.task_id, message.attempt), self) is None
