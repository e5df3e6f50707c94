"""Waiting until each revoked task has its verdict: workers, backend and roster are asked again until nothing is open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from stem_kombu import timeouts
from stem_kombu.backends.base import RosterView
from stem_kombu.backends.heartbeat import Liveness
from stem_kombu.bound import spares
from stem_kombu.clock import Clock
from stem_kombu.control.client.command_request import checked_targets, chunks
from stem_kombu.control.client.reports import Report, RevokeReport, WorkerReply
from stem_kombu.control.client.verdicts import Known, Presence, Sighting, TaskVerdict, decide, told
from stem_kombu.control.protocol.fates import FatePhase, TaskFate
from stem_kombu.control.protocol.messages import Revoke
from stem_kombu.durations import checked_duration
from stem_kombu.errors import BrokerError
from stem_kombu.ladder import Ladder
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.revocation import Revocation

logger = logging.getLogger(__name__)


def longest_wait(grace: float, ladder: Ladder | None) -> float:
    """Seconds for which verdicts are waited for by default. Raises :class:`~stem_kombu.errors.ConfigurationError`."""
    return (
        max(checked_duration(grace, name="grace"), 0.0 if ladder is None else ladder.longest) + timeouts.VERDICT_MARGIN
    )


class Asking(Protocol):
    """What a client offers to one that waits: it asks workers, and reads roster and task states; all with a bound in time."""

    def ask(self, orders: Sequence[Revoke], workers: Sequence[str] | None, timeout: float) -> Sequence[WorkerReply]:
        """The answers. Raises :class:`~stem_kombu.errors.BrokerError`."""

    def roster(self, until: float) -> RosterView | None:
        """The roster, ``None`` where it can't be read by the monotonic time ``until``."""

    def records(self, task_ids: Sequence[str], within: float) -> Mapping[str, TaskRecord | None] | None:
        """What the result backend has of the tasks, ``None`` where that can't be read in so many seconds."""


class AskedWorkers:
    """The three things that a client offers, over its own methods."""

    def __init__(
        self,
        ask: Callable[[Sequence[Revoke], tuple[str, ...] | None, float], Report],
        roster: Callable[[list[str], float], RosterView | None],
        records: Callable[[Sequence[str], float], Mapping[str, TaskRecord | None] | None],
    ) -> None:
        self._ask, self._roster, self.records = ask, roster, records

    def ask(self, orders: Sequence[Revoke], workers: Sequence[str] | None, timeout: float) -> Sequence[WorkerReply]:
        return self._ask(orders, checked_targets(workers), timeout).replies

    def roster(self, until: float) -> RosterView | None:
        return self._roster([], until)


@dataclass(slots=True)
class _Fleet:
    """Who can tell of tasks. ``boots`` are the lives in which workers answered."""

    answered: set[str]
    silent: set[str]
    boots: dict[str, str]
    live: Mapping[str, str] | None = None

    def presence(self, worker: str, boot: str | None) -> Presence:
        """Of a worker that had a task in that life, as far as the life is known."""
        if self.live is None:
            return Presence.HERE if worker in self.answered else Presence.SILENT
        now = self.live.get(worker)
        if now is None or (boot is not None and now != boot):
            return Presence.GONE
        return Presence.HERE if worker in self.answered else Presence.SILENT


