"""The decision behind ``revoke --wait``: total, and true for every combination of what can be known (G26)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from itertools import combinations_with_replacement, product
from typing import Any

import pytest

from stem_kombu.control.client.verdicts import Known, Presence, Sighting, Verdict, decide, told
from stem_kombu.control.protocol.fates import FatePhase, TaskFate
from stem_kombu.outcome import EndedBy, EndedHow, LadderStep, TaskRecord, TaskState
from stem_kombu_cli.revoked_tasks import verdict_lines

NOW = datetime(2026, 1, 31, tzinfo=timezone.utc)
CHECKPOINT, BEFORE_START = EndedBy(EndedHow.CHECKPOINT, 0.5), EndedBy(EndedHow.BEFORE_START)
KILLED = EndedBy(EndedHow.KILL, 2.5, (LadderStep(EndedHow.TERM, NOW), LadderStep(EndedHow.KILL, NOW)))
RUNS = (FatePhase.RUNNING, FatePhase.SETTLING)
CANCELLATIONS = (Verdict.STOPPED, Verdict.NEVER_STARTED, Verdict.KILLED)


def fates() -> list[TaskFate]:
    running = TaskFate("t", FatePhase.RUNNING, 1)
    return [
        TaskFate("t", FatePhase.WAITING, 1),
        running,
        *(
            replace(running, is_thread=True, checkpoint_ago=checkpoint, stop_requested_ago=asked)
            for checkpoint, asked in product((None, 5.0), (None, 0.1, 3.0))
        ),
        TaskFate("t", FatePhase.SETTLING, 1),
        TaskFate("t", FatePhase.ENDED, ending="cancelled", ended_by=CHECKPOINT),
        TaskFate("t", FatePhase.ENDED, ending="cancelled", ended_by=BEFORE_START),
        TaskFate("t", FatePhase.ENDED, ending="cancelled"),
        TaskFate("t", FatePhase.ENDED, ending="cancelled", ended_by=KILLED),
        *(TaskFate("t", FatePhase.ENDED, ending=ending) for ending in ("succeeded", "failed", "retrying", "released")),
    ]


def records() -> list[TaskRecord | None]:
    some: list[TaskRecord | None] = [None]
    for state, started, lost, how in product(
        TaskState, (None, NOW), ((), ("w2 boot",)), (None, CHECKPOINT, BEFORE_START, KILLED)
    ):
        if how is None or state is TaskState.CANCELLED:
            some.append(TaskRecord("t", "n", state, worker="w1", started_at=started, lost_workers=lost, ended_by=how))
    return some


def everything() -> Iterator[Known]:
    seen_by_one = [
        (Sighting(worker, presence, fate),) for worker, presence, fate in product(("w1", "w2"), Presence, fates())
    ]
    seen_by_two = [
        (Sighting("w1", first, one), Sighting("w2", second, other))
        for one, other in combinations_with_replacement(fates()[::2], 2)
        for first, second in product(Presence, repeat=2)
    ]
    for sightings in [(), *seen_by_one, *seen_by_two]:
        for record in records():
            sights = (True,) if record is not None else (True, False, None)
            for seen, senders_record, has_silent, is_over in product(
                sights, (True, False), (True, False), (True, False)
            ):
                for holder in (
                    Presence if record is not None and record.state is TaskState.RUNNING else (Presence.GONE,)
                ):
                    yield Known(sightings, record, seen, holder, senders_record, has_silent, 2.0, is_over)


def test_g26_the_decision_is_total_and_says_nothing_that_is_not_known() -> None:
    said: set[Verdict] = set()
    for known in everything():
        verdict = decide(known)
        assert verdict is not None or not known.is_over, known
        if verdict is None:
            continue
        said.add(verdict)
        live = [one.fate for one in known.sightings if one.presence is not Presence.GONE]
        record = known.record
        if verdict in CANCELLATIONS or verdict is Verdict.FINISHED_FIRST:
            assert not any(fate.phase in RUNS for fate in live), known
            recorded = record is not None and record.state.is_terminal
            assert recorded or (record is None and any(one.fate.phase is FatePhase.ENDED for one in known.sightings)), (
                known
            )
        if verdict in CANCELLATIONS and record is not None:
            assert record.state is TaskState.CANCELLED, known
        if verdict is Verdict.NEVER_STARTED and record is not None:
            assert record.started_at is None and not record.lost_workers, known
        if verdict is Verdict.WILL_NOT_START:
            assert not any(fate.phase in RUNS for fate in live), known
            assert known.is_over or not known.has_silent or record is not None, known
        if verdict is Verdict.UNSTOPPABLE:
            assert any(
                fate.is_thread and fate.checkpoint_ago is None and (fate.stop_requested_ago or 0) >= known.grace
                for fate in live
            ), known
        if verdict is Verdict.RUNNING:
            assert known.is_over, known
        if verdict is Verdict.UNKNOWN:
            assert known.seen is False and known.senders_record and not live_phases(known) & set(RUNS), known
        told("t", verdict, known, 1.0).to_dict()
    assert said == set(Verdict)


def live_phases(known: Known) -> set[FatePhase]:
    return {one.fate.phase for one in known.sightings if one.presence is not Presence.GONE}


def test_g26_what_is_known_later_never_contradicts_a_cancellation() -> None:
    """A verdict that was given before the deadline stays the same at the deadline."""
    for known in everything():
        if not known.is_over and (early := decide(known)) is not None:
            assert decide(replace(known, is_over=True)) is early, known


def running(presence: Presence, **more: Any) -> tuple[Sighting, ...]:
    return (Sighting("w1", presence, TaskFate("t", FatePhase.RUNNING, 1, **more)),)


def ended(**more: Any) -> tuple[Sighting, ...]:
    return (Sighting("w", Presence.HERE, TaskFate("t", FatePhase.ENDED, **more)),)


def cancelled(**more: Any) -> TaskRecord:
    return TaskRecord("t", "n", TaskState.CANCELLED, **more)


@pytest.mark.parametrize(
    ("known", "verdict"),
    [
        (Known(running(Presence.HERE)), None),
        (Known(running(Presence.SILENT)), None),
        (Known(running(Presence.GONE)), Verdict.LOST),
        # refused where it came again, while the worker before is only out of reach
        (
            Known(
                running(Presence.SILENT),
                TaskRecord("t", "n", TaskState.CANCELLED, started_at=NOW, ended_by=BEFORE_START),
                True,
            ),
            None,
        ),
        (
            Known((), cancelled(started_at=NOW, lost_workers=("w b",), ended_by=BEFORE_START), True),
            Verdict.LOST,
        ),
        # its worker gave it back in order, and the next one refused it
        (Known((), cancelled(started_at=NOW, ended_by=BEFORE_START), True), Verdict.WILL_NOT_START),
        # Stem 0.1.0 records no more than this
        (Known((), TaskRecord("t", "n", TaskState.CANCELLED, started_at=NOW), True), Verdict.STOPPED),
        (Known((), TaskRecord("t", "n", TaskState.CANCELLED), True), Verdict.NEVER_STARTED),
        (Known((), TaskRecord("t", "n", TaskState.RUNNING, worker="w"), True, Presence.GONE), Verdict.LOST),
        (Known((), TaskRecord("t", "n", TaskState.RUNNING, worker="w"), True, Presence.SILENT), None),
        (Known((), TaskRecord("t", "n", TaskState.RETRYING), True), Verdict.WILL_NOT_START),
        (Known((), None, False), Verdict.UNKNOWN),
        (Known((), None, False, senders_record=False), Verdict.WILL_NOT_START),
        (Known((), None, None), Verdict.WILL_NOT_START),
        (Known((), None, None, has_silent=True), None),
        # no backend: the worker's own word
        (Known(ended(ending="cancelled", ended_by=CHECKPOINT)), Verdict.STOPPED),
        (Known(ended(ending="failed")), Verdict.FINISHED_FIRST),
        (Known(ended(ending="retrying")), Verdict.WILL_NOT_START),
    ],
)  # fmt: skip
def test_g26_by_example(known: Known, verdict: Verdict | None) -> None:
    assert decide(known) is verdict


@pytest.mark.parametrize("fate", fates())
def test_a_fate_comes_out_of_a_reply_as_it_went_in(fate: TaskFate) -> None:
    assert TaskFate.from_payload(fate.to_payload()) == fate


@pytest.mark.parametrize(
    "payload", [None, [], {}, {"id": 3, "phase": "running"}, {"id": "t"}, {"id": "t", "phase": "asleep"}]
)
def test_what_is_no_fate_is_refused(payload: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        TaskFate.from_payload(payload)


def test_a_way_of_ending_that_a_later_version_added_is_none_that_is_known() -> None:
    assert EndedBy.from_record({"how": "by magic", "after_s": 1.0}) is None


def test_how_long_it_took_is_of_that_attempt_and_not_of_the_slowest_beside_it() -> None:
    """The answer that told of both came after 2.2 s, when the other had been killed."""
    ended = TaskRecord("t", "n", TaskState.CANCELLED, worker="w1", started_at=NOW, ended_by=CHECKPOINT)
    assert told("t", Verdict.STOPPED, Known(record=ended), 2.2).after == 0.5
    assert (
        told("t", Verdict.STOPPED, Known(record=replace(ended, ended_by=EndedBy(EndedHow.CHECKPOINT, 9.0))), 2.2).after
        == 2.2
    )
    assert told("t", Verdict.NEVER_STARTED, Known(record=replace(ended, ended_by=BEFORE_START)), 2.2).after == 2.2
    fate = TaskFate("t", FatePhase.ENDED, ending="cancelled", ended_by=CHECKPOINT)
    assert told("t", Verdict.STOPPED, Known((Sighting("w1", Presence.HERE, fate),)), 2.2).after == 0.5


def test_an_attempt_that_was_not_called_is_told_from_a_task_that_never_was() -> None:
    first = told("t", Verdict.NEVER_STARTED, Known(record=TaskRecord("t", "n", TaskState.CANCELLED, worker="w1")), 0.1)
    later = replace(first, attempt=4)
    assert list(verdict_lines([first])) == ["never started: t on w1"]
    assert list(verdict_lines([later])) == ["never started: t on w1, attempt 4"]
