"""What the control agent sees of a Stem worker's tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from stem_kombu.agent.view import HostFacts, HostSummary
from stem_kombu.bound import bounds_of
from stem_kombu.clock import Clock
from stem_kombu.concurrency.service import Watch
from stem_kombu.control.protocol.fates import FatePhase, TaskFate
from stem_kombu.control.server.worker_view import InFlightTask, InForce, Obeyed, SelectedTask, WaitingOutcome
from stem_kombu.directive import Directive
from stem_kombu.execution.executors import Executors
from stem_kombu.measures import Totals
from stem_kombu.redaction import redacted_arguments
from stem_kombu.revocation import Revocation
from stem_kombu.selector import Selector, sent_at
from stem_kombu.slots import SlotView
from stem_kombu.task import Mode
from stem_kombu.worker.consumer import Consumer
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.directive_service import DirectiveService
from stem_kombu.worker.lifecycle import Lifecycle, State
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.stop_orders import StopOrders
from stem_kombu.worker.task_lifecycle import TaskLifecycle

#: What an operator calls the phases of a delivery that has not ended.
_PHASES = {
    Phase.RUNNING: "running",
    Phase.STOPPING: "running",
    Phase.RESERVED: "reserved",
    Phase.HELD: "held",
    Phase.DEFERRED: "held",
}


@dataclass(frozen=True, slots=True)
class WorkerParts:
    """What runs the tasks of a worker. ``lease`` is in seconds, ``None`` where the transport has no leases."""

    life: Lifecycle
    watch: Watch
    inflight: InFlight
    tasks: TaskLifecycle
    executor: Executors
    consumer: Consumer
    totals: Totals
    directives: DirectiveService
    transport: str
    lease: float | None
    clock: Clock
    stops: StopOrders


class WorkerTasks:
    """See :class:`stem_kombu.agent.view.TaskHost`."""

    climbs = True

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._inflight = parts.inflight
        self.shut_down = parts.stops.take
        self.running, self.wait_ended = parts.inflight.struck, parts.inflight.wait_ended
        self.apply, self.apply_rules = parts.tasks.apply, parts.tasks.apply_rules

    def summary(self) -> HostSummary:
        parts, active = self._parts, self._parts.directives.active
        return HostSummary(
            "draining" if parts.life.state is State.DRAINING else "running",
            parts.directives.concurrency,
            parts.inflight.running_count,
            parts.inflight.waiting_count,
            parts.consumer.consuming,
            parts.consumer.queues,
            {queue: one.version for queue, one in active.paused.items()},
            None if active.ignores else active.version,
            active.ignores,
            self._slots(),
        )

    def _slots(self) -> dict[str, dict[str, int]]:
        """How many slots are in use and how many are idle, by mode."""
        executor, isolates = self._parts.executor, self._parts.inflight.running_isolates()
        inline = self._parts.inflight.running_count - isolates
        used = (("isolate", isolates, executor.isolates or 0), ("inline", inline, executor.inline_slots))
        return {mode: {"running": count, "idle": max(0, places - count)} for mode, count, places in used if places}

    def facts(self) -> HostFacts:
        parts, recorder = self._parts, self._parts.tasks.recorder
        trouble = parts.consumer.trouble
        views = parts.executor.views()
        return HostFacts(
            prefetch=parts.consumer.prefetch,
            pool=[slot for slots in views.values() for slot in slots],
            transport=parts.transport,
            lease=parts.lease,
            settling=parts.inflight.settling_count,
            not_storable=recorder.not_storable,
            troubles=recorder.troubles if trouble is None else {"tasks": trouble, **recorder.troubles},
            restarts=parts.watch.restarts,
            slots=_slots(views, parts.executor.inline_slots),
        )

    def totals(self) -> Mapping[str, int]:
        return self._parts.totals.snapshot()

    def measured(self) -> tuple[Mapping[str, int], dict[str, object]]:
        totals, measures = self._parts.totals.measured()
        return totals, {**measures, "children_lost": dict(self._parts.executor.children_lost)}

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

    def selected(self, selector: Selector, before: datetime) -> Sequence[SelectedTask]:
        now, found = self._clock.monotonic(), []
        for delivery in self._inflight.all():
            phase = _PHASES.get(delivery.phase)
            if phase is None or not selector.matches(delivery.message):
                continue
            sent = sent_at(delivery.message)
            if sent is None or sent < before:
                runtime = now - delivery.started_mono if phase == "running" else None
                found.append(SelectedTask(delivery.task_id, delivery.message.attempt, phase, sent is not None, runtime))
        return found

    def spared(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        bound = {one.task_id: one for one in revocations if one.proofs and bounds_of(one)}
        struck: dict[str, bool] = {}
        for delivery in self._inflight.of_tasks(bound):
            spared = self._parts.tasks.facts.is_spared(bound[delivery.task_id], delivery.message)
            struck[delivery.task_id] = struck.get(delivery.task_id, False) or not spared
        return frozenset(task_id for task_id, hit in struck.items() if not hit)

    def fates(self, task_ids: Collection[str]) -> Sequence[TaskFate]:
        now = self._clock.monotonic()
        found: dict[str, TaskFate] = {}
        for delivery in self._inflight.of_tasks(task_ids):
            known = found.get(delivery.task_id)  # of the same id sent twice: what runs is what counts
            if not delivery.is_settled and (known is None or known.phase is not FatePhase.RUNNING):
                found[delivery.task_id] = _fate(delivery, now)
        # After that: what is recorded meanwhile is seen twice, and never missed.
        for task_id, (ending, ended_by) in self._inflight.endings(task_ids).items():
            found.setdefault(task_id, TaskFate(task_id, FatePhase.ENDED, ending=ending, ended_by=ended_by))
        return list(found.values())

    def obey(self, directives: Sequence[Directive]) -> Obeyed:
        return self._parts.directives.obey(directives)

    def wait_started(self, tokens: Collection[int], timeout: float) -> int:
        return self._parts.directives.wait_started(tokens, timeout)

    def settings(self) -> InForce:
        return self._parts.directives.settings()

    def _task(self, delivery: Delivery, now: float) -> InFlightTask:
        assert delivery.started_at is not None
        checkpoint, terminate = delivery.checkpoint_mono, delivery.terminate_mono
        return InFlightTask(
            id=delivery.task_id,
            name=delivery.message.name,
            queue=delivery.message.queue,
            mode=delivery.task.mode.value,
            attempt=delivery.message.attempt,
            args=redacted_arguments(delivery.message.args, delivery.message.kwargs),
            started_at=delivery.started_at,
            runtime=now - delivery.started_mono,
            pid=delivery.pid,
            progress=delivery.progress,
            progress_data=delivery.progress_data,
            # Either may have come after the answer was begun.
            checkpoint_ago=None if checkpoint is None else max(0.0, now - checkpoint),
            terminate_requested_ago=None if terminate is None else max(0.0, now - terminate),
            lost_workers=len(delivery.lost),
        )


def _slots(views: Mapping[Mode, Sequence[SlotView]], inline: int) -> dict[str, dict[str, int]]:
    """How many slots are in which state, by mode; an inline slot that is not in use is idle."""
    counted = {mode.value: dict(Counter(slot.state for slot in slots)) for mode, slots in views.items()}
    if (used := views.get(Mode.INLINE)) is not None:
        counted[Mode.INLINE.value]["idle"] = max(0, inline - len(used))
    return counted


_FATES = {Phase.RUNNING: FatePhase.RUNNING, Phase.STOPPING: FatePhase.RUNNING, Phase.SETTLING: FatePhase.SETTLING}


def _fate(delivery: Delivery, now: float) -> TaskFate:
    checkpoint, stop = delivery.checkpoint_mono, delivery.terminate_mono
    task = delivery.task
    return TaskFate(
        delivery.task_id,
        _FATES.get(delivery.phase, FatePhase.WAITING),
        delivery.message.attempt,
        task.mode is Mode.INLINE and not task.is_async,
        None if checkpoint is None else max(0.0, now - checkpoint),
        None if stop is None else now - stop,
    )
