"""Which records a filter of ``stem task list`` lets through."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.task_filter import TaskFilter, last_seen

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
RECORD = TaskRecord(
    "t1", "mail.send", TaskState.FAILED, queue="mail", worker="w@host-1", enqueued_at=NOW - timedelta(hours=1), started_at=NOW
)  # fmt: skip


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, True),
        ({"states": frozenset({TaskState.FAILED, TaskState.QUEUED})}, True),
        ({"states": frozenset({TaskState.QUEUED})}, False),
        ({"name": "mail.*"}, True),
        ({"name": "mail"}, False),
        ({"queue": "mail", "worker": "*@host-?"}, True),
        ({"queue": "mail", "worker": "other"}, False),
        ({"since": NOW}, True),
        ({"since": NOW + timedelta(microseconds=1)}, False),
    ],
)
def test_all_conditions_have_to_hold(conditions: dict[str, object], expected: bool) -> None:
    assert TaskFilter(**conditions).matches(RECORD) is expected  # type: ignore[arg-type]


def test_a_record_without_what_is_asked_for_does_not_match() -> None:
    bare = TaskRecord("t1", "mail.send", TaskState.FAILED)
    assert not TaskFilter(queue="*").matches(bare)
    assert not TaskFilter(worker="*").matches(bare)
    assert not TaskFilter(since=NOW).matches(bare)
    assert last_seen(bare) is None
