"""What is asked of a task's past, and when it is asked again."""

from __future__ import annotations

from typing import Any

from stem_kombu.errors import StoreUnavailable
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.task import TaskMessage
from stem_kombu.worker.task_history import TaskHistory

AGAIN = TaskMessage("t1", "tasks.render", attempt=2)
ENDED = TaskRecord("t1", "tasks.render", TaskState.SUCCEEDED, 2)


class Dial:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class States:
    """Tells what it was given, or that it is away."""

    def __init__(self) -> None:
        self.record: TaskRecord | None = None
        self.away = False

    def get(self, task_id: str) -> TaskRecord | None:
        if self.away:
            raise StoreUnavailable("away")
        return self.record


def past_of(states: Any) -> tuple[TaskHistory, Dial]:
    dial: Any = Dial()
    return TaskHistory(states, dial), dial


def test_g19_an_attempt_is_over_by_the_record_that_says_so() -> None:
    states = States()
    past, _ = past_of(states)
    assert past.recorded_end(AGAIN) is None
    states.record = ENDED
    assert past.recorded_end(AGAIN) is ENDED
    assert past_of(None)[0].recorded_end(AGAIN) is None


def test_g19_what_was_told_a_while_ago_is_asked_again_and_what_nobody_had_to_ask_is_not() -> None:
    past, dial = past_of(States())
    checked_at = dial.now
    dial.now += 0.005
    assert not past.is_stale(checked_at)
    dial.now += 0.015
    assert past.is_stale(checked_at)
    assert not past.is_stale(None)


def test_g16_a_backend_that_can_not_tell_is_not_asked_before_each_start() -> None:
    states = States()
    past, dial = past_of(states)
    checked_at = dial.now
    dial.now += 1.0
    states.away = True
    assert past.recorded_end(AGAIN) is None
    assert not past.is_stale(checked_at)
    dial.now += 6.0
    assert past.is_stale(checked_at)
