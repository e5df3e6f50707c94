"""G26 and G27: no record says cancelled while code of that attempt runs; signals of a ladder hit its attempt, in their time."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.history import Event
from tests.faults.story import NONE, NOTHING, Story, Violation, first_of, stored_of, violation

#: Seconds by which what is computed of a time may be off.
_ROUNDED = 1e-6
#: Verdicts that are told of recorded cancels alone.
_CANCELLED = ("never-started", "stopped", "killed")
#: Where a ladder, as a worker holds it, has the seconds to each signal.
_STEPS = {"term": 0, "kill": 1}


def g26_the_verdict_is_true(story: Story) -> Iterator[Violation]:
    """Of what one worker runs and records: of another's runs no worker can know. Where two messages of an attempt may have
    been sent, each has a run of its own, and the first that ends is recorded."""
    for facts in story.tasks.values():
        if len(facts.get("enqueued", NONE)) > 1:
            continue
        starts = facts.get("started", NONE)
        cancels = [event for event in facts.get("recorded", NONE) if event.state == "cancelled"]
        for cancelled in cancels:
            if sum(started.attempt == cancelled.attempt - 1 for started in starts) > 1:
                continue
            for started in starts:
                if started.by != cancelled.by or started.attempt != cancelled.attempt:
                    continue
                if story.before(started, cancelled) and not _is_over(story, started, cancelled):
                    yield violation("G26", "recorded as cancelled while its code ran", started, cancelled)
        for verdict in facts.get("verdict", NONE):
            if verdict.value in _CANCELLED and not any(story.before(event, verdict) for event in cancels):
                yield violation("G26", f"the verdict is {verdict.value}, and no record says so", verdict)


def _is_over(story: Story, started: Event, at: Event) -> bool:
    run, worker = story.runs.get(started.run or "", NOTHING), story.workers.get(started.by, NOTHING)
    ends = (*run.get("ended", NONE), *run.get("dead", NONE), *worker.get("down", NONE))
    return any(story.before(end, at) for end in ends)


def g27_the_ladder_hits_its_attempt_only(story: Story) -> Iterator[Violation]:
    for sent in story.of("signalled"):
        if not str(sent.target).startswith(f"{sent.by}/"):
            yield violation("G27", "a signal reached another process than a child", sent)
        elif sent.run is not None and not (sent.value == "kill" and _stops(story, sent)):
            yield from _astray_or_early(story, sent)
    for run in story.runs.values():
        yield from _not_climbed(story, run)


def _stops(story: Story, at: Event) -> bool:
    """Whether the worker's stop was requested by then: it kills what does not end."""
    return any(story.before(stopping, at) for stopping in story.workers.get(at.by, NOTHING).get("stopping", NONE))


def _astray_or_early(story: Story, sent: Event) -> Iterator[Violation]:
    """Whether the worker held no ladder that has this step for what was hit, or a later one only. Its time runs from when the
    worker has the ladder; for what starts after that, from the start, of which the worker may know a moment earlier."""
    started = first_of(story.runs.get(sent.run or "", NOTHING), "started")
    held = [(found, after) for found, after in _held(story, sent, str(sent.value)) if story.before(found, sent)]
    if started is None or not held:
        yield violation("G27", "a signal reached what no ladder was for", started, sent)
        return
    for found, after in held:
        since, slack = (started, story.bounds.start_slack) if story.before(found, started) else (found, _ROUNDED)
        if story.apart(since, sent) >= after - slack:
            return
    yield violation("G27", f"SIG{str(sent.value).upper()} came before its time", started, held[0][0], sent)


def _held(story: Story, of: Event, step: str) -> list[tuple[Event, float]]:
    """Where the worker took a ladder with that step for the task, and the seconds of the step."""
    return [
        (found, found.value[_STEPS[step]])
        for found in story.tasks.get(of.task or "", NOTHING).get("applied", NONE)
        if found.by == of.by and found.value is not None and found.value[_STEPS[step]] is not None
    ]


def _not_climbed(story: Story, run: dict[str, list[Event]]) -> Iterator[Violation]:
    """Whether a run went on long after its SIGKILL was due, as its next checkpoint shows or its end."""
    slack, started = story.bounds.stop_slack, first_of(run, "started")
    if slack is None or started is None or started.target != "isolate":
        return
    for found, after in _held(story, started, "kill"):
        since = found if story.before(started, found) else started
        for sign in (*run.get("checkpoint", NONE), *run.get("ended", NONE)):
            late = story.apart(since, sign) > after + slack
            live = all(story.live(stored, sign) for stored in stored_of(story, started.task))
            if late and live and not _stops(story, sign) and not story.disturbed((started.by,), since, sign):
                yield violation("G27", "its ladder was not climbed", started, found, sign)
                return
