"""What is known of each revoked task right after the workers answered: a word for each id.

The words are those of the verdicts in ``spec/operators.md`` §3, said of this moment; nothing is waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stem_kombu.backends.base import TaskStates
from stem_kombu.bound import bounds_of, spares
from stem_kombu.control.client.reports import RevokeReport
from stem_kombu.outcome import TaskRecord, TaskState


class Standing(str, Enum):
    """Where a revoked task stands."""

    STOPPED = "stopped"  # it left its handler at a checkpoint
    RUNNING = "running"  # a worker runs it, asked to stop or not
    FINISHED_FIRST = "finished-first"  # it had ended otherwise than cancelled
    CANCELLED = "cancelled"  # that is recorded, by this revocation or an earlier one
    WILL_NOT_START = "will-not-start"  # no worker that answered runs it; the stored record stands
    UNKNOWN = "unknown"  # there is a backend to which senders record, and it never heard of the id


@dataclass(frozen=True, slots=True)
class TaskStanding:
    """One id. ``state`` is what the backend or the worker says, ``None`` where neither does. ``asked_to_stop``: a worker
    passed the terminate on to the handler, which has reached no checkpoint yet. ``seen``: whether a backend knows the id;
    ``None`` where none was asked."""

    task_id: str
    standing: Standing
    state: str | None = None
    worker: str | None = None
    attempt: int | None = None
    asked_to_stop: bool = False
    seen: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.task_id,
            "standing": self.standing.value,
            "state": self.state,
            "worker": self.worker,
            "attempt": self.attempt,
            "asked_to_stop": self.asked_to_stop,
            "seen": self.seen,
        }


def standings(
    report: RevokeReport, states: TaskStates | None, *, senders_record: bool = True
) -> tuple[TaskStanding, ...]:
    """The standing of each stored id, in the order of the report.

    ``states`` are asked for those that no worker spoke of. ``senders_record``: whether an id that they do not know was never
    sent; Celery's clients record nothing. Raises :class:`~stem_kombu.errors.StoreError`.
    """
    said = _said(report)
    task_ids = [revocation.task_id for revocation in report.stored]
    records = {} if states is None else states.find([task_id for task_id in task_ids if task_id not in said])
    found = []
    bound = {one.task_id: one for one in report.stored if bounds_of(one)}
    for task_id in task_ids:
        record = records.get(task_id)
        if record is not None and task_id in bound and spares(bound[task_id], record.attempt, record.enqueued_at):
            found.append(TaskStanding(task_id, Standing.WILL_NOT_START, seen=True))  # it is in another attempt
        elif task_id in said:
            found.append(said[task_id])
        elif states is None or (task_id in records and records[task_id] is None):  # a record that can't be read
            found.append(TaskStanding(task_id, Standing.WILL_NOT_START))
        else:
            found.append(_recorded(task_id, records.get(task_id), report, senders_record))
    return tuple(found)


def _said(report: RevokeReport) -> dict[str, TaskStanding]:
    """What workers said of ids that they had; one that stopped here outweighs what another worker says of it."""
    said: dict[str, TaskStanding] = {}
    for reply in report.replies:
        payload: Mapping[str, Any] = reply.payload
        pending = _texts(payload.get("pending"))
        for task_id in _texts(payload.get("in_flight")):
            said.setdefault(
                task_id,
                TaskStanding(
                    task_id, Standing.RUNNING, "running", reply.worker, asked_to_stop=task_id in pending, seen=True
                ),
            )
        for end in payload.get("finished") or ():
            if isinstance(end, Mapping) and isinstance(end.get("id"), str):
                state = str(end.get("state"))
                said[end["id"]] = TaskStanding(end["id"], Standing.FINISHED_FIRST, state, reply.worker, seen=True)
        for task_id in _texts(payload.get("terminated")):
            said[task_id] = TaskStanding(task_id, Standing.STOPPED, "cancelled", reply.worker, seen=True)
    return said


def _texts(value: object) -> frozenset[str]:
    """The ids of a reply's list, which a worker of another version may have made something else of."""
    return frozenset(one for one in value if isinstance(one, str)) if isinstance(value, list) else frozenset()


def _recorded(task_id: str, record: TaskRecord | None, report: RevokeReport, senders_record: bool) -> TaskStanding:
    if record is None:
        standing = Standing.UNKNOWN if senders_record else Standing.WILL_NOT_START
        return TaskStanding(task_id, standing, seen=False)
    state = record.state
    if state is TaskState.CANCELLED:
        standing = Standing.CANCELLED
    elif state.is_terminal:
        standing = Standing.FINISHED_FIRST
    elif state is TaskState.RUNNING and record.worker in report.silent:
        standing = Standing.RUNNING
    else:  # a worker that answered has it no more, or is dead: what is delivered next does not start
        standing = Standing.WILL_NOT_START
    return TaskStanding(task_id, standing, state.value, record.worker, record.attempt, seen=True)
