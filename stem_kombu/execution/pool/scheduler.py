"""Jobs that wait, in the pool or in the queue of a child that has not begun them, and which child gets the next one.

Used under the pool's lock only.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Mapping
from math import inf
from operator import attrgetter

from stem_kombu import timeouts
from stem_kombu.execution.base import Job
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.job_queue import MOST

#: Times a job is given to another child because its child died before calling the handler.
MOST_RETRIES = 3
#: Jobs that make a stream of short ones, whose reports are read together: a turn of the worker for each would cost as much as
#: the task.
_STREAM = 8
#: Jobs in one child's queue from which on they are taken back for a child that is free.
_WORTH_MOVING = 4


class JobScheduler:
    """``children`` are the pool's, as they come and go. A child runs ``most_tasks`` in its life, ``None`` for no bound."""

    def __init__(self, children: Mapping[int, ChildHandle], most_tasks: int | None) -> None:
        self._children = children
        self._most_tasks = most_tasks
        self._waiting: collections.deque[Job] = collections.deque()
        self._retries: dict[int, int] = {}
        #: The token of a job that no child's queue could take: it and what is behind it wait for a child that is free.
        self._unwieldy: int | None = None
        #: When (monotonic) the latest jobs ended.
        self._ends: collections.deque[float] = collections.deque([-inf], maxlen=_STREAM)

    def append(self, job: Job) -> None:
        """Add the newest job."""
        self._waiting.append(job)

    def wait_again(self, job: Job) -> None:
        """Put a job where it was among those that wait."""
        bisect.insort(self._waiting, job, key=attrgetter("token"))

    def retry_on_another_child(self, job: Job) -> bool:
        """Have a job wait again whose child died before calling its handler; ``False`` when that has happened too often."""
        times = self._retries[job.token] = self._retries.get(job.token, 0) + 1
        if times <= MOST_RETRIES:
            self.wait_again(job)
        return times <= MOST_RETRIES

    def forget(self, job: Job) -> None:
        """The job has ended."""
        self._retries.pop(job.token, None)

    def finished(self, job: Job, now: float) -> None:
        """A child has reported the end of the job, at ``now`` (monotonic)."""
        self.forget(job)
        self._ends.append(now)

    def rest(self, now: float) -> float:
        """Seconds for which the children need not be looked at: in a stream of short jobs, while nothing waits that a child
        could be given."""
        if len(self._ends) < _STREAM or self._ends[0] < now - timeouts.REPORTS_STREAM:
            return 0.0
        return 0.0 if self._waiting and any(map(self._lacks_jobs, self._children.values())) else timeouts.REPORTS_GATHER

    @staticmethod
    def _lacks_jobs(child: ChildHandle) -> bool:
        return len(child.queue.jobs) < MOST // 2

    @property
    def is_wanted(self) -> bool:
        """Whether a child waits for a job."""
        return self._free_child() is not None

    def _free_child(self) -> ChildHandle | None:
        for child in self._children.values():
            if child.is_free and not child.is_surplus:
                return child
        return None

    def next_turn(self) -> tuple[Job, ChildHandle] | None:
        """Take out the next job, and the child that gets it: one that is free, else one whose queue has room."""
        if not self._waiting:
            # What waits in the fullest queue may wait for a child that is free. One or two short tasks aren't worth the way.
            fullest, most = None, _WORTH_MOVING - 1
            for each in self._children.values():
                if len(each.queue.jobs) > most:
                    fullest, most = each, len(each.queue.jobs)
            if fullest is not None and self._free_child() is not None:
                self.recall(fullest)
            if not self._waiting:
                return None
        child = self._free_child()
        if child is None:
            if self._waiting[0].token == self._unwieldy:
                return None
            most = 0
            for one in self._children.values():
                if (room := one.room_in_queue(self._most_tasks)) > most:
                    child, most = one, room
            if child is None:
                return None
        return self._waiting.popleft(), child

    def give(self, job: Job, child: ChildHandle) -> bool:
        """Give the job to the child whose turn it is; ``False`` when it has to wait for one that is free.

        A free child that runs short tasks gets it through its queue, so that more can follow at once."""
        if child.room_in_queue(self._most_tasks) > 0 and child.queue.give(job):
            return True
        if child.is_free:
            child.assign(job)
            return True
        self._unwieldy = job.token
        self.wait_again(job)
        return False

    def recall(self, child: ChildHandle) -> None:
        """Have the jobs wait in the pool again that the child has not begun."""
        if child.queue.jobs:
            for job in child.queue.take_back():
                self.wait_again(job)

    def due(self) -> float:
        """When (monotonic) :meth:`recall_overdue` has something to do."""
        due = inf
        for child in self._children.values():
            if child.queue.jobs and child.queue.due < due:
                due = child.queue.due
        return due

    def recall_overdue(self, now: float) -> None:
        """Take back the jobs of each child that has not begun any of its queue for some time."""
        for child in self._children.values():
            if child.queue.jobs and child.queue.due <= now:
                self.recall(child)
                child.forget_recent_runtime()

    def take(self, token: int) -> Job | None:
        """Take that job out, ``None`` when it doesn't wait."""
        if (child := self._holder(token)) is not None:
            self.recall(child)
        for job in self._waiting:
            if job.token == token:
                self._waiting.remove(job)
                return job
        return None

    def take_all(self) -> list[Job]:
        """Take everything out."""
        for child in self._children.values():
            self.recall(child)
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    def begun_by(self, token: int) -> ChildHandle | None:
        """The child that has begun that job of its queue and has not reported it yet."""
        child = self._holder(token)
        if child is not None:
            self.recall(child)
        return child if child is not None and token in child.queue.jobs else None

    def _holder(self, token: int) -> ChildHandle | None:
        return next((one for one in self._children.values() if token in one.queue.jobs), None)
