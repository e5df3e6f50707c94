"""What the control agent sees of a Celery worker's tasks, from Celery's own state."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from operator import attrgetter
from typing import TYPE_CHECKING

from celery.worker import state

from stem_kombu import timeouts
from stem_kombu.agent.view import HostFacts, HostSummary
from stem_kombu.celery.directives import GuestDirectives
from stem_kombu.celery.held_requests import consumed_from, snapshot
from stem_kombu.celery.requests import RequestParts
from stem_kombu.celery.revoked import is_spared
from stem_kombu.clock import Clock
from stem_kombu.control.protocol.fates import FatePhase, TaskFate
from stem_kombu.control.protocol.messages import Shutdown, ShutdownMode
from stem_kombu.control.server.worker_view import (
    InFlightTask,
    SelectedTask,
    StopStanding,
    WaitingOutcome,
)
from stem_kombu.errors import BadMessage
from stem_kombu.outcome import EndedBy, EndedHow
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied, RevocationCache
from stem_kombu.revocation_page import ids_of
from stem_kombu.rule import Rule
from stem_kombu.selector import Selector
from stem_kombu.slots import SlotView

if TYPE_CHECKING:
    from celery.worker import WorkController
    from celery.worker.request import Request

_ARGS_COLUMNS = 60


class CeleryTasks:
    """See :class:`stem_kombu.agent.view.TaskHost`. ``worker`` is Celery's ``WorkController``; ``lease`` is in seconds, ``None``
    where its broker has no leases."""

    #: Its processes are Celery's, and lead no groups of their own.
    climbs = False

    def __init__(
        self,
        worker: WorkController,
        cache: RevocationCache,
        parts: RequestParts,
        directives: GuestDirectives,
        *,
        transport: str,
        lease: float | None,
        clock: Clock,
    ) -> None:
        self._worker = worker
        self._cache = cache
        self._stop_table, self._totals, self._rules = parts.stop_table, parts.totals, parts.rules
        self.directives = directives
        self.obey, self.wait_started = directives.obey, directives.wait_started
        self.settings = directives.settings
        self._transport, self._lease = transport, lease
        self._clock = clock
        #: When each task was asked to stop (monotonic).
        self._asked_at: dict[str, float] = {}
        self._pause = threading.Event()
        #: Set while the worker drains.
        self.draining = False

    def summary(self) -> HostSummary:
        worker = self._worker
        active, reserved = len(state.active_requests), len(state.reserved_requests)
        concurrency = int(getattr(worker.pool, "num_processes", None) or worker.concurrency or 1)
        return HostSummary(
            "draining" if self.is_draining else "running",
            concurrency,
            active,
            max(0, reserved - active),
            self._consuming(),
            self._queues(),
            {queue: one.version for queue, one in self.directives.held.paused.items()},
            slots=self._slots(active, concurrency),
        )

    def facts(self) -> HostFacts:
        worker = self._worker
        active = snapshot(state.active_requests)
        qos = getattr(worker.consumer, "qos", None)
        return HostFacts(
            prefetch=int(getattr(qos, "value", 0) or 0),
            pool=[SlotView(slot, pid, *self._doing(pid, active), 0, None) for slot, pid in enumerate(self._children())],
            transport=self._transport,
            lease=self._lease,
            slots=self.summary().slots,
        )

    def _slots(self, running: int, places: int) -> dict[str, dict[str, int]]:
        return {"isolate" if self._children() else "inline": {"running": running, "idle": max(0, places - running)}}

    def measured(self) -> tuple[Mapping[str, int], dict[str, object]]:
        return self._totals.measured()

    def totals(self) -> Mapping[str, int]:
        return self._totals.snapshot()

    @property
    def is_draining(self) -> bool:
        # Celery says so with an exit code, of which 0 is one.
        return self.draining or any(
            asked is not None and asked is not False for asked in (state.should_stop, state.should_terminate)
        )

    def in_flight(self) -> Sequence[InFlightTask]:
        now = self._clock.now()
        return sorted(
            (self._task(request, now) for request in snapshot(state.active_requests)), key=attrgetter("started_at")
        )

    def waiting_outcomes(self) -> Sequence[WaitingOutcome]:
        return ()  # Celery's own matter

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        """Take revocations into the cache, and mark those whose tasks are here, so that they stop."""
        applied = self._cache.apply(revocations, self._cache.now())
        for task_id in applied.expired:
            state.revoked.discard(task_id)  # Celery's own set has no end of its own, and would refuse what was undone
        self._stop_table.unmark(applied.expired)
        here = (task_id for task_id in ids_of(revocations) if task_id in state.requests)
        self.mark([held for task_id in here if (held := self._cache.get(task_id)) is not None])
        return self._cache.in_step(revocations, applied)

    def mark(self, revocations: Sequence[Revocation]) -> None:
        """Mark the revocations whose tasks are here, for the processes and threads that run them."""
        active = self._active()
        self._forget_stopped(active)
        for revocation in revocations:
            if revocation.task_id in state.requests and not self._is_spared(revocation):
                self._stop_table.mark(revocation, state.requests.keys())
                if revocation.terminate and revocation.task_id in active:
                    self._asked_at.setdefault(revocation.task_id, self._clock.monotonic())

    def selected(self, selector: Selector, before: datetime) -> Sequence[SelectedTask]:
        return self._rules.selected(selector, before, self._clock.now())

    def apply_rules(self, rules: Sequence[Rule]) -> Sequence[int]:
        """Obey these rules as well, as :meth:`apply` does revocations; the versions of those that count now."""
        struck, free = self._rules.take(rules)
        self.mark(struck)
        self._stop_table.unmark([task_id for task_id in free if task_id not in self._cache])
        return self._rules.versions(rules)

    def running(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        """Which of the tasks run here, or did a moment ago and were asked to stop."""
        return (self._active() | frozenset(list(self._asked_at))).intersection(ids_of(revocations))

    def spared(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        return frozenset(one.task_id for one in revocations if self._is_spared(one))

    def _is_spared(self, revocation: Revocation) -> bool:
        request = state.requests.get(revocation.task_id)
        return request is not None and is_spared(revocation, request, self._cache.now())

    def fates(self, task_ids: Collection[str]) -> Sequence[TaskFate]:
        active = {request.id: request for request in snapshot(state.active_requests)}
        return [fate for task_id in task_ids if (fate := self._fate(task_id, active.get(task_id))) is not None]

    def _fate(self, task_id: str, request: Request | None) -> TaskFate | None:
        asked_at = self._asked_at.get(task_id)
        if request is not None:
            ago = None if asked_at is None else self._clock.monotonic() - asked_at
            attempt = int(request.request_dict.get("retries") or 0) + 1
            return TaskFate(task_id, FatePhase.RUNNING, attempt, stop_requested_ago=ago)
        if self._stop_table.stopped(task_id):
            return TaskFate(task_id, FatePhase.ENDED, ending="cancelled", ended_by=EndedBy(EndedHow.CHECKPOINT))
        if asked_at is not None:
            return TaskFate(task_id, FatePhase.ENDED, ending="ended")  # how, only its result says
        return TaskFate(task_id, FatePhase.WAITING) if task_id in state.requests else None

    def wait_ended(self, task_ids: Collection[str], timeout: float) -> Mapping[str, str]:
        deadline = self._clock.monotonic() + timeout
        while True:
            endings = {task_id: "cancelled" for task_id in task_ids if self._stop_table.stopped(task_id)}
            still_here = self._active()
            # Without a mark in the stop table it ended in another way; how, only its result says.
            endings |= {
                task_id: "ended" for task_id in task_ids if task_id not in still_here and task_id not in endings
            }
            if len(endings) == len(task_ids) or self._clock.monotonic() >= deadline:
                return endings
            self._pause.wait(timeouts.GUEST_STOPS_LOOK)

    def shut_down(self, order: Shutdown) -> StopStanding:
        """A warm stop is Celery's own; the others would lose what Celery has acknowledged early, so they are refused."""
        if order.mode is not ShutdownMode.WARM or order.then is not None:
            raise BadMessage("a Celery worker can be shut down warm only, without --then", code="unsupported")
        was = "warm" if self.is_draining else "running"
        state.should_stop = order.exit_code
        return StopStanding("warm", was, order.exit_code)

    @staticmethod
    def _active() -> frozenset[str]:
        return frozenset(request.id for request in snapshot(state.active_requests))

    def _forget_stopped(self, active: frozenset[str]) -> None:
        long_ago = self._clock.monotonic() - timeouts.GUEST_STOPS_REMEMBERED
        for task_id, asked_at in list(self._asked_at.items()):
            if asked_at < long_ago and task_id not in active:
                self._asked_at.pop(task_id, None)

    def consumed_queues(self) -> Sequence[str]:
        """The queues that Celery consumes now; none while it is not connected, or drains."""
        return self._queues() if self._consuming() else ()

    def _queues(self) -> list[str]:
        return [str(queue.name) for queue in self.directives.pauses.queues()]

    def _consuming(self) -> bool:
        return getattr(self._worker.consumer, "task_consumer", None) is not None and not self.is_draining

    def _children(self) -> list[int]:
        processes = getattr(getattr(self._worker.pool, "_pool", None), "_pool", None) or ()
        pids = [getattr(process, "pid", None) for process in list(processes)]
        return [pid for pid in pids if isinstance(pid, int)]

    @staticmethod
    def _doing(pid: int, active: Sequence[Request]) -> tuple[str, str | None]:
        task_id = next((request.id for request in active if request.worker_pid == pid), None)
        return ("idle", None) if task_id is None else ("running", task_id)

    def _task(self, request: Request, now: float) -> InFlightTask:
        info = request.delivery_info or {}
        # Celery notes the start as a wall time by the clock of this process.
        started = float(request.time_start or now)
        asked_at = self._asked_at.get(request.id)
        shown = ", ".join(text.strip("()[]{}, ") for text in (request.argsrepr, request.kwargsrepr) if text)
        return InFlightTask(
            id=request.id,
            name=request.name,
            queue=consumed_from(info, self.directives.pauses.queues()),
            mode="isolate" if self._children() else "inline",
            attempt=int(request.request_dict.get("retries") or 0) + 1,
            args=shown if len(shown) <= _ARGS_COLUMNS else shown[: _ARGS_COLUMNS - 1] + "…",
            started_at=datetime.fromtimestamp(started, timezone.utc),
            runtime=max(0.0, now - started),
            pid=int(request.worker_pid or 0),
            terminate_requested_ago=None if asked_at is None else self._clock.monotonic() - asked_at,
        )
