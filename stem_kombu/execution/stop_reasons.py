"""A pending order to stop, and the exception that each becomes at a checkpoint."""

from __future__ import annotations

from stem_kombu.context import TaskRevoked, WorkerStopping
from stem_kombu.errors import LeaseLost, SoftTimeLimitExceeded, TimeLimitExceeded
from stem_kombu.execution.base import Stop
from stem_kombu.revocation import Revocation

_STRENGTH = {Stop.SOFT_TIME_LIMIT: 1, Stop.TIME_LIMIT: 2, Stop.SHUTDOWN: 3, Stop.LEASE_LOST: 4, Stop.REVOKED: 5}


class PendingStop:
    """What the next checkpoint of one job raises. Written by one thread and read by another: each is one assignment."""

    __slots__ = ("_order", "_task_id")

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._order: tuple[Stop, Revocation | None] | None = None

    def __bool__(self) -> bool:
        return self._order is not None

    def set(self, why: Stop, revocation: Revocation | None = None) -> None:
        """Take the order, unless a stronger one is pending already."""
        order = self._order
        if order is None or _STRENGTH[why] >= _STRENGTH[order[0]]:
            self._order = (why, revocation)

    @property
    def revocation(self) -> Revocation | None:
        """The pending terminate."""
        order = self._order
        return order[1] if order is not None and order[0] is Stop.REVOKED else None

    def take(self) -> BaseException | None:
        """The exception to raise now, ``None`` when nothing is pending. The soft limit is raised once only, so that the
        handler can pass further checkpoints while it cleans up."""
        order = self._order
        if order is None:
            return None
        why, revocation = order
        if why is Stop.REVOKED and revocation is not None:
            return TaskRevoked(revocation)
        if why is Stop.SHUTDOWN:
            return WorkerStopping(f"the worker is stopping; task {self._task_id} goes back to the queue")
        if why is Stop.LEASE_LOST:
            return LeaseLost(f"the lease of task {self._task_id} is lost; it runs elsewhere")
        if why is Stop.TIME_LIMIT:
            return TimeLimitExceeded(f"task {self._task_id} passed its time limit")
        self._order = None
        return SoftTimeLimitExceeded(f"task {self._task_id} passed its soft time limit")
