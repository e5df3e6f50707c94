"""What this worker has given back itself, so that its coming again is not counted as a delivery anew."""

from __future__ import annotations

import collections

from stem_kombu.task import TaskMessage

_MOST = 10_000


class PutBacks:
    """The latest messages that were given back, by task and attempt. Used by the consumer's thread."""

    def __init__(self) -> None:
        self._latest: collections.OrderedDict[tuple[str, int], None] = collections.OrderedDict()

    def add(self, message: TaskMessage) -> None:
        self._latest[message.task_id, message.attempt] = None
        if len(self._latest) > _MOST:
            self._latest.popitem(last=False)

    def take(self, message: TaskMessage) -> bool:
        """Whether the message was given back here and comes again, which is told once."""
        if not self._latest:
            return False
        return self._latest.pop((message.task_id, message.attempt), self) is None
