"""What follows from how an attempt ended: pure decisions."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from stem_kombu.outcome import Ending, Outcome, TaskError, TaskState
from stem_kombu.revocation import Revocation
from stem_kombu.task import MOST_RETRIES, TaskMessage, TaskOptions
from stem_kombu.worker.settlement import MessageDisposition, Settlement, refused, retry_delay, settle, unsendable

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
REVOCATION = Revocation("stem", "t1", 7, NOW, terminate=True, reason="wrong data", requested_by="ada@ops")
ERROR = TaskError("ValueError", "no")


def ended(
    kind: Ending, *, attempt: int = 1, max_retries: int = 3, revocation: Revocation | None = None, **outcome: object
) -> Settlement:
    return settle(
        TaskMessage("t1", "tasks.render", attempt=attempt),
        TaskOptions(),
        Outcome(kind, **outcome),  # type: ignore[arg-type]
        worker="w1",
        started_at=NOW - timedelta(seconds=5),
        revocation=revocation,
        max_retries=max_retries,
        now=NOW,
        jitter=0.0,
    )


def state_of(settlement: Settlement) -> TaskState:
    assert settlement.record is not None
    return settlement.record.state


def test_a_result_is_recorded_and_acknowledged() -> None:
    settlement = ended(Ending.SUCCEEDED, result={"tiles": 4})
    assert state_of(settlement) is TaskState.SUCCEEDED
    assert settlement.record is not None and settlement.record.result == {"tiles": 4}
    assert (settlement.then, settlement.retry) == (MessageDisposition.ACKNOWLEDGE, None)


def test_g9_a_revoked_task_is_cancelled_with_when_why_and_by_whom_and_never_retried() -> None:
    settlement = ended(Ending.CANCELLED, revocation=REVOCATION)
    assert state_of(settlement) is TaskState.CANCELLED
    assert settlement.record is not None and settlement.record.revocation == REVOCATION
    assert settlement.retry is None
    assert settlement.total == "cancelled"


@pytest.mark.parametrize("kind", [Ending.FAILED, Ending.LOST, Ending.RETRY])
def test_g3_a_task_that_was_revoked_while_it_ran_is_not_tried_again(kind: Ending) -> None:
    settlement = ended(kind, error=ERROR, revocation=REVOCATION)
    assert state_of(settlement) is TaskState.CANCELLED
    assert settlement.retry is None


def test_g9_a_handler_that_finished_first_keeps_its_result_though_it_is_revoked() -> None:
    assert state_of(ended(Ending.SUCCEEDED, revocation=REVOCATION)) is TaskState.SUCCEEDED


@pytest.mark.parametrize("kind", [Ending.FAILED, Ending.LOST, Ending.RETRY])
def test_a_failure_is_tried_again_with_the_next_attempt_until_the_retries_are_used_up(kind: Ending) -> None:
    first = ended(kind, attempt=1, max_retries=1, error=ERROR)
    assert state_of(first) is TaskState.RETRYING
    assert first.retry is not None and first.retry.attempt == 2
    assert first.retry.eta == NOW + timedelta(seconds=1)
    last = ended(kind, attempt=2, max_retries=1, error=ERROR)
    assert state_of(last) is TaskState.FAILED
    assert last.retry is None
    assert last.record is not None and last.record.error == ERROR


def test_the_last_attempt_that_a_message_can_count_is_the_last_however_many_retries_are_left() -> None:
    """The next message would be refused as one that nobody can have sent, and the task would never end."""
    before = ended(Ending.FAILED, attempt=MOST_RETRIES - 1, max_retries=MOST_RETRIES * 2, error=ERROR)
    assert before.retry is not None and before.retry.attempt == MOST_RETRIES
    last = ended(Ending.FAILED, attempt=MOST_RETRIES, max_retries=MOST_RETRIES * 2, error=ERROR)
    assert (state_of(last), last.retry) == (TaskState.FAILED, None)


def test_the_handler_says_when_a_retry_it_asked_for_is_due() -> None:
    retry = ended(Ending.RETRY, error=ERROR, retry_in=90.0).retry
    assert retry is not None and retry.eta == NOW + timedelta(seconds=90)


def test_what_can_never_succeed_is_not_tried_again() -> None:
    settlement = ended(Ending.REJECTED, error=ERROR)
    assert state_of(settlement) is TaskState.FAILED
    assert settlement.retry is None


@pytest.mark.parametrize("revocation", [None, REVOCATION])
def test_g20_what_a_stopping_worker_released_goes_back_to_the_queue_and_is_not_recorded(
    revocation: Revocation | None,
) -> None:
    settlement = ended(Ending.RELEASED, revocation=revocation)
    assert settlement.record is None
    assert settlement.then is MessageDisposition.REQUEUE


def test_a_refused_message_is_cancelled_when_revoked_or_expired_and_failed_otherwise() -> None:
    message = TaskMessage("t1", "tasks.render")
    assert state_of(refused(message, worker="w", now=NOW, revocation=REVOCATION)) is TaskState.CANCELLED
    assert state_of(refused(message, worker="w", now=NOW, error=TaskError("Expired", "late"))) is TaskState.CANCELLED
    assert state_of(refused(message, worker="w", now=NOW, error=ERROR)) is TaskState.FAILED


def test_retries_wait_twice_as_long_each_time_up_to_a_maximum_and_never_overflow() -> None:
    options = TaskOptions(retry_backoff=2.0, retry_backoff_max=100.0, retry_jitter=0.5)
    assert [retry_delay(options, attempt, 0.0) for attempt in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert retry_delay(options, 100_000, 0.0) == 100.0
    assert retry_delay(options, 1, 1.0) == 3.0


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300, "5", timedelta(1)], ids=repr)
def test_g18_a_wait_beyond_the_calendar_ends_the_task_and_says_so(seconds: Any) -> None:
    settlement = ended(Ending.RETRY, error=ERROR, retry_in=seconds)
    assert state_of(settlement) is TaskState.FAILED
    assert settlement.record is not None and settlement.record.error is not None
    assert settlement.record.error.message.startswith("no; it can't be tried again after ")


def test_what_was_only_held_and_cannot_be_sent_goes_back() -> None:
    assert unsendable(
        Settlement(None, MessageDisposition.ACKNOWLEDGE, retry=TaskMessage("t1", "t")), ValueError("no")
    ) == Settlement(None, MessageDisposition.REQUEUE)
