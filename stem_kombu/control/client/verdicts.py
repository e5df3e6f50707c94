"""What became of a revoked task: one verdict an id, decided by what workers, the backend and the roster say (G26).

:func:`decide` is pure and total. It says nothing while a worker still runs the task, and until its outcome is recorded: no
verdict says that a task was cancelled while code of it may run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from stem_kombu.control.protocol.fates import FatePhase, TaskFate
from stem_kombu.outcome import EndedBy, EndedHow, LadderStep, TaskRecord, TaskState


class Verdict(str, Enum):
    """The final word about a revoked task."""

    NEVER_STARTED = "never-started"  # recorded as cancelled, its handler was not called
    WILL_NOT_START = "will-not-start"  # no live worker has it; the stored revocation stands
    STOPPED = "stopped"  # it left its handler, and is recorded as cancelled
    KILLED = "killed"  # by the ladder, and is recorded as cancelled
    FINISHED_FIRST = "finished-first"
    UNSTOPPABLE = "unstoppable"  # a thread that has never passed a checkpoint
    RUNNING = "running"  # at the deadline
    LOST = "lost"  # its worker is gone without a message: it will not run again, whether it stopped is not known
    UNKNOWN = "unknown"  # a backend to which all senders record never heard of the id


_BY_LADDER = (EndedHow.TERM, EndedHow.KILL)


class Presence(Enum):
    """Whether a worker can still tell of a task."""

    HERE = "here"  # it has answered
    SILENT = "silent"  # it lives by its heartbeats, and has not answered
    GONE = "gone"  # it is dead, or not on the roster, or started again since


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last that a worker said of a task, and whether it can still tell."""

    worker: str
    presence: Presence
    fate: TaskFate


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of a revoked task at one moment.

    ``seen``: whether the backend has a ``record`` of it, ``None`` where that is unknown; ``holder``: the worker of a record
    that it runs. ``senders_record``: an id that the backend does not know was never sent. ``has_silent``: a live worker has not
    answered, and may have the task. ``grace``: seconds that a thread gets to show its first checkpoint. ``is_over``: nothing
    more is waited for.
    """

    sightings: tuple[Sighting, ...] = ()
    record: TaskRecord | None = None
    seen: bool | None = None
    holder: Presence = Presence.GONE
    senders_record: bool = True
    has_silent: bool = False
    grace: float = 2.0
    is_over: bool = False

    @property
    def reachable(self) -> tuple[Sighting, ...]:
        """Of workers that live."""
        return tuple(one for one in self.sightings if one.presence is not Presence.GONE)


def decide(known: Known) -> Verdict | None:
    """The verdict, or ``None`` while it may still change; never ``None`` once ``known.is_over``."""
    if (running := _running(known)) is not None:
        return _of_running(running.fate, known)
    record = known.record
    if any(one.fate.phase is FatePhase.SETTLING for one in known.reachable):
        return Verdict.RUNNING if known.is_over else None
    if any(one.fate.phase is FatePhase.WAITING for one in known.reachable):
        return Verdict.WILL_NOT_START if known.is_over else None
    if record is not None and record.state.is_terminal:
        return _of_ended(record)
    if any(one.presence is Presence.GONE and one.fate.phase is FatePhase.RUNNING for one in known.sightings):
        return Verdict.LOST
    if record is None:
        for one in known.sightings:
            if one.fate.phase is FatePhase.ENDED and (said := _of_told(one.fate)) is not None:
                return said
    elif record.state is TaskState.RUNNING:
        if known.holder is Presence.GONE:
            return Verdict.LOST
        if known.holder is Presence.SILENT or _is_ended_by_holder(known, record):
            return Verdict.RUNNING if known.is_over else None
    if known.seen is False and known.senders_record:
        return Verdict.UNKNOWN
    return None if known.has_silent and not known.is_over else Verdict.WILL_NOT_START


def _running(known: Known) -> Sighting | None:
    """A worker that runs it, as far as is known; one that answers first."""
    found = [one for one in known.reachable if one.fate.phase is FatePhase.RUNNING]
    return next((one for one in found if one.presence is Presence.HERE), found[0] if found else None)


def _is_ended_by_holder(known: Known, record: TaskRecord) -> bool:
    """Whether the worker of the record says that the task has ended, which a worker of 0.1.0 says before it is recorded."""
    return any(one.worker == record.worker and one.fate.phase is FatePhase.ENDED for one in known.sightings)


def _of_running(fate: TaskFate, known: Known) -> Verdict | None:
    asked = fate.stop_requested_ago
    if fate.is_thread and fate.checkpoint_ago is None and asked is not None and asked >= known.grace:
        return Verdict.UNSTOPPABLE
    return Verdict.RUNNING if known.is_over else None


def _of_ended(record: TaskRecord) -> Verdict:
    if record.state is not TaskState.CANCELLED:
        return Verdict.FINISHED_FIRST
    how = None if record.ended_by is None else record.ended_by.how
    if how in _BY_LADDER:
        return Verdict.KILLED
    if how is EndedHow.CHECKPOINT:
        return Verdict.STOPPED
    if record.lost_workers:
        return Verdict.LOST  # refused where it came again; the worker that ran it has never said how it ended
    if record.started_at is None:
        return Verdict.NEVER_STARTED
    # Its handler was called. Refused where it came again: the worker before has given it back.
    return Verdict.WILL_NOT_START if how is EndedHow.BEFORE_START else Verdict.STOPPED


def _of_told(fate: TaskFate) -> Verdict | None:
    """By what its worker says, where no record does; ``None`` for an attempt that another one follows."""
    if fate.ending in (None, "released", TaskState.RETRYING.value):
        return None
    if fate.ending != TaskState.CANCELLED.value:
        return Verdict.FINISHED_FIRST
    how = None if fate.ended_by is None else fate.ended_by.how
    if how in _BY_LADDER:
        return Verdict.KILLED
    return Verdict.NEVER_STARTED if how is EndedHow.BEFORE_START else Verdict.STOPPED


@dataclass(frozen=True, slots=True)
class TaskVerdict:
    """The verdict of one id. ``state`` is what the backend or the worker says; ``after`` are the seconds from the
    request to stop to the end of an attempt whose worker has timed it, else from the storing of the revocation to this verdict,
    which may have waited for others; ``checkpoint_ago`` is the age of the last checkpoint of what still runs, ``seen`` whether
    the backend knows the id (``None``: unknown); ``steps`` are those of the ladder that were taken."""

    task_id: str
    verdict: Verdict
    state: str | None = None
    worker: str | None = None
    attempt: int | None = None
    after: float = 0.0
    checkpoint_ago: float | None = None
    seen: bool | None = None
    steps: tuple[LadderStep, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.task_id,
            "verdict": self.verdict.value,
            "state": self.state,
            "worker": self.worker,
            "attempt": self.attempt,
            "after_s": round(self.after, 3),
            "steps": [step.to_record() for step in self.steps],
            "checkpoint_s_ago": None if self.checkpoint_ago is None else round(self.checkpoint_ago, 3),
            "seen": self.seen,
        }


def told(task_id: str, verdict: Verdict, known: Known, after: float) -> TaskVerdict:
    """The verdict with what is known of the task beside it."""
    record = known.record
    sighting = _running(known) or next(iter(known.sightings), None)
    if record is not None and (sighting is None or verdict not in (Verdict.RUNNING, Verdict.UNSTOPPABLE)):
        return TaskVerdict(
            task_id, verdict, record.state.value, record.worker, record.attempt, _timed(record.ended_by, after),
            seen=known.seen, steps=_steps(record.ended_by),
        )  # fmt: skip
    if sighting is None:
        return TaskVerdict(task_id, verdict, after=after, seen=known.seen)
    fate = sighting.fate
    return TaskVerdict(
        task_id, verdict, fate.ending or fate.phase.value, sighting.worker, fate.attempt, _timed(fate.ended_by, after),
        fate.checkpoint_ago, known.seen, _steps(fate.ended_by),
    )  # fmt: skip


def _timed(ended_by: EndedBy | None, after: float) -> float:
    """Never longer than what was waited: a revocation that came again may have found a stop that was requested before."""
    return after if ended_by is None or ended_by.after is None else min(after, ended_by.after)


def _steps(ended_by: EndedBy | None) -> tuple[LadderStep, ...]:
    return () if ended_by is None else ended_by.steps
