"""What an undo came to: an answer for each task, from what the store, the workers and the backend say (G31)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stem_kombu.control.client.reports import RevokeReport
from stem_kombu.outcome import TaskState
from stem_kombu.revocation import Revocation


class UndoAnswer(str, Enum):
    """What became of one revocation."""

    LIFTED = "lifted"  # every live worker has lifted it, and no cancel is recorded
    PENDING = "pending"  # it is lifted in the store; not every live worker has confirmed that yet
    TOO_LATE = "too-late"  # the task is recorded as cancelled, or its handler was asked to stop
    UNKNOWN = "unknown"  # there is no such revocation in force


@dataclass(frozen=True, slots=True)
class UndoneTask:
    """One task. ``undoes`` is the version that was taken back and ``version`` that of the undo, ``None`` where nothing was, and
    ``state`` what the backend says; ``waits_for`` are the workers that have not confirmed it."""

    task_id: str
    answer: UndoAnswer
    undoes: int | None = None
    version: int | None = None
    state: str | None = None
    waits_for: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.task_id,
            "answer": self.answer.value,
            "undoes": self.undoes,
            "version": self.version,
            "state": self.state,
            "waits_for": list(self.waits_for),
        }


@dataclass(frozen=True, slots=True)
class UndoReport:
    """What the workers said, and the answer for each task, in the order in which they were named. ``told`` is ``None`` where
    there was nothing to undo, or in a dry run. ``audited``: whether the audit has the undo and its outcome."""

    tasks: tuple[UndoneTask, ...]
    told: RevokeReport | None
    dry_run: bool = False
    audited: bool = True

    def to_dict(self) -> dict[str, Any]:
        told = {} if self.told is None else self.told.to_dict()
        told.pop("stored", None)
        return {
            **told,
            "schema": "stem.control/1",
            "command": "undo",
            "dry_run": self.dry_run,
            "audited": self.audited,
            "tasks": [task.to_dict() for task in self.tasks],
        }


def answered(
    undone: Sequence[tuple[Revocation, Revocation]],
    told: RevokeReport,
    states: Mapping[str, TaskState],
) -> list[UndoneTask]:
    """The answers for revocations that were taken back, each with the record that took its place."""
    by_worker = [(reply.worker, _lifted_by(reply.payload)) for reply in told.replies if reply.error is None]
    failed = [reply.worker for reply in told.replies if reply.error is not None]
    stopping = {one for reply in told.replies for one in _texts(reply.payload.get("in_flight"))}
    found = []
    for revoked, ended in undone:
        task_id, state = revoked.task_id, states.get(revoked.task_id)
        waits_for = sorted({*told.silent, *failed, *(worker for worker, lifted in by_worker if task_id not in lifted)})
        if state is TaskState.CANCELLED or (revoked.terminate and task_id in stopping):
            answer = UndoAnswer.TOO_LATE
        elif waits_for or not told.broadcast:
            answer = UndoAnswer.PENDING
        else:
            answer = UndoAnswer.LIFTED
        said = None if state is None else state.value
        found.append(UndoneTask(task_id, answer, revoked.version, ended.version, said, tuple(waits_for)))
    return found


def _lifted_by(payload: Mapping[str, object]) -> frozenset[str]:
    """The tasks that a worker no longer counts as revoked by what was undone: it applied the end, or held a newer record."""
    return _texts(payload.get("expired")) | _texts(payload.get("stale"))


def _texts(value: object) -> frozenset[str]:
    """The ids of a reply's list, which a worker of another version may have made something else of."""
    return frozenset(one for one in value if isinstance(one, str)) if isinstance(value, list) else frozenset()
