"""G18 to G20: tasks."""

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
    first_of,
    may_run_again,
    revoked,
    sides,
    violation,
)


def g18_no_task_is_lost(story: Story) -> Iterator[Violation]:
    quiet = story.of("quiet")
    for task, facts in story.tasks.items():
        recorded = facts.get("recorded", NONE)
        for acknowledged in facts.get("acknowledged", NONE):
            if not revoked(story, task):
                yield from acknowledged_early("G18", story, recorded, acknowledged)
        sent = first_of(facts, "enqueued")
        if sent is not None and quiet and story.before(sent, quiet[-1]):
            if not any(event.state in TERMINAL for event in recorded) and not _emptied(story, sent):
                yield violation("G18", "a task was lost", sent, quiet[-1])
    for pool in story.of("pool"):
        alive, wanted = pool.value
        if alive < wanted and not story.disturbed(sides(pool.by), pool, pool):
            yield violation("G18", "lost children are not replaced", pool)
    longest = story.bounds.child_loss
    if longest is None:
        return
    for killed in story.of("child-killed"):
        run = story.runs.get(killed.run or "", NOTHING)
        lost, ended = first_of(run, "lost"), first_of(run, "ended")
        if ended is not None and not story.before(killed, ended):
            continue  # it was out already
        if lost is not None:
            if story.apart(killed, lost) > longest and not story.disturbed((killed.by,), killed, lost):
                yield violation("G18", "a child's loss was reported late", killed, lost)
        elif quiet and "down" not in story.workers.get(killed.by, NOTHING):
            yield violation("G18", "a child's loss was never reported", killed, quiet[-1])


def _emptied(story: Story, sent: Event) -> bool:
    """Whether the broker itself may have forgotten the message: one without persistence was killed."""
    return any(
        begin is not None and begin.value == "emptied" and (end is None or not story.before(end, sent))
        for begin, end in story.faults.get("broker", ())
    )


def g19_not_twice_without_need(story: Story) -> Iterator[Violation]:
    for facts in story.tasks.values():
        starts = facts.get("started", NONE)
        if len(starts) < 2 or len(facts.get("enqueued", NONE)) > 1:
            continue
        yield from _after_its_ending(story, facts, starts)
        before: list[Event] = []
        for started in starts:
            same = [earlier for earlier in before if earlier.attempt == started.attempt]
            if not same or _was_just_cut_off(story, same[-1], started):
                pass
            elif not any(may_run_again(story, earlier, started) for earlier in before):
                yield violation("G19", "a task ran twice though its worker lived", same[-1], started)
            before.append(started)


def _was_just_cut_off(story: Story, first: Event, again: Event) -> bool:
    """Whether the second worker lost its connection, and what it held there, so shortly before it started that its last
    look at the connection may have been the earlier: nobody can look and start in the same instant."""
    slack = story.paused(again.by, again, story.bounds.start_slack)
    for begin, _ in (*story.faults.get(f"broker/{again.by}", ()), *story.faults.get("broker", ())):
        assert begin is not None
        # Held by it before, for the first start came of what the broker took back then.
        if story.before(begin, first) and story.before(begin, again) and story.apart(begin, again) <= slack:
            return True
    return False


def _after_its_ending(story: Story, facts: dict[str, list[Event]], starts: list[Event]) -> Iterator[Violation]:
    """What comes again after its ending was recorded does not run again, while the backend can tell."""
    for recorded in facts.get("recorded", NONE):
        if recorded.state not in TERMINAL:
            continue
        for again in starts:
            slack = story.paused(again.by, again, story.bounds.start_slack)
            backends = ("backend", f"backend/{again.by}")
            # Where the broker was away or a worker suspended, the next attempt may have been published twice, and both be held.
            brokers = ("broker", *(way for run in starts for way in (run.by, f"broker/{run.by}")))
            if (
                story.apart(recorded, again) > slack
                and not story.disturbed(backends, recorded, again)
                and not story.disturbed(brokers, starts[0], again)
            ):
                yield violation("G19", "a task ran again after its ending had been recorded", recorded, again)
                return


def g20_stopping_is_not_revoking(story: Story) -> Iterator[Violation]:
    rules = {rule.version for rule in story.of("rule-stored")}
    for recorded in story.of("recorded"):
        if recorded.version is not None and recorded.version in rules:
            continue  # G29 tells what the rule strikes
        if recorded.state == "cancelled" and recorded.value != "expired" and not revoked(story, recorded.task):
            stopping = next(iter(story.workers.get(recorded.by, NOTHING).get("stopping", NONE)), None)
            yield violation("G20", "cancelled, and nobody had revoked it", stopping, recorded)