class VerdictWait:
    """One wait. ``grace``: seconds that a thread gets to show its first checkpoint; ``senders_record``: an id that the
    backend does not know was never sent."""

    def __init__(
        self,
        asking: Asking,
        clock: Clock,
        *,
        grace: float = timeouts.VERDICT_GRACE,
        senders_record: bool = True,
        on_verdict: Callable[[int, int, float], None] | None = None,
    ) -> None:
        self._asking = asking
        self._clock = clock
        self._grace = grace
        self._senders_record = senders_record
        self._on_verdict = on_verdict
        self._seen: dict[str, dict[str, tuple[TaskFate, str | None]]] = {}
        self._verdicts: dict[str, TaskVerdict] = {}

    def until_final(self, report: RevokeReport, began: float, deadline: float) -> RevokeReport:
        """The report with a verdict for each stored id, in its order, at the monotonic time ``deadline`` at the latest.

        ``began`` is when they were stored. ``silent`` of the report are then those that have not answered in all the time.
        """
        open_ids = {revocation.task_id: revocation for revocation in report.stored}
        fleet = _Fleet({reply.worker for reply in report.replies if reply.error is None}, set(report.silent), {})
        fleet.answered -= fleet.silent
        fleet.live = self._live(deadline)
        if not report.broadcast:
            fleet.silent.update(fleet.live or ())  # they learn of it from the store, and are asked again
        fleet.boots.update({worker: boot for worker, boot in (fleet.live or {}).items() if worker in fleet.answered})
        self._note(report.replies, open_ids, fleet)
        pause = timeouts.VERDICT_FIRST_PAUSE
        while True:
            now = self._clock.monotonic()
            self._decide(open_ids, fleet, now - began, deadline - now)
            if self._on_verdict is not None:
                self._on_verdict(len(report.stored) - len(open_ids), len(report.stored), deadline - now)
            if not open_ids:
                break
            if not self._ask_again(open_ids, fleet, deadline):
                self._clock.sleep(max(0.0, min(pause, deadline - self._clock.monotonic())))
                pause = min(2 * pause, timeouts.VERDICT_LONGEST_PAUSE)
            fleet.live = self._live(deadline)
        verdicts = tuple(self._verdicts[revocation.task_id] for revocation in report.stored)
        silent = tuple(sorted(worker for worker in fleet.silent if fleet.live is None or worker in fleet.live))
        elapsed = self._clock.monotonic() - began
        return replace(report, verdicts=verdicts, silent=silent, elapsed=max(report.elapsed, elapsed))

    # -- what is known ------------------------------------------------------------------------------------------------

    def _decide(self, open_ids: dict[str, Revocation], fleet: _Fleet, after: float, left: float) -> None:
        is_over = left <= 0
        sightings = {task_id: self._sightings(task_id, fleet) for task_id in open_ids}
        wanted = [task_id for task_id, seen in sightings.items() if is_over or not _is_busy(seen)]
        records = self._asking.records(wanted, max(left, timeouts.VERDICT_ANSWER))
        silent = fleet.live is None or any(worker in fleet.live for worker in fleet.silent)
        for task_id in list(open_ids):
            record = None if records is None else records.get(task_id)
            if record is not None and spares(open_ids[task_id], record.attempt, record.enqueued_at):
                record = None  # of another attempt than the one that is revoked
            known = Known(
                sightings=sightings[task_id],
                record=record,
                seen=None if records is None else task_id in records,
                holder=self._holder(record, fleet),
                senders_record=self._senders_record,
                has_silent=silent,
                grace=self._grace,
                is_over=is_over,
            )
            if (verdict := decide(known)) is not None:
                self._verdicts[task_id] = told(task_id, verdict, known, after)
                del open_ids[task_id]

    def _sightings(self, task_id: str, fleet: _Fleet) -> tuple[Sighting, ...]:
        seen = self._seen.get(task_id, {})
        return tuple(Sighting(worker, fleet.presence(worker, boot), fate) for worker, (fate, boot) in seen.items())

    @staticmethod
    def _holder(record: TaskRecord | None, fleet: _Fleet) -> Presence:
        if record is None or record.worker is None or record.state is not TaskState.RUNNING:
            return Presence.GONE
        return fleet.presence(record.worker, record.boot)

    def _live(self, until: float) -> dict[str, str] | None:
        now = self._clock.monotonic()
        view = self._asking.roster(min(now + timeouts.VERDICT_ANSWER, max(until, now + timeouts.VERDICT_PROBE)))
        if view is None:
            return None
        return {
            beat.worker: beat.boot
            for beat in view.heartbeats
            if beat.liveness(view.now) in (Liveness.LIVE, Liveness.STALE, Liveness.DRAINING)
        }

    # -- asking again ---------------------------------------------------------------------------------------------------

    def _ask_again(self, open_ids: Mapping[str, Revocation], fleet: _Fleet, deadline: float) -> bool:
        """Ask those that have tasks of these, and those that were silent; ``False`` when there is none to ask."""
        asked = False
        for worker in self._reachable(fleet, deadline):
            asked = True
            fleet.silent.discard(worker)
            fleet.answered.add(worker)
            if fleet.live is not None and worker in fleet.live:
                fleet.boots[worker] = fleet.live[worker]
            self._question(open_ids, [worker], fleet, deadline, wait=False)
        busy = {
            task_id: [one.worker for one in self._sightings(task_id, fleet) if one.presence is Presence.HERE]
            for task_id in open_ids
        }
        holders = sorted({worker for workers in busy.values() for worker in workers})
        if holders:
            asked = True
            wanted = {task_id: open_ids[task_id] for task_id, workers in busy.items() if workers}
            self._question(wanted, holders, fleet, deadline, wait=True)
        return asked

    def _reachable(self, fleet: _Fleet, deadline: float) -> list[str]:
        """Those of the silent that answer again. They have the revocations in their inboxes already."""
        silent = sorted(worker for worker in fleet.silent if fleet.live is None or worker in fleet.live)
        left = deadline - self._clock.monotonic()
        if not silent or left <= 0:
            return []
        try:
            return [reply.worker for reply in self._asking.ask([Revoke(())], silent, min(timeouts.VERDICT_PROBE, left))]
        except BrokerError as error:
            logger.debug("silent workers can't be asked: %s", error)
            return []

    def _question(
        self, wanted: Mapping[str, Revocation], workers: Sequence[str], fleet: _Fleet, deadline: float, *, wait: bool
    ) -> None:
        left = deadline - self._clock.monotonic()
        if left <= 0:
            return
        settle = min(timeouts.VERDICT_ROUND, 0.5 * left) if wait else 0.0
        orders = [Revoke(tuple(chunk), settle, True) for chunk in chunks(list(wanted.values()))]
        began = self._clock.monotonic()
        try:
            replies = self._asking.ask(orders, workers, min(left, settle + timeouts.VERDICT_ANSWER))
        except BrokerError as error:
            logger.debug("workers can't be asked for their tasks: %s", error)
            replies = ()
        heard = {reply.worker for reply in replies if reply.error is None}
        fleet.answered.difference_update(set(workers) - heard)
        fleet.silent.update(set(workers) - heard)
        self._note(replies, wanted, fleet)
        if wait and self._clock.monotonic() - began < timeouts.VERDICT_FIRST_PAUSE:
            self._clock.sleep(
                min(timeouts.VERDICT_FIRST_PAUSE, max(0.0, deadline - self._clock.monotonic()))
            )  # a worker that does not wait

    def _note(self, replies: Iterable[WorkerReply], asked: Mapping[str, Revocation], fleet: _Fleet) -> None:
        for reply in replies:
            if reply.error is not None:
                continue
            fates = {fate.id: fate for fate in _fates(reply) if fate.id in asked}
            boot = fleet.boots.get(reply.worker)
            for task_id in asked:
                if task_id in fates:
                    self._seen.setdefault(task_id, {})[reply.worker] = fates[task_id], boot
                elif self._seen.get(task_id, {}).get(reply.worker, (None, None))[1] == boot:
                    self._seen.get(task_id, {}).pop(
                        reply.worker, None
                    )  # but not of an earlier life, which may have run it


