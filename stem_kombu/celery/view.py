"""What the control plane sees of a Celery worker: an implementation of ``WorkerView`` over Celery's own state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from celery.worker import state

from stem_kombu.agent.heartbeats import load_avg, rss_bytes
from stem_kombu.agent.hydration import Hydration
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.clock import Clock
from stem_kombu.control.server.worker_view import (
    InFlightTask,
    PoolSlot,
    RevocationFacts,
    WaitingOutcome,
    WorkerFacts,
    WorkerIdentity,
    WorkerSummary,
)
from stem_kombu.redaction import mask_url
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied, RevocationCache
from stem_kombu.settings import Settings
from stem_kombu.transports.sqlite.topology import topic_matches
from stem_kombu.worker.totals import Totals

#: Seconds between two looks at tasks that were told to stop. Celery's parent learns of an end in its own event loop,
#: and has no hook for it that works in every pool.
_LOOK = 0.002
#: Seconds for which a task that was told to stop, and has ended, is still worth an answer: the broadcast of a revoke may
#: come after the revocation was read from the store.
_REMEMBERED = 10.0
_ARGS_COLUMNS = 60


class CeleryView:
    """See :class:`stem_kombu.control.server.worker_view.WorkerView`. ``worker`` is Celery's ``WorkController``."""

    def __init__(
        self,
        worker: Any,
        identity: WorkerIdentity,
        settings: Settings,
        cache: RevocationCache,
        board: SharedStopTable,
        totals: Totals,
        *,
        hydration: Callable[[], Hydration],
        depths: Callable[[Sequence[str]], Mapping[str, int | None]],
        broker_url: str,
        clock: Clock,
    ) -> None:
        self.identity = identity
        self._worker = worker
        self._settings = settings
        self._cache = cache
        self._board = board
        self._totals = totals
        self._hydration = hydration
        self._depths = depths
        self._broker_url = broker_url
        self._clock = clock
        self._told: dict[str, float] = {}
        self._pause = threading.Event()
        #: Seconds for which a message stays ours without renewal, ``None`` where the broker has no leases.
        self.lease: float | None = None
        #: What was not obeyed or believed, by door and reason.
        self.dropped: Callable[[], Mapping[str, Mapping[str, int]]] = dict
        #: The other live worker with this one's id, in words.
        self.conflict: Callable[[], str | None] = lambda: None
        #: Set while the worker drains.
        self.draining = False

    def standing(self) -> WorkerSummary:
        return WorkerSummary(**self._standing())

    def _standing(self) -> dict[str, Any]:
        worker, consuming = self._worker, self._consuming()
        active, reserved = len(state.active_requests), len(state.reserved_requests)
        return {
            "state": "draining" if self.is_draining else "running",
            "conflict": self.conflict(),
            "uptime": (self._clock.utcnow() - self.identity.started_at).total_seconds(),
            "concurrency": int(getattr(worker.pool, "num_processes", None) or worker.concurrency or 1),
            "in_flight": active,
            "reserved": max(0, reserved - active),
            "consuming": consuming,
            "queues": dict.fromkeys(self._queues(), consuming),
        }

    def facts(self) -> WorkerFacts:
        worker, settings = self._worker, self._settings
        active = list(state.active_requests)
        qos = getattr(worker.consumer, "qos", None)
        pool = [PoolSlot(slot, pid, *self._doing(pid, active), 0, None) for slot, pid in enumerate(self._children())]
        return WorkerFacts(
            **self._standing(),
            prefetch=int(getattr(qos, "value", 0) or 0),
            totals={**self._totals.snapshot(), "started": int(state.all_total_count[0])},
            pool=pool,
            rss_bytes=rss_bytes(),
            load_avg=load_avg(),
            broker=self._broker_url,
            backend=None if settings.backend is None else mask_url(settings.backend.value),
            revoke_store=mask_url(settings.revoke_store.value),
            transport=str(worker.app.connection_for_read().get_transport_cls().driver_type),
            heartbeat_interval=settings.heartbeat_interval,
            bounds={
                "sync_interval_s": settings.sync_interval,
                "heartbeat_interval_s": settings.heartbeat_interval,
                "lease_s": self.lease,
            },
            dropped=self.dropped(),
        )

    @property
    def is_draining(self) -> bool:
        # Celery says so with an exit code, of which 0 is one.
        return self.draining or any(
            asked is not None and asked is not False for asked in (state.should_stop, state.should_terminate)
        )

    def queue_depths(self) -> Mapping[str, int | None]:
        return self._depths(self._queues())

    def in_flight(self) -> Sequence[InFlightTask]:
        now = self._clock.now()
        return sorted((self._task(request, now) for request in list(state.active_requests)), key=lambda t: t.started_at)

    def waiting_outcomes(self) -> Sequence[WaitingOutcome]:
        return ()  # Celery's own matter

    def revocations(self) -> RevocationFacts:
        return self._hydration().facts()

    def revoked_records(self, limit: int, before: int | None = None) -> tuple[list[Revocation], bool]:
        records, truncated = self._cache.newest(limit, before)
        return list(records), truncated

    def store_now(self) -> datetime:
        return self._cache.now()

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        """Into the cache, and onto the board for what is here already: at a checkpoint, or before it starts, it stops."""
        applied = self._cache.apply(revocations, self._cache.now())
        self.tell([held for one in revocations if (held := self._cache.get(one.task_id)) is not None])
        return self._cache.in_step(revocations, applied)

    def tell(self, revocations: Sequence[Revocation]) -> None:
        """Onto the board, for what is here already."""
        active = self._active()
        self._forget_the_told(active)
        for revocation in revocations:
            if revocation.task_id in state.requests:
                self._board.tell(revocation, state.requests.keys())
                if revocation.terminate and revocation.task_id in active:
                    self._told.setdefault(revocation.task_id, self._clock.monotonic())

    def running(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        """Which of the tasks run here, or did a moment ago and were told to stop."""
        asked = frozenset(revocation.task_id for revocation in revocations)
        return (self._active() | frozenset(list(self._told))) & asked

    def wait_ended(self, task_ids: Collection[str], timeout: float) -> Mapping[str, str]:
        deadline = self._clock.monotonic() + timeout
        while True:
            endings = {task_id: "cancelled" for task_id in task_ids if self._board.stopped(task_id)}
            still_here = self._active()
            # Without a note on the board it ended in another way; how, only its result says.
            endings |= {
                task_id: "ended" for task_id in task_ids if task_id not in still_here and task_id not in endings
            }
            if len(endings) == len(task_ids) or self._clock.monotonic() >= deadline:
                return endings
            self._pause.wait(_LOOK)

    @staticmethod
    def _active() -> frozenset[str]:
        return frozenset(request.id for request in list(state.active_requests))

    def _forget_the_told(self, active: frozenset[str]) -> None:
        long_ago = self._clock.monotonic() - _REMEMBERED
        for task_id, told_at in list(self._told.items()):
            if told_at < long_ago and task_id not in active:
                self._told.pop(task_id, None)

    def _queues(self) -> list[str]:
        return [str(queue.name) for queue in self._consumed()]

    def _consumed(self) -> list[Any]:
        consumer = getattr(self._worker.consumer, "task_consumer", None)
        return list(self._worker.app.amqp.queues.consume_from.values() if consumer is None else consumer.queues)

    def _consuming(self) -> bool:
        return getattr(self._worker.consumer, "task_consumer", None) is not None and not self.is_draining

    def _children(self) -> list[int]:
        processes = getattr(getattr(self._worker.pool, "_pool", None), "_pool", None) or ()
        pids = [getattr(process, "pid", None) for process in list(processes)]
        return [pid for pid in pids if isinstance(pid, int)]

    @staticmethod
    def _doing(pid: int, active: Sequence[Any]) -> tuple[str, str | None]:
        task_id = next((request.id for request in active if request.worker_pid == pid), None)
        return ("idle", None) if task_id is None else ("running", task_id)

    def _task(self, request: Any, now: float) -> InFlightTask:
        info = request.delivery_info or {}
        # Celery notes the start as a wall time by the clock of this process.
        started = float(request.time_start or now)
        told_at = self._told.get(request.id)
        shown = ", ".join(text.strip("()[]{}, ") for text in (request.argsrepr, request.kwargsrepr) if text)
        return InFlightTask(
            id=request.id,
            name=request.name,
            queue=consumed_from(info, self._consumed()),
            mode="isolate" if self._children() else "inline",
            attempt=int(request.request_dict.get("retries") or 0) + 1,
            args=shown if len(shown) <= _ARGS_COLUMNS else shown[: _ARGS_COLUMNS - 1] + "…",
            started_at=datetime.fromtimestamp(started, timezone.utc),
            runtime=max(0.0, now - started),
            pid=int(request.worker_pid or 0),
            terminate_requested_ago=None if told_at is None else self._clock.monotonic() - told_at,
        )


def consumed_from(info: Mapping[str, Any], queues: Sequence[Any]) -> str:
    """The name of the one of Kombu's ``queues`` that a message was in, by the exchange and routing key of its delivery: Celery
    keeps no more of it. The routing key, where no queue fits."""
    exchange, key = str(info.get("exchange") or ""), str(info.get("routing_key") or "")
    bound = [queue for queue in queues if exchange and queue.exchange is not None and queue.exchange.name == exchange]
    fitting = [queue for queue in bound if _fits(queue, key)]
    return str((fitting or bound)[0].name) if bound else key


def _fits(queue: Any, key: str) -> bool:
    pattern = str(queue.routing_key or "")
    return topic_matches(pattern, key) if queue.exchange.type == "topic" else pattern == key
