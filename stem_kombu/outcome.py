"""How a task stands and how it ended: states, the record of a task, and the rule that protects an ending.

The rule (:func:`admits`) stands here once, as a pure function; every backend applies it inside its own transaction or
script, so that terminal states never overwrite each other for one attempt (G10).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from stem_kombu.clock import isoformat
from stem_kombu.copies import replaced
from stem_kombu.fields import any_text, items, mapping, moment, number, optional
from stem_kombu.revocation import Revocation


class TaskState(str, Enum):
    """Where a task is in its life. ``retrying`` waits for its next attempt."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL

    @property
    def rank(self) -> int:
        """Order within one attempt; a record of a lower rank arrives late and is refused."""
        return _RANK[self]


_TERMINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})
_RANK = {
    TaskState.QUEUED: 0,
    TaskState.RUNNING: 1,
    TaskState.RETRYING: 2,
    TaskState.SUCCEEDED: 3,
    TaskState.FAILED: 3,
    TaskState.CANCELLED: 3,
}


@dataclass(frozen=True, slots=True)
class TaskError:
    """What went wrong, as text: the class's name, its message, and the traceback where there is one."""

    type: str
    message: str
    traceback: str | None = None

    def to_record(self) -> dict[str, object]:
        return {"type": self.type, "message": self.message, "traceback": self.traceback}


class EndedHow(str, Enum):
    """How a revoked attempt came to its end."""

    BEFORE_START = "before-start"  # its handler was not called
    CHECKPOINT = "checkpoint"  # it left its handler there
    TERM = "term"  # after SIGTERM to its process group
    KILL = "kill"  # by SIGKILL to its process group


_HOWS = frozenset(how.value for how in EndedHow)


@dataclass(frozen=True, slots=True)
class LadderStep:
    """A signal that an attempt's process group got, and when (aware UTC)."""

    how: EndedHow
    at: datetime

    def to_record(self) -> dict[str, object]:
        return {"step": self.how.value, "at": isoformat(self.at)}

    @classmethod
    def from_record(cls, value: object) -> LadderStep:
        """Raises ``ValueError`` for what is no step."""
        fields = mapping(value, "a step")
        return cls(EndedHow(fields.get("step")), moment(fields.get("at"), "at"))


@dataclass(frozen=True, slots=True)
class EndedBy:
    """How a ``cancelled`` attempt ended. ``after`` are the seconds since its worker requested the stop, ``None`` where none
    was requested; ``steps`` are those of the ladder that were taken."""

    how: EndedHow
    after: float | None = None
    steps: tuple[LadderStep, ...] = ()

    def to_record(self) -> dict[str, object]:
        after = None if self.after is None else round(self.after, 3)
        return {"how": self.how.value, "after_s": after, "steps": [step.to_record() for step in self.steps]}

    @classmethod
    def from_record(cls, value: object, name: str = "ended_by") -> EndedBy | None:
        """``None`` for a way of ending that a later version has added. Raises ``ValueError`` for what is no such record."""
        fields = mapping(value, name)
        how = any_text(fields.get("how"), "how")
        if how not in _HOWS:
            return None
        steps = items(fields.get("steps", []), "steps")
        after = optional(number, fields.get("after_s"), "after_s")
        return cls(EndedHow(how), after, tuple(map(LadderStep.from_record, steps)))


