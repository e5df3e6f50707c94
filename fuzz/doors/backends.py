"""Task records at rest: the text of Redis and SQLite, and the head that a script of Redis has merged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from fuzz.oracle import asked, holds, is_json, same
from stem_kombu.backends.stored import merged_head, parsed_record, record_text
from stem_kombu.errors import StoreCorrupt
from stem_kombu.outcome import TaskError, TaskRecord, TaskState
from stem_kombu.revocation import Revocation
from stem_kombu_cli.commands.task_show import text as shown_text

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
PLAIN = TaskRecord("t-1", "tasks.add", TaskState.SUCCEEDED, result=3)


def record(data: bytes) -> None:
    head, _, _ = data.rpartition(b"\n")
    try:
        merged = merged_head(PLAIN, head + b"\n", place="here")
    except StoreCorrupt:
        pass
    else:
        _sound(merged)
    _sound(asked(StoreCorrupt, parsed_record, "t-1", data, place="here"))


def _sound(found: TaskRecord) -> None:
    texts = (found.queue, found.worker)
    holds(all(text is None or isinstance(text, str) for text in texts), "a text is none", found)
    holds(isinstance(found.name, str) and isinstance(found.attempt, int), "a record of other types", found)
    if found.error is not None:
        error = (found.error.type, found.error.message, found.error.traceback or "")
        holds(all(isinstance(text, str) for text in error), "an error that is no text", found)
    is_json(found.to_record(), "a task's record")
    shown_text(found, None)
    same(parsed_record("t-1", record_text(found), place="here"), found, "a task's record")


def record_seeds() -> Iterator[bytes]:
    revocation = Revocation("stem", "t-1", 7, NOW, True, "why", "me", NOW + timedelta(days=7))
    records = [
        PLAIN,
        TaskRecord("t-1", "tasks.add", TaskState.QUEUED, queue="default", enqueued_at=NOW),
        TaskRecord(
            "t-1", "a", TaskState.FAILED, 3, "q", "w", error=TaskError("E", "m", "t"), started_at=NOW, ended_at=NOW
        ),
        TaskRecord("t-1", "a", TaskState.CANCELLED, 1, "q", "w", None, None, revocation, NOW, NOW, NOW),
        TaskRecord("t-1", "a", TaskState.RETRYING, 1, "q", "w", retry_at=NOW, result={"x": [1, None]}),
    ]
    for one in records:
        yield record_text(one).encode()
        yield json.dumps(json.loads(record_text(one))).encode()