def _is_busy(sightings: Iterable[Sighting]) -> bool:
    """Whether a worker is known to have the task still: then no record is of use."""
    return any(one.presence is not Presence.GONE and one.fate.phase is not FatePhase.ENDED for one in sightings)


def _fates(reply: WorkerReply) -> list[TaskFate]:
    """What a reply tells of tasks; of a worker of 0.1.0, which tells no fates, what can be made of its lists."""
    payload = reply.payload
    told_fates = payload.get("fates")
    if isinstance(told_fates, list):
        found = []
        for entry in told_fates:
            try:
                found.append(TaskFate.from_payload(entry))
            except ValueError:
                logger.debug("worker %s reports a task in an unknown form: %r", reply.worker, entry)
        return found
    running = [TaskFate(task_id, FatePhase.RUNNING) for task_id in _texts(payload.get("in_flight"))]
    stopped = [
        TaskFate(task_id, FatePhase.ENDED, ending=TaskState.CANCELLED.value)
        for task_id in _texts(payload.get("terminated"))
    ]
    ends = payload.get("finished")
    finished = [
        TaskFate(str(end.get("id")), FatePhase.ENDED, ending=str(end.get("state")))
        for end in (ends if isinstance(ends, list) else ())
        if isinstance(end, Mapping)
    ]
    return list({fate.id: fate for fate in (*running, *stopped, *finished)}.values())


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
