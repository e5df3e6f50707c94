"""How a task's record looks at rest: JSON in lines, so that a script can merge the head without parsing the rest.

    ["succeeded",1,
    "default",
    "worker-1",
    1769860800000000,
    1769860800250000,
    {"name":"tasks.render","result":[1,2]}]

State and attempt, queue, worker, when it was enqueued and started (whole microseconds since the epoch), and what no
rule looks at. The whole is one JSON document. Everything is ASCII, other characters escaped, so that a line break can't
occur within a line; and any text that JSON can name is safe in every store (PostgreSQL refuses NUL, UTF-8 surrogates).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from stem_kombu import timeouts
from stem_kombu.clock import epoch_us, from_epoch_us
from stem_kombu.errors import ConfigurationError, StoreCorrupt, StoreError
from stem_kombu.fields import UNLIMITED, UNSTORABLE, any_text, items, json_value, mapping, optional, text, whole
from stem_kombu.outcome import EndedBy, TaskError, TaskRecord, TaskState
from stem_kombu.revocation import Revocation, checked_task_id

logger = logging.getLogger(__name__)

_LONGEST_TTL = 100 * 365 * 86_400.0
#: Attempts are numbers of at most 53 bits everywhere, which is what Lua's doubles hold exactly.
_HIGHEST_ATTEMPT = 2**53
#: The most records, and about the most bytes of them, that go to a server at once: it answers no other client meanwhile.
_SLICE_RECORDS, _SLICE_BYTES = 512, 4 * 1024 * 1024

#: Characters in which the state of a stored form stands.
_LONGEST_HEAD = 16


def checked_ttl(seconds: float, *, name: str = "result_ttl") -> float:
    """The span itself, or :class:`ConfigurationError` when nothing can be kept that long."""
    if not (math.isfinite(seconds) and 0.001 <= seconds <= _LONGEST_TTL):
        raise ConfigurationError(f"{name}: {seconds!r} seconds can't be kept", hint="give between 1 ms and 100 years")
    return float(seconds)


def lifetime(state: TaskState, result_ttl: float) -> float:
    """Seconds after which a record of that state may be forgotten."""
    return result_ttl if state.is_terminal else max(result_ttl, timeouts.UNFINISHED_TTL)


def storable_id(task_id: str) -> bool:
    """Whether any record could have that id."""
    try:
        checked_task_id(task_id)
    except ConfigurationError:
        return False
    return True


def slices(texts: Sequence[str | bytes]) -> Iterator[slice]:
    """Where to cut a batch into parts that a server takes at once; one text is never cut, however long."""
    start = size = 0
    for place, length in enumerate(map(len, texts)):
        if place > start and (place - start >= _SLICE_RECORDS or size + length > _SLICE_BYTES):
            yield slice(start, place)
            start, size = place, 0
        size += length
    if start < len(texts):
        yield slice(start, len(texts))


def body_text(record: TaskRecord) -> str:
    """What no rule looks at, as JSON on one line; the fields that the rule needs are checked as well.

    Raises :class:`StoreError` naming the task when it can't be stored as it is.
    """
    try:
        checked_task_id(record.task_id)
        for name, value in (("queue", record.queue), ("worker", record.worker)):
            _storable(value, name)
        if not 0 <= record.attempt < _HIGHEST_ATTEMPT:
            raise ValueError(f"attempt {record.attempt} is out of range")
        fields: dict[str, object] = {"name": record.name}
        if record.result is not None:
            fields["result"] = record.result
        if record.error is not None:
            fields["error"] = record.error.to_record()
        if record.revocation is not None:
            fields["revocation"] = record.revocation.to_record()
        if record.ended_at is not None:
            fields["ended_us"] = epoch_us(record.ended_at)
        if record.retry_at is not None:
            fields["retry_us"] = epoch_us(record.retry_at)
        if record.boot is not None:
            fields["boot"] = record.boot
        if record.lost_workers:
            fields["lost_workers"] = list(record.lost_workers)
        if record.retried_from is not None:
            fields["retried_from"] = record.retried_from
        if record.ended_by is not None:
            fields["ended_by"] = record.ended_by.to_record()
        return json.dumps(fields, allow_nan=False, separators=(",", ":"))
    except (ConfigurationError, TypeError, ValueError, RecursionError) as error:
        raise StoreError(
            f"the record of task {record.task_id[:80]!r} ({record.name}, {record.state.value}) can't be stored: {error}"
        ) from error


def record_text(record: TaskRecord) -> str:
    """The stored form; raises :class:`StoreError` naming the task when there is none."""
    body = body_text(record)
    return (
        f'["{record.state.value}",{record.attempt},\n{json.dumps(record.queue)},\n{json.dumps(record.worker)},\n'
        f"{_us_text(record.enqueued_at)},\n{_us_text(record.started_at)},\n{body}]"
    )


def parsed_record(task_id: str, stored: str | bytes, *, place: str) -> TaskRecord:
    """The record of a stored form; raises :class:`StoreCorrupt` naming ``place`` when it isn't one."""
    try:
        state, attempt, queue, worker, enqueued_us, started_us, body = items(json_value(stored), "a record")
        return assembled(
            task_id, state, attempt, queue, worker, _moment(enqueued_us), _moment(started_us), body, place=place
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise corrupt(place, stored, error) from error


def readable_records(
    rows: Iterable[tuple[str, str | bytes]], states: Collection[TaskState] | None, *, place: str
) -> Iterator[TaskRecord]:
    """The records of those ids and stored forms that can be read, only those in one of ``states`` where these are given."""
    heads = None if states is None else tuple(f'["{state.value}",' for state in states)
    for task_id, stored in rows:
        # A record begins with its state: what is not wanted need not be parsed.
        begin = stored[:_LONGEST_HEAD] if isinstance(stored, str) else stored[:_LONGEST_HEAD].decode("ascii", "replace")
        if heads is None or begin.startswith(heads):
            with suppress(StoreCorrupt):
                yield parsed_record(task_id, stored, place=f"{place}, task {task_id!r}")


def merged_head(record: TaskRecord, head: bytes, *, place: str) -> TaskRecord:
    """``record`` with the fields of a stored form's first lines, which a script has merged."""
    try:
        _, _, queue, worker, enqueued_us, started_us, _ = items(json_value(head + b"0]"), "the head of a record")
        return with_carried(
            record, _storable(queue, "queue"), _storable(worker, "worker"), _moment(enqueued_us), _moment(started_us)
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise corrupt(place, head, error) from error


def with_carried(
    record: TaskRecord,
    queue: str | None,
    worker: str | None,
    enqueued_at: datetime | None,
    started_at: datetime | None,
) -> TaskRecord:
    """``record`` with the fields that :func:`stem_kombu.outcome.carried_over` may have filled elsewhere."""
    if (queue, worker, enqueued_at, started_at) == (
        record.queue,
        record.worker,
        record.enqueued_at,
        record.started_at,
    ):
        return record
    return replace(record, queue=queue, worker=worker, enqueued_at=enqueued_at, started_at=started_at)


def assembled(
    task_id: str,
    state: object,
    attempt: object,
    queue: object,
    worker: object,
    enqueued_at: datetime | None,
    started_at: datetime | None,
    body: object,
    *,
    place: str,
) -> TaskRecord:
    """The record of these parts as JSON gave them; raises :class:`StoreCorrupt` when they make none."""
    try:
        fields = mapping(body, "the body of a record")
        return TaskRecord(
            task_id=task_id,
            name=any_text(fields.get("name"), "name"),
            state=TaskState(state),
            attempt=whole(attempt, "attempt", below=_HIGHEST_ATTEMPT),
            queue=_storable(queue, "queue"),
            worker=_storable(worker, "worker"),
            result=fields.get("result"),
            error=optional(_error, fields.get("error"), "error"),
            revocation=optional(_revocation, fields.get("revocation"), "revocation"),
            enqueued_at=enqueued_at,
            started_at=started_at,
            ended_at=_moment(fields.get("ended_us")),
            retry_at=_moment(fields.get("retry_us")),
            boot=optional(any_text, fields.get("boot"), "boot"),
            lost_workers=tuple(
                any_text(worker, "a lost worker") for worker in items(fields.get("lost_workers", []), "lost_workers")
            ),
            retried_from=optional(any_text, fields.get("retried_from"), "retried_from"),
            ended_by=optional(EndedBy.from_record, fields.get("ended_by"), "ended_by"),
        )
    except (ValueError, TypeError, OverflowError) as failure:
        raise corrupt(place, repr(body), failure) from failure


def _storable(value: object, name: str) -> str | None:
    return optional(text, value, name, least=0, most=UNLIMITED, without=UNSTORABLE)


def _revocation(value: object, name: str) -> Revocation:
    return Revocation.from_record(mapping(value, name))


def _error(value: object, name: str) -> TaskError:
    fields = mapping(value, name)
    return TaskError(
        any_text(fields.get("type"), "type"),
        any_text(fields.get("message"), "message"),
        optional(any_text, fields.get("traceback"), "traceback"),
    )


def readable(task_id: str, stored: str | bytes, *, place: str) -> TaskRecord | None:
    """As :func:`parsed_record`, but ``None`` for what is no record."""
    try:
        return parsed_record(task_id, stored, place=place)
    except StoreCorrupt:
        return None


def corrupt(place: str, found: str | bytes, error: Exception) -> StoreCorrupt:
    """The error for something that is no record; ``place`` names backend and key."""
    return StoreCorrupt(
        f"{place} holds {found[:80]!r}, which is no task record: {error}",
        hint="another program writes there; delete it, or keep the task states in another database",
    )


def giving_way(error: StoreCorrupt) -> None:
    """Say in the log that a record which can't be read gives way to the one that is offered: a task must end in a record."""
    logger.warning("%s; a new record replaces it", error)


def _moment(microseconds: object) -> datetime | None:
    return None if microseconds is None else from_epoch_us(microseconds)


def _us_text(moment: datetime | None) -> str:
    return "null" if moment is None else str(epoch_us(moment))
