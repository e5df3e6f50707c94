"""The directives of a worker of Stem's own: those that any host obeys, and rate limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from stem_kombu.agent.held_directives import HeldDirectives
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.directive import QUEUE, TASK, Directive, Kind, winner
from stem_kombu.worker.active_limits import ActiveLimits


class ActiveDirectives(HeldDirectives):
    """See :class:`HeldDirectives`. ``names()`` are the worker's tasks'."""

    def __init__(
        self,
        identity: WorkerIdentity,
        queues: Sequence[str],
        now: Callable[[], datetime],
        *,
        names: Callable[[], Sequence[str]] = list,
        ignores: bool = False,
    ) -> None:
        super().__init__(identity, queues, now, ignores=ignores)
        self._names = names
        self.limits = ActiveLimits(now)

    def rate_limits(self) -> tuple[dict[str, Directive], dict[str, Directive]]:
        """The rate limits that count here, by queue and by task's name."""
        with self._lock:
            held = [one for one in self._held.values() if one.kind is Kind.RATE_LIMIT and not self.ignores]
        if not held:
            return {}, {}
        now = self.now()
        return self._limits(held, QUEUE, self.queues, now), self._limits(held, TASK, self._names(), now)

    def _limits(
        self, held: Sequence[Directive], prefix: str, names: Iterable[str], now: datetime
    ) -> dict[str, Directive]:
        won = {name: winner(held, Kind.RATE_LIMIT, self.worker, prefix + name, now) for name in names}
        return {name: one for name, one in won.items() if one is not None}

    def sharing(self, limit: Directive, subject: str, workers: Iterable[str]) -> list[str]:
        """Those of the workers for which that directive counts as well, in order."""
        with self._lock:
            held, now = [one for one in self._held.values() if one.kind is Kind.RATE_LIMIT], self.now()
        won = {worker: winner(held, Kind.RATE_LIMIT, worker, subject, now) for worker in workers}
        return sorted(worker for worker, one in won.items() if one is not None and one.version == limit.version)
