"""G29: a rule touches no task that was sent after its cut-off, and none that its selector does not match.

What it strikes does not run (G2, G3)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.history import Event
from tests.faults.story import NONE, NOTHING, Story, Violation, has_name, sides, strikes, violation


def g29_the_past_only(story: Story) -> Iterator[Violation]:
    rules = {rule.version: rule for rule in story.of("rule-stored")}
    for facts in story.tasks.values() if rules else ():
        sent = facts.get("enqueued", NONE)
        touched = [
            *((event.version, event) for kind in ("refused", "recorded") for event in facts.get(kind, NONE)),
            *((event.value, event) for event in facts.get("stored", NONE)),  # what was found is revoked by its id
        ]
        for version, event in touched:
            rule = rules.get(version)
            if rule is None or not sent or any(strikes(rule, one) for one in sent):
                continue
            named = any(has_name(rule, one) for one in sent)
            what = "was sent after its cut-off" if named else "its selector does not match"
            yield violation("G29", f"a rule touched a task that {what}", sent[0], rule, event)


def g2_g3_what_a_rule_strikes_does_not_run(story: Story) -> Iterator[Violation]:
    for rule in story.of("rule-stored"):
        for facts in story.tasks.values():
            if all(strikes(rule, sent) for sent in facts.get("enqueued", NONE)):
                for started in facts.get("started", NONE):
                    yield from _started_all_the_same(story, rule, started)


def _started_all_the_same(story: Story, rule: Event, started: Event) -> Iterator[Violation]:
    worker = started.by
    slack = story.paused(worker, started, story.bounds.start_slack)
    lead = story.apart(rule, started) - slack
    if lead <= 0 or (
        rule.until is not None and story.history.between(started.at, started.clock, rule.until, rule.clock) <= 0
    ):
        return
    known = next(
        (
            applied
            for applied in story.of("rule-applied")
            if applied.by == worker and applied.version == rule.version and story.apart(applied, started) > slack
        ),
        None,
    )
    born = next(iter(story.workers.get(worker, NOTHING).get("up", NONE)), None)
    if known is not None:
        yield violation("G3", "a worker started a task that it knew a rule to revoke", rule, known, started)
    elif born is not None and born.value != "unsynced" and story.before(rule, born):
        yield violation("G2", "a worker that was started later ran what a rule revokes", rule, born, started)
    elif lead > story.bounds.freshness and not story.disturbed(sides(worker, "store"), rule, started):
        yield violation("G2", f"a worker did not know of a rule {lead:.1f} s later", rule, started)
