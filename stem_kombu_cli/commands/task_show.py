"""``stem task show``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from stem_kombu.backends.registry import open_backend, open_roster
from stem_kombu.clock import isoformat
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import ConfigurationError, StemError
from stem_kombu.outcome import TaskState
from stem_kombu.revocation import checked_task_id
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu_cli import exit_codes
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import TEXT, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, shown, span

if TYPE_CHECKING:
    from stem_kombu.outcome import EndedBy, TaskRecord
    from stem_kombu.revocation import Revocation
    from stem_kombu.settings import Settings

#: What the roster tells about a worker that will not end a task any more.
_GONE = {"absent": "is not on the roster any more", "dead": "has missed six heartbeats"}


@click.command(epilog="Example:  stem task show 7c9e6679-7425-40de-944b-e07fc1f90ae7")
@click.argument("task_id", type=TEXT, metavar="ID")
@place_options
@output_options
@click.pass_context
def show(ctx: click.Context, /, task_id: str, **values: object) -> None:
    """Show a task's recorded state, attempt, worker, times, and its revocation if there is one."""
    as_json = wants_json(values)
    checked_task_id(task_id)
    settings = places_of(values).settings()
    if settings.backend is None:
        raise ConfigurationError(
            "there is no result backend to ask", hint="set STEM_RESULT_BACKEND_URL, or give --backend"
        )
    backend = open_backend(settings.backend.value, name=settings.backend.name, tls=settings.tls)
    try:
        record = backend.get(task_id)
    finally:
        backend.close()
    revocation = _revocation(settings, task_id)
    worker_state = _worker_state(settings, record)
    if record is None:
        if revocation is not None and not as_json:
            emit(_lines([("id", task_id), *_revoked(revocation)]))
        raise _unknown(task_id, revocation)
    if as_json:
        held = revocation or record.revocation
        document = {"schema": "stem.task/1", **record.to_record()}
        told = {"revocation": None if held is None else held.to_record(), "worker_state": worker_state}
        print_json({**document, **told})
    else:
        emit(text(record, revocation))
        if worker_state in _GONE:
            note(
                f"note: worker {record.worker} {_GONE[worker_state]}; the task runs again once its message is delivered"
            )


def _unknown(task_id: str, revocation: Revocation | None) -> Failure:
    facts = {"task_id": task_id, "revocation": None if revocation is None else revocation.to_record()}
    hint = (
        "check the id; a task that a Celery client sent is known once a worker of Stem has it; "
        "one of a Celery worker to Celery's AsyncResult"
    )
    if revocation is not None:
        hint = "a task of that id does not start while the revocation is in force"
    said = f"task {task_id!r} is unknown" + (", and revoked" if revocation is not None else "")
    return Failure(said, exit_codes.NOTHING_MATCHED, hint=hint, facts=facts)


def text(record: TaskRecord, revocation: Revocation | None) -> str:
    """Name and value, a line each."""
    lines = [
        ("id", record.task_id),
        ("name", record.name),
        ("state", record.state.value),
        ("attempt", str(record.attempt)),
    ]
    lines += [(name, value) for name, value in (("queue", record.queue), ("worker", record.worker)) if value]
    if record.retried_from is not None:
        lines.append(("retry of", record.retried_from))
    times = {
        "enqueued": record.enqueued_at,
        "started": record.started_at,
        "ended": record.ended_at,
        "retry at": record.retry_at,
    }
    lines += [(name, isoformat(moment)) for name, moment in times.items() if moment is not None]
    if record.state.value == "succeeded":
        lines.append(("result", json.dumps(record.result, ensure_ascii=False)))
    if record.lost_workers:
        lines.append(("lost with", ", ".join(one.rpartition(" ")[0] for one in record.lost_workers)))
    if record.error is not None:
        lines.append(("error", f"{record.error.type}: {record.error.message}"))
    if record.ended_by is not None:
        lines.append(("ended by", _ended_by(record.ended_by)))
    held = record.revocation or revocation
    return _lines(lines + ([] if held is None else _revoked(held)))


def _ended_by(ended: EndedBy) -> str:
    """How a cancelled task ended, after how long, and the signals that its process group got."""
    after = "" if ended.after is None else f" {span(ended.after)} after the request to stop"
    steps = ", ".join(f"SIG{step.how.value.upper()} at {isoformat(step.at)}" for step in ended.steps)
    return f"{ended.how.value}{after}" + (f" ({steps})" if steps else "")


def _revoked(held: Revocation) -> list[tuple[str, str]]:
    """By whom, when, why, and until when."""
    lines = [("revoked", isoformat(held.issued_at) + (" with terminate" if held.terminate else ""))]
    lines += [(name, value) for name, value in (("by", held.requested_by), ("reason", held.reason)) if value]
    return lines if held.expires_at is None else [*lines, ("expires", isoformat(held.expires_at))]


def _lines(named: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<9} {shown(value)}" for name, value in named)


def _revocation(settings: Settings, task_id: str) -> Revocation | None:
    """The live revocation; a store that can't be asked must not hide the task's state."""
    source = settings.revoke_store
    try:
        store = open_revoke_store(source.value, name=source.name, tls=settings.tls)
        try:
            held = store.get(settings.namespace, task_id)
            if held is None:
                return None
            verified, refused = Verifier.of(settings.signing).proven([held], store.now())
            if refused:
                note("note: the store holds a revocation of it that no permitted key has signed; workers ignore it")
            return verified[0] if verified else None
        finally:
            store.close()
    except StemError as error:
        note(f"note: could not find out whether it is revoked: {error}")
        return None


def _worker_state(settings: Settings, record: TaskRecord | None) -> str | None:
    """How the worker of a running task is: as ``stem worker status`` shows, or ``absent``; ``None`` where that is unknown.

    A task's record is the last that was known of it. A worker that is killed, or leaves before the task ends, can't change it.
    """
    if record is None or record.worker is None or record.state is not TaskState.RUNNING:
        return None
    source = settings.roster
    try:
        roster = open_roster(source.value, name=source.name, tls=settings.tls)
        try:
            view = roster.view(settings.namespace)
        finally:
            roster.close()
    except StemError as error:
        note(f"note: could not find out whether its worker is live: {error}")
        return None
    beats = [beat.liveness(view.now).value for beat in view.heartbeats if beat.worker == record.worker]
    return beats[0] if beats else "absent"
