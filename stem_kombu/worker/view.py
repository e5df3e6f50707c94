"""What the control plane sees of a worker: the implementation of ``WorkerView`` over the worker's parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from stem_kombu.agent.heartbeats import load_avg, rss_bytes
from stem_kombu.agent.hydration import Hydration
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
from stem_kombu.execution.base import Executor
from stem_kombu.redaction import mask_url
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied, RevocationCache
from stem_kombu.settings import Settings
from stem_kombu.worker.arguments import redacted_arguments
from stem_kombu.worker.consumer import Consumer
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.task_lifecycle import TaskLifecycle
from stem_kombu.worker.totals import Totals


class View:
    """See :class:`stem_kombu.control.server.worker_view.WorkerView`."""

    def __init__(
        self,
        identity: WorkerIdentity,
        settings: Settings,
        *,
        concurrency: int,
        state: Callable[[], str],
        conflict: Callable[[], str | None],
        inflight: InFlight,
        cache: RevocationCache,
        hydration: Hydration,
        steering: TaskLifecycle,
        executor: Executor,
        consumer: Consumer,
        totals: Totals,
        depths: Callable[[Sequence[str]], Mapping[str, int | None]],
        dropped: Callable[[], Mapping[str, Mapping[str, int]]],
        restarts: Callable[[], Mapping[str, int]],
        bounds: Mapping[str, float | None],
        broker_url: str,
        transport: str,
        clock: Clock,
    ) -> None:
        self.identity = identity
        self._settings = settings
        self._concurrency = concurrency
        self._state, self._conflict = state, conflict
        self._inflight = inflight
        self._cache = cache
        self._hydration = hydration
        self._steering = steering
        self._executor = executor
        self._consumer = consumer
        self._totals = totals
        self._depths = depths
        self._dropped = dropped
        self._restarts = restarts
        self._bounds = bounds
        self._broker_url = broker_url
        self._transport = transport
        self._backend = None if settings.backend is None else mask_url(settings.backend.value)
        self._revoke_store = mask_url(settings.revoke_store.value)
        self._clock = clock

    def standing(self) -> WorkerSummary:
        return WorkerSummary(**self._standing())

    def _standing(self) -> dict[str, Any]:
        consuming = self._consumer.consuming
        return {
            "state": self._state(),
            "conflict": self._conflict(),
            "uptime": (self._clock.utcnow() - self.identity.started_at).total_seconds(),
            "concurrency": self._concurrency,
            "in_flight": self._inflight.running_count,
            "reserved": self._inflight.waiting_count,
            "consuming": consuming,
            "queues": dict.fromkeys(self._consumer.queues, consuming),
        }

    def facts(self) -> WorkerFacts:
        return WorkerFacts(
            **self._standing(),
            prefetch=self._consumer.prefetch,
            totals=self._totals.snapshot(),
            pool=[
                PoolSlot(slot.slot, slot.pid, slot.state, slot.task_id, slot.tasks_done, slot.rss_bytes)
                for slot in self._executor.view()
            ],
            rss_bytes=rss_bytes(),
            load_avg=load_avg(),
            broker=self._broker_url,
            backend=self._backend,
            revoke_store=self._revoke_store,
            transport=self._transport,
            heartbeat_interval=self._settings.heartbeat_interval,
            bounds=self._bounds,
            settling=self._inflight.settling_count,
            not_storable=self._steering.recorder.not_storable,
            troubles=self._troubles(),
            dropped={door: dict(reasons) for door, reasons in self._dropped().items()},
            restarts=self._restarts(),
        )

    def _troubles(self) -> dict[str, str]:
        parts = {
            "tasks": self._consumer.trouble,
            "revocations": self._hydration.trouble,
            **self._steering.recorder.troubles,
        }
        return {part: trouble for part, trouble in parts.items() if trouble is not None}

    def queue_depths(self) -> Mapping[str, int | None]:
        return self._depths(self._consumer.queues)

    def in_flight(self) -> Sequence[InFlightTask]:
        now = self._clock.monotonic()
        return [self._task(delivery, now) for delivery in self._inflight.running()]

    def waiting_outcomes(self) -> Sequence[WaitingOutcome]:
        now = self._clock.monotonic()
        return [
            WaitingOutcome(
                id=delivery.task_id,
                name=delivery.message.name,
                queue=delivery.message.queue,
                attempt=delivery.message.attempt,
                step=waiting.step,
                waited=now - waiting.since_mono,
                tries=waiting.tries,
                error=waiting.error,
            )
            for delivery in self._inflight.waiting()
            if (waiting := delivery.waiting) is not None
        ]

    def revocations(self) -> RevocationFacts:
        return self._hydration.facts()

    def revoked_records(self, limit: int, before: int | None = None) -> tuple[list[Revocation], bool]:
        records, truncated = self._cache.newest(limit, before)
        return list(records), truncated

    def store_now(self) -> datetime:
        return self._cache.now()

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        return self._steering.apply(revocations)

    def running(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        return self._inflight.running_ids(
            [revocation.task_id for revocation in revocations]
        ) | self._inflight.stopped_by(revocations)

    def wait_ended(self, task_ids: Collection[str], timeout: float) -> Mapping[str, str]:
        return self._inflight.wait_ended(task_ids, timeout)

    def _task(self, delivery: Delivery, now: float) -> InFlightTask:
        assert delivery.started_at is not None
        checkpoint, terminate = delivery.checkpoint_mono, delivery.terminate_mono
        return InFlightTask(
            id=delivery.task_id,
            name=delivery.message.name,
            queue=delivery.message.queue,
            mode=delivery.task.mode.value,
            attempt=delivery.message.attempt,
            args=redacted_arguments(delivery.message),
            started_at=delivery.started_at,
            runtime=now - delivery.started_mono,
            pid=delivery.pid,
            progress=delivery.progress,
            progress_data=delivery.progress_data,
            checkpoint_ago=None if checkpoint is None else now - checkpoint,
            terminate_requested_ago=None if terminate is None else now - terminate,
            lost_workers=len(delivery.lost),
        )
