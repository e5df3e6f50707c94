"""Which redeliveries need no further run."""

from __future__ import annotations

import pytest

from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.task import TaskMessage
from stem_kombu.worker.past import is_over

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
