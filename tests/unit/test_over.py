"""Which redeliveries need no further run."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.task import TaskMessage
from stem_kombu.worker.task_history import is_over

SECOND = TaskMessage("t1", "tasks.render", attempt=2)


@pytest.mark.parametrize(
    ("state", "attempt", "over"),
    [
        (TaskState.QUEUED, 1, False),
        (TaskState.RETRYING, 1, False),
        (TaskState.RUNNING, 2, False),
        # Published before it was recorded, so the third attempt is at the broker.
        (TaskState.RETRYING, 2, True),
        (TaskState.RUNNING, 3, True),
        (TaskState.SUCCEEDED, 1, True),
        (TaskState.CANCELLED, 2, True),
        (TaskState.FAILED, 3, True),
    ],
)
def test_g19_an_attempt_that_comes_again_runs_unless_its_record_says_that_it_is_over(
    state: TaskState, attempt: int, over: bool
) -> None:
    assert is_over(SECOND, TaskRecord("t1", "tasks.render", state, attempt)) is over


@pytest.mark.parametrize("state", list(TaskState))
def test_g18_what_was_sent_again_later_needs_a_run_whatever_came_of_the_life_before(state: TaskState) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    before = TaskRecord("t1", "tasks.render", state, 3, enqueued_at=now)
    assert not is_over(replace(SECOND, enqueued_at=now + timedelta(microseconds=1)), before)
    # A message of a life before is only needless when nothing more can be recorded of it.
    assert is_over(replace(SECOND, enqueued_at=now - timedelta(microseconds=1)), before) is state.is_terminal
