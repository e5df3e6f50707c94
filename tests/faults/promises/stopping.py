"""G7 to G11: how a task is stopped, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.history import Event
from tests.faults.story import (
    NONE,
    NOTHING,
    TERMINAL,
    Story,
    Violation,
    acknowledged_early,
    could_not_be_told,
    first_of,
    may_run_again,
    revoked,
    stored_of,
    violation,
)


def g7_only_at_checkpoints(story: Story) -> Iterator[Violation]:
    slack = story.bounds.stop_slack
    for facts in story.runs.values():
        started = first_of(facts, "started")
        for stopped in facts.get("stopped", NONE):
            if stopped.value not in (None, "checkpoint", "await"):
                yield violation("G7", f"a task was interrupted {stopped.value}", started, stopped)
        if slack is None or started is None or "checkpoint" not in facts:
            continue
        orders = [
            applied
            for applied in story.tasks.get(started.task or "", NOTHING).get("applied", NONE)
            if applied.terminate and applied.by == started.by
        ]
        if not orders:
            continue
        stopped_at = first_of(facts, "stopped")
        for passed in facts["checkpoint"]:
            if stopped_at is not None and not story.before(passed, stopped_at):
                continue
            for order in orders:
                since = order if story.before(started, order) else started
                live = all(story.live(s, passed) for s in stored_of(story, started.task))
                if story.apart(since, passed) > slack and live and not story.disturbed((started.by,), since, passed):
                    yield violation("G7", "a checkpoint let a terminated task go on", started, order, passed)
                    break


def g8_the_right_task(story: Story) -> Iterator[Violation]:
    for stopped in story.of("stopped"):
        if stopped.state not in (None, "revoked"):
            continue  # for a shutdown, or because its lease was lost
        if stopped.target is not None and stopped.target != stopped.task:
            yield violation("G8", f"stopped by the terminate of {stopped.target}", stopped)
        elif stopped.task is not None and not revoked(story, stopped.task):
            yield violation("G8", "stopped, and nobody had revoked it", stopped)


def g9_handled_recorded_acknowledged(story: Story) -> Iterator[Violation]:
    for task, facts in story.tasks.items():
        recorded = facts.get("recorded", NONE)
        for acknowledged in facts.get("acknowledged", NONE):
            if revoked(story, task):
                yield from acknowledged_early("G9", story, recorded, acknowledged)
        for again in recorded:
            if again.state == "retrying":
                yield from _tried_again(story, facts, again)
        for cancelled in recorded:
            if cancelled.state != "cancelled" or cancelled.value == "expired":
                continue
            if cancelled.version is None and revoked(story, task):
                yield violation("G9", "cancelled without when, why and by whom", cancelled)
            for started in facts.get("started", NONE):
                slack = story.paused(started.by, started, story.bounds.start_slack)
                late = started.attempt > cancelled.attempt and story.apart(cancelled, started) > slack
                if late and not could_not_be_told(story, facts, cancelled, started):
                    yield violation("G9", "a cancelled task was tried again", cancelled, started)
            runs = [s for s in facts.get("started", NONE) if s.attempt == cancelled.attempt and s.run is not None]
            # Where the attempt before ran twice, each run may have sent the next, and nobody knows of another worker's.
            before = [s for s in facts.get("started", NONE) if s.attempt == cancelled.attempt - 1]
            sent_once = len(facts.get("enqueued", NONE)) <= 1 and len(before) <= 1
            if sent_once and len(runs) == 1 and not may_run_again(story, runs[0], cancelled):
                if story.before(cancelled, runs[0]) and could_not_be_told(story, facts, cancelled, runs[0]):
                    continue
                finished = first_of(story.runs[runs[0].run or ""], "ended")
                if finished is not None and finished.state == "succeeded":
                    what = "the handler had finished, and it is recorded as cancelled"
                    yield violation("G9", what, finished, cancelled)


def _tried_again(story: Story, facts: dict[str, list[Event]], again: Event) -> Iterator[Violation]:
    """Whether a worker had an attempt followed by another though it knew, when the attempt ended, that the task is revoked."""
    for ended in facts.get("ended", NONE):
        if ended.attempt != again.attempt or ended.by != again.by or not story.before(ended, again):
            continue
        slack = story.paused(ended.by, ended, story.bounds.start_slack)
        for known in facts.get("applied", NONE):
            if known.by != ended.by or story.apart(known, ended) <= slack:
                continue
            if any(s.version == known.version and story.live(s, again) for s in facts.get("stored", NONE)):
                yield violation("G9", "a task that was revoked is to be tried again", known, ended, again)
                return


def g10_one_ending(story: Story) -> Iterator[Violation]:
    for facts in story.tasks.values():
        ending: Event | None = None
        for recorded in facts.get("recorded", NONE):
            if ending is None:
                ending = recorded if recorded.state in TERMINAL else None
            elif (recorded.state, recorded.attempt) != (ending.state, ending.attempt):
                if story.before(ending, recorded):
                    yield violation("G10", f"{ending.state} was overwritten by {recorded.state}", ending, recorded)


def g11_swallowing(story: Story) -> Iterator[Violation]:
    for swallowed in story.of("swallowed"):
        yield violation("G11", "`except Exception` caught a terminate", swallowed)
    for facts in story.runs.values():
        started, stopped, ended = (first_of(facts, kind) for kind in ("started", "stopped", "ended"))
        if stopped is not None and ended is not None and "cleaned" not in facts:
            if started is not None and started.value == "cleans":
                yield violation("G11", "a `finally` block did not run", stopped, ended)
