"""The rule that protects an ending, and the JSON form of a record."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.backends.stored import parsed_record, record_text
from stem_kombu.outcome import TaskError, TaskRecord, TaskState, admits, carried_over, sent_later
from stem_kombu.revocation import Revocation

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
STATES = list(TaskState)
ENDINGS = [state for state in STATES if state.is_terminal]

moments = st.none() | st.datetimes(timezones=st.just(timezone.utc))
names = st.none() | st.sampled_from(["", "a", "b"])
records = st.builds(
    TaskRecord,
    task_id=st.just("t"),
    name=st.text(max_size=5),
    state=st.sampled_from(STATES),
    attempt=st.integers(0, 3),
    queue=names,
    worker=names,
    result=st.recursive(st.none() | st.integers() | st.text(max_size=4), st.lists, max_leaves=4),
    error=st.none() | st.builds(TaskError, st.text(max_size=4), st.text(max_size=4), st.none() | st.text(max_size=4)),
    enqueued_at=moments,
    started_at=moments,
    ended_at=moments,
    retry_at=moments,
)


def task(state: TaskState, attempt: int = 1, **fields: Any) -> TaskRecord:
    return TaskRecord("t", "tasks.render", state, attempt, **fields)


def test_the_endings_are_succeeded_failed_and_cancelled() -> None:
    assert ENDINGS == [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED]


@pytest.mark.parametrize("state", STATES)
def test_whatever_comes_first_is_recorded(state: TaskState) -> None:
    assert admits(None, task(state))


@pytest.mark.parametrize("attempt", [0, 1, 2])
@pytest.mark.parametrize("new", STATES)
@pytest.mark.parametrize("held", ENDINGS)
def test_g10_an_ending_is_final_for_its_attempt_and_every_other(held: TaskState, new: TaskState, attempt: int) -> None:
    assert not admits(task(held), task(new, attempt))


@pytest.mark.parametrize(
    ("held", "new", "admitted"),
    [
        (TaskState.QUEUED, TaskState.RUNNING, True),
        (TaskState.QUEUED, TaskState.CANCELLED, True),
        (TaskState.RUNNING, TaskState.RUNNING, True),  # a redelivery
        (TaskState.RUNNING, TaskState.QUEUED, False),  # the sender was slower than the worker
        (TaskState.RUNNING, TaskState.RETRYING, True),
        (TaskState.RETRYING, TaskState.RUNNING, False),  # of the same attempt: arrives late
        (TaskState.RETRYING, TaskState.SUCCEEDED, True),
    ],
)
def test_within_one_attempt_states_only_move_forward(held: TaskState, new: TaskState, admitted: bool) -> None:
    assert admits(task(held), task(new)) is admitted


@pytest.mark.parametrize("new", STATES)
@pytest.mark.parametrize("held", [state for state in STATES if not state.is_terminal])
def test_a_later_attempt_wins_and_an_earlier_one_loses(held: TaskState, new: TaskState) -> None:
    assert admits(task(held, 2), task(new, 3))
    assert not admits(task(held, 2), task(new, 1))


@given(st.lists(records, max_size=12))
def test_g10_of_any_sequence_the_first_ending_of_a_life_stays(sequence: list[TaskRecord]) -> None:
    held: TaskRecord | None = None
    ended: TaskRecord | None = None
    for new in sequence:
        if admits(held, new):
            assert ended is None or sent_later(new.enqueued_at, ended.enqueued_at)
            held = carried_over(held, new)
            assert (held.state, held.attempt, held.result) == (new.state, new.attempt, new.result)
            ended = held if new.state.is_terminal else None
    assert ended is None or held is ended


@pytest.mark.parametrize("new", STATES)
@pytest.mark.parametrize("held", STATES)
def test_g10_what_was_sent_later_replaces_an_ended_life_and_what_was_sent_earlier_replaces_none(
    held: TaskState, new: TaskState
) -> None:
    before, after = task(held, 2, enqueued_at=NOW), task(new, 1, enqueued_at=NOW + timedelta(microseconds=1))
    waits = not held.is_terminal and new is TaskState.QUEUED
    assert admits(before, after) is not waits
    assert carried_over(before, after) is after
    assert not admits(after, replace(before, attempt=3))


@given(records, records)
def test_carrying_over_fills_gaps_and_changes_nothing_that_is_said(held: TaskRecord, new: TaskRecord) -> None:
    merged = carried_over(held, new)

    if sent_later(new.enqueued_at, held.enqueued_at):
        assert merged is new
        return
    for field in ("queue", "worker", "enqueued_at"):
        assert getattr(merged, field) == (getattr(new, field) or getattr(held, field))
    filled = new.started_at is None and new.attempt == held.attempt
    assert merged.started_at == (held.started_at if filled else new.started_at)
    gaps = ("queue", "worker", "enqueued_at", "started_at")
    assert replace(merged, **{field: getattr(new, field) for field in gaps}) == new
    assert carried_over(held, merged) == merged


def test_nothing_is_carried_over_from_nothing() -> None:
    new = task(TaskState.RUNNING, queue="")
    assert carried_over(None, new) is new


@given(records)
def test_a_record_survives_its_stored_form(record: TaskRecord) -> None:
    assert parsed_record(record.task_id, record_text(record), place="here") == record


def test_the_json_form_names_every_field_and_spells_times_in_utc() -> None:
    revocation = Revocation("stem", "t", 7, NOW, True, "wrong data", "ada@ops", NOW + timedelta(days=1))
    record = task(TaskState.CANCELLED, 2, revocation=revocation, ended_at=NOW.astimezone(timezone(timedelta(hours=2))))

    shown = record.to_record()

    assert shown["state"] == "cancelled"
    assert shown["ended_at"] == "2026-01-31T12:00:00.000000Z"
    assert shown["revocation"]["reason"] == "wrong data"
    assert set(shown) == set(TaskRecord.__dataclass_fields__)