@dataclass(slots=True)  # never changed; frozen, it would cost three times as much, for each delivery
class TaskRecord:
    """The recorded state of a task. ``attempt`` counts from 1; ``result`` is any JSON value and meaningful only when
    the state is ``succeeded``; times are aware UTC. ``cancelled`` carries the revocation that caused it.

    ``boot`` names the life of ``worker`` that answers for a ``running`` attempt, ``None`` once that worker is stopping.
    ``lost_workers`` are those, each with its boot, that had an attempt before and never said how it ended. ``ended_by`` says
    of what a revocation has cancelled how it ended, where that is known. ``retried_from`` is the failed task of which an
    operator made this one. All four are unknown to Stem 0.1.0."""

    task_id: str
    name: str
    state: TaskState
    attempt: int = 1
    queue: str | None = None
    worker: str | None = None
    result: Any = None
    error: TaskError | None = None
    revocation: Revocation | None = None
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    retry_at: datetime | None = None
    boot: str | None = None
    lost_workers: tuple[str, ...] = ()
    retried_from: str | None = None
    ended_by: EndedBy | None = None

    def to_record(self) -> dict[str, object]:
        """The JSON form, as ``stem task show --json`` prints it."""
        return {
            "task_id": self.task_id,
            "name": self.name,
            "state": self.state.value,
            "attempt": self.attempt,
            "queue": self.queue,
            "worker": self.worker,
            "result": self.result,
            "error": None if self.error is None else self.error.to_record(),
            "revocation": None if self.revocation is None else self.revocation.to_record(),
            "enqueued_at": _time_text(self.enqueued_at),
            "started_at": _time_text(self.started_at),
            "ended_at": _time_text(self.ended_at),
            "retry_at": _time_text(self.retry_at),
            "boot": self.boot,
            "lost_workers": list(self.lost_workers),
            "retried_from": self.retried_from,
            "ended_by": None if self.ended_by is None else self.ended_by.to_record(),
        }


def sent_later(new: datetime | None, held: datetime | None) -> bool:
    """Whether a record or message whose task was enqueued at ``new`` is of a later sending of the same id than one of ``held``.

    The time at which a client sent a task tells its lives apart: all attempts of one have the same. ``None`` is unknown,
    and then of the same life.
    """
    return new is not None and held is not None and new > held


def admits(held: TaskRecord | None, new: TaskRecord) -> bool:
    """Whether ``new`` may replace ``held``.

    A terminal record is final for its life. What is sent again later under the same id is a new life, which replaces what
    is known of the one before; but a second ``queued`` replaces nothing of a life that has not ended. Within one life a later
    attempt wins, and within one attempt the states only move forward; a repeated ``running`` (a redelivery) is let through.
    """
    if held is None:
        return True
    if sent_later(new.enqueued_at, held.enqueued_at):
        return held.state.is_terminal or new.state is not TaskState.QUEUED
    if held.state.is_terminal or sent_later(held.enqueued_at, new.enqueued_at):
        return False
    if new.attempt != held.attempt:
        return new.attempt > held.attempt
    return new.state.rank >= held.state.rank


def carried_over(held: TaskRecord | None, new: TaskRecord) -> TaskRecord:
    """``new`` with the times that only earlier records of its life knew (when it was enqueued, when this attempt started)."""
    if held is None or sent_later(new.enqueued_at, held.enqueued_at):
        return new
    started_at = new.started_at
    if started_at is None and new.attempt == held.attempt:
        started_at = held.started_at
    return replaced(
        new,
        enqueued_at=new.enqueued_at or held.enqueued_at,
        started_at=started_at,
        queue=new.queue or held.queue,
        worker=new.worker or held.worker,
    )


@dataclass(slots=True)  # never changed; frozen, it would cost three times as much, for each delivery
class Outcome:
    """How one attempt ended in its executor, before anything is recorded.

    ``kind`` is one of :class:`Ending`; ``result`` is a JSON value (already checked) for ``SUCCEEDED``; ``error`` is set
    for ``FAILED``, ``RETRY`` and ``LOST``; ``retry_in`` (seconds) only when the handler itself asked for a retry. ``steps``
    are the signals that its process group got before.
    """

    kind: Ending
    result: Any = None
    error: TaskError | None = None
    revocation: Revocation | None = None
    retry_in: float | None = None
    steps: tuple[LadderStep, ...] = ()


class Ending(str, Enum):
    """What an executor can report of one attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the handler raised, or a time limit passed; may be retried
    REJECTED = "rejected"  # can't succeed however often it is tried: bad result, unknown task, bad arguments
    RETRY = "retry"  # the handler asked for another attempt
    CANCELLED = "cancelled"  # TaskRevoked left the handler
    LOST = "lost"  # the child died under it
    RELEASED = "released"  # never started, or stopped for a shutdown: give the message back


def _time_text(moment: datetime | None) -> str | None:
    return None if moment is None else isoformat(moment)
