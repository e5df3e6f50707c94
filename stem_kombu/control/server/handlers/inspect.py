"""``inspect``: what runs here, and on request which revocations are held."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stem_kombu.clock import isoformat
from stem_kombu.control.protocol.messages import Inspect
from stem_kombu.control.server.handlers.directives import settings_payload
from stem_kombu.control.server.worker_view import InFlightTask, SetBack, WaitingOutcome, WorkerView
from stem_kombu.revocation import Revocation
from stem_kombu.stores.quarantine import SetAside

#: What stands in the place of arguments that the sender may not see.
HIDDEN = "***"
#: Outcomes that are listed, of those that wait, and characters of an error.
_MOST_WAITING, _MOST_ERROR = 100, 500
#: Records set aside that are named; all are counted.
_MOST_NAMED = 20
#: Revocations, and about the bytes of them, in one answer: RabbitMQ takes messages of 16 MiB.
_PAGE, _PAGE_BYTES = 20_000, 4 * 1024 * 1024


def inspect(order: Inspect, view: WorkerView, *, show_args: bool = True) -> dict[str, object]:
    """The payload of ``spec/cli.md``; ``store_error`` says why the cache isn't fresh while the store is down (G16),
    ``set_aside`` names records of the store that can't be read (G37), ``store_set_back`` what it had lost.
    ``waiting``: tasks that have ended and whose outcome can't be published or recorded yet, the oldest 100."""
    facts, waiting = view.revocations(), view.waiting_outcomes()
    payload: dict[str, object] = {
        "in_flight": [_task(task, show_args) for task in view.in_flight()],
        "waiting": [_waiting(outcome) for outcome in waiting[:_MOST_WAITING]],
        "waiting_count": len(waiting),
        "reserved": view.standing().reserved,
        "revoked_count": facts.count,
        "revision": facts.revision,
        "synced_s_ago": _rounded(facts.synced_ago),
        "store_error": facts.store_error,
        "set_aside_count": len(facts.set_aside),
        "set_aside": [_aside(found) for found in facts.set_aside[:_MOST_NAMED]],
        "store_set_back": None if facts.set_back is None else _set_back(facts.set_back),
        "store_clock_ahead_s": _rounded(facts.clock_ahead),
        "settings": settings_payload(view),
    }
    if order.revoked:
        payload |= _page(*view.revoked_records(min(order.limit, _PAGE), order.before))
    return payload


def _page(records: Sequence[Revocation], truncated: bool) -> dict[str, object]:
    """Newest first, as many as fit into a message; ``revoked_next`` is where the next page begins, ``None`` at the end."""
    found: list[dict[str, object]] = []
    size = 0
    for record in records:
        fields = record.to_record()
        size += len(json.dumps(fields))
        if found and size > _PAGE_BYTES:
            truncated = True
            break
        found.append(fields)
    return {
        "revoked": found,
        "revoked_truncated": truncated,
        "revoked_next": found[-1]["version"] if truncated else None,
    }


def _task(task: InFlightTask, show_args: bool) -> dict[str, object]:
    return {
        "id": task.id,
        "name": task.name,
        "queue": task.queue,
        "mode": task.mode,
        "attempt": task.attempt,
        "args": task.args if show_args else HIDDEN,
        "started_at": isoformat(task.started_at),
        "runtime_s": round(task.runtime, 3),
        "progress": task.progress,
        "progress_data": None if task.progress_data is None else dict(task.progress_data),
        "checkpoint_s_ago": _rounded(task.checkpoint_ago),
        "terminate_requested_s_ago": _rounded(task.terminate_requested_ago),
        "pid": task.pid,
        "lost_workers": task.lost_workers,
    }


def _waiting(outcome: WaitingOutcome) -> dict[str, object]:
    return {
        "id": outcome.id,
        "name": outcome.name,
        "queue": outcome.queue,
        "attempt": outcome.attempt,
        "step": outcome.step,
        "waited_s": round(outcome.waited, 3),
        "tries": outcome.tries,
        "error": outcome.error[:_MOST_ERROR],
    }


def _aside(found: SetAside) -> dict[str, object]:
    return {"place": found.place, "task_id": found.task_id, "reason": found.reason}


def _set_back(found: SetBack) -> dict[str, object]:
    return {"at": isoformat(found.at), "put_back": found.put_back, "task_ids": list(found.task_ids)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
