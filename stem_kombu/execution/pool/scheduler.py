"""Jobs that wait: in the pool's own line, or ahead at a child that has not begun them. And whose turn is next.

Used under the pool's lock only.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Mapping

from stem_kombu.execution.base import Job
from stem_kombu.execution.pool.child_handle import ChildHandle

#: Times a job is handed to another child because its child died before calling the handler.
HANDOVERS = 3
#: Jobs ahead of one child of which another that is free is given some.
_WORTH_MOVING = 4


class JobScheduler:
    """``members`` are the pool's, as they come and go. A child runs ``most_tasks`` in its life, ``None`` for no bound."""

    def __init__(self, members: Mapping[int, ChildHandle], most_tasks: int | None) -> None:
        self._members = members
        self._most_tasks = most_tasks
        self._waiting: collections.deque[Job] = collections.deque()
        self._handovers: dict[int, int] = {}
        #: The token of a job that could not be given ahead: it and what is behind it wait for a child that is free.
        self._unwieldy: int | None = None

    def append(self, job: Job) -> None:
        """The newest."""
        self._waiting.append(job)

    def wait_again(self, job: Job) -> None:
        """Put a job where it was among those that wait."""
        bisect.insort(self._waiting, job, key=lambda one: one.token)

    def hand_over(self, job: Job) -> bool:
        """Have a job wait again whose child died before calling its handler; ``False`` when that has happened too often."""
        times = self._handovers[job.token] = self._handovers.get(job.token, 0) + 1
        if times <= HANDOVERS:
            self.wait_again(job)
        return times <= HANDOVERS

    def forget(self, job: Job) -> None:
        """The job has ended."""
        self._handovers.pop(job.token, None)

    @property
    def is_wanted(self) -> bool:
        """Whether a child waits for a job."""
        return any(member.is_free for member in self._members.values())

    def next_turn(self) -> tuple[Job, ChildHandle] | None:
        """Take the job out that is next, for that child: one that is free, or else one that may have more ahead."""
        member = next((one for one in self._members.values() if one.is_free), None)
        if member is None:
            if not self._waiting or self._waiting[0].token == self._unwieldy:
                return None
            member = max(self._members.values(), key=self._room_ahead, default=None)
            if member is None or self._room_ahead(member) <= 0:
                return None
        elif not self._waiting:
            # What another one has ahead need not wait for that one: for one or two short tasks that isn't worth the way.
            fullest = max(self._members.values(), key=lambda one: len(one.ahead.jobs))
            if len(fullest.ahead.jobs) >= _WORTH_MOVING:
                self.recall(fullest)
            if not self._waiting:
                return None
        return self._waiting.popleft(), member

    def give(self, job: Job, member: ChildHandle) -> bool:
        """Give the job to the child whose turn it is; ``False`` when it has to wait for one that is free.

        One that is free and runs short tasks is given it as what it has ahead is, so that more can follow at once."""
        if self._room_ahead(member) > 0 and member.ahead.give(job):
            return True
        if member.is_free:
            member.hand(job)
            return True
        self._unwieldy = job.token
        self.wait_again(job)
        return False

    def recall(self, member: ChildHandle) -> None:
        """Have the jobs wait in the pool again that the child has not begun."""
        if member.ahead.jobs:
            for job in member.ahead.take_back():
                self.wait_again(job)

    @property
    def due(self) -> float:
        """When (monotonic) :meth:`recall_overdue` has something to do."""
        return min((one.ahead.due for one in self._members.values() if one.ahead.jobs), default=float("inf"))

    def recall_overdue(self, now: float) -> None:
        """The same of every child that has had some for long."""
        for member in self._members.values():
            if member.ahead.jobs and member.ahead.due <= now:
                self.recall(member)
                member.forget_pace()

    def take(self, token: int) -> Job | None:
        """Take that job out, ``None`` when it doesn't wait."""
        if (member := self._holder(token)) is not None:
            self.recall(member)
        for job in self._waiting:
            if job.token == token:
                self._waiting.remove(job)
                return job
        return None

    def take_all(self) -> list[Job]:
        """Take everything out."""
        for member in self._members.values():
            self.recall(member)
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def begun_by(self, token: int) -> ChildHandle | None:
        """Whose child has begun that job, given ahead, and not said so yet."""
        member = self._holder(token)
        if member is not None:
            self.recall(member)
        return member if member is not None and token in member.ahead.jobs else None

    def _holder(self, token: int) -> ChildHandle | None:
        return next((one for one in self._members.values() if token in one.ahead.jobs), None)

    def _room_ahead(self, member: ChildHandle) -> int:
        return member.room_ahead(self._most_tasks)
