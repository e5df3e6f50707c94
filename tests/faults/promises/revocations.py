"""G1 to G6: revocations and their stores."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from tests.faults.history import Event
from tests.faults.story import (
    NONE,
    NOTHING,
    Story,
    Violation,
    could_not_be_told,
    seen_at,
    sides,
    stored_of,
    undone_between,
    violation,
)


def g1_durable_then_visible(story: Story) -> Iterator[Violation]:
    for said in story.of("broadcast"):
        for failed in story.requests.get(said.request or "", NOTHING).get("store-failed", NONE):
            if (
                story.history.between(said.at, said.clock, failed.began, failed.clock) <= 0
            ):  # not what is noted afterwards
                yield violation("G1", "broadcast although the store refused it", failed, said)
        undone = story.tasks.get(said.task or "", NOTHING).get("undone", NONE)
        stored = [s for s in (*stored_of(story, said.task), *undone) if s.version == said.version]
        if not stored and not seen_at(story, said.task, said.version):
            yield violation("G1", "broadcast, and no store ever held it", said)
        for durable in stored:
            if story.history.between(said.at, said.clock, durable.began, durable.clock) > 0:
                yield violation("G1", "broadcast before it was durable", said, durable)
    if story.of("read") or story.of("stored"):
        for applied in story.of("applied"):
            versions = [s.version or 0 for s in stored_of(story, applied.task)]
            if applied.version is None or any(version >= applied.version for version in versions):
                continue
            if not seen_at(story, applied.task, applied.version):
                yield violation("G1", "a worker holds a revocation that no store ever held", applied)


def g2_g3_what_is_revoked_does_not_run(story: Story) -> Iterator[Violation]:
    bounds = story.bounds
    for facts in story.tasks.values():
        if "started" not in facts:
            continue
        for started in facts["started"]:
            worker = started.by
            for cancelled in facts.get("recorded", NONE):
                again = cancelled.attempt >= started.attempt  # else it was tried again: G9
                if again and cancelled.state == "cancelled" and cancelled.version is not None:
                    if could_not_be_told(story, facts, cancelled, started):
                        continue
                    if story.apart(cancelled, started) > story.paused(worker, started, bounds.start_slack):
                        undone = undone_between(story, started.task, cancelled, started)
                        what = "it ran after it was recorded as cancelled"
                        yield violation("G31" if undone else "G3", what, cancelled, undone, started)
            for stored in facts.get("stored", NONE):
                if not story.live(stored, started):
                    continue
                slack = story.paused(worker, started, bounds.start_slack)
                lead = story.apart(stored, started) - slack
                if lead <= 0:
                    continue
                known = next(
                    (
                        applied
                        for applied in facts.get("applied", NONE)
                        if applied.by == worker
                        and story.apart(applied, started) > slack
                        and any(s.version == applied.version and story.live(s, started) for s in facts["stored"])
                    ),
                    None,
                )
                born = next(iter(story.workers.get(worker, NOTHING).get("up", NONE)), None)
                if known is not None:
                    what = "a worker started a task that it knew to be revoked"
                    yield violation("G3", what, stored, known, started)
                elif born is not None and born.value != "unsynced" and story.before(stored, born):
                    what = "a worker that was started later ran a revoked task"
                    yield violation("G2", what, stored, born, started)
                elif lead > bounds.freshness and not story.disturbed(sides(worker, "store"), stored, started):
                    what = f"a worker did not know of a revoke {lead:.1f} s later"
                    yield violation("G2", what, stored, started)


def g4_the_store_orders(story: Story) -> Iterator[Violation]:
    taken: dict[int, Event] = {}
    by_clock: dict[str, list[Event]] = {}
    for stored in story.of("stored"):
        if stored.version is None:
            continue
        other = taken.setdefault(stored.version, stored)
        if other.task != stored.task:
            yield violation("G4", "one version was given twice", other, stored)
        by_clock.setdefault(stored.clock, []).append(stored)
    for events in by_clock.values():
        if len(events) > 1:
            yield from _out_of_order(events)
    for facts in story.tasks.values():
        if "stored" not in facts:
            continue
        for first in facts["stored"]:
            if not first.terminate:
                continue
            for later in facts["stored"]:
                if not later.terminate and (later.version or 0) > (first.version or 0) and story.live(first, later):
                    yield violation("G4", "a later revoke took a terminate back", first, later)
        for cancelled in facts.get("recorded", NONE):
            if cancelled.state == "cancelled" and cancelled.version is not None:
                yield from _cancelled_by_what_had_expired(story, facts, cancelled)


def _out_of_order(events: list[Event]) -> Iterator[Violation]:
    """A save that began after another had returned has a higher version."""
    ended = sorted(events, key=lambda event: event.at)
    times = [event.at for event in ended]
    highest: list[Event] = []
    for event in ended:
        highest.append(event if not highest or (event.version or 0) > (highest[-1].version or 0) else highest[-1])
    for event in events:
        place = bisect_left(times, event.began)
        if place and highest[place - 1] is not event and (highest[place - 1].version or 0) >= (event.version or 0):
            yield violation("G4", "a later save has no higher version", highest[place - 1], event)


def _cancelled_by_what_had_expired(
    story: Story, facts: dict[str, list[Event]], cancelled: Event
) -> Iterator[Violation]:
    stored = facts.get("stored", NONE)
    sent = facts.get("enqueued", NONE)
    if not stored or not sent or any(rule.version == cancelled.version for rule in story.of("rule-stored")):
        return
    for event in stored:
        if event.until is None:
            return
        if story.history.between(event.until, event.clock, sent[0].at, sent[0].clock) <= 0:
            return
    yield violation("G4", "cancelled by a revoke that had expired before it was sent", stored[-1], sent[0], cancelled)


def g5_pruning_is_safe(story: Story) -> Iterator[Violation]:
    for pruned in story.of("pruned"):
        for stored in stored_of(story, pruned.task):
            if stored.version == pruned.version and story.live(stored, pruned):
                yield violation("G5", "a live record was pruned", stored, pruned)
    within = story.bounds.prune_within
    if within is None:
        return
    for cached in story.of("cached"):
        held = 0
        for task in story.tasks:
            records = stored_of(story, task)
            held += any(
                event.until is None
                or story.history.between(event.until, event.clock, cached.at, cached.clock) <= within
                for event in records
            )
        if cached.value > held:
            yield violation("G5", f"{cached.value} revocations in memory, {held} are live", cached)


def g6_concurrent_writers(story: Story) -> Iterator[Violation]:
    for read in story.of("read"):
        if read.state == "corrupt":
            yield violation("G6", "the store can't be read any more", read)
            continue
        held = read.value or {}
        for task, facts in story.tasks.items():
            stored = [event for event in facts.get("stored", NONE) if story.before(event, read)]
            live = [event for event in stored if story.live(event, read)]
            if not live:
                continue
            latest = max(live, key=lambda event: event.version or 0)
            if task in held:
                version, terminate = held[task]
                if version < (latest.version or 0):
                    yield violation("G6", "an older record replaced a newer one", latest, read)
                if not terminate and any(event.terminate for event in live):
                    first = next(event for event in live if event.terminate)
                    yield violation("G4", "a terminate was taken back", first, read)
                continue
            pruned = [event for event in facts.get("pruned", NONE) if story.before(event, read)]
            killed = [
                begin
                for target, spans in story.faults.items()
                if target.partition("/")[0] == "store"
                for begin, end in spans
                if begin is not None and (end is None or not story.before(end, latest)) and story.before(begin, read)
            ]
            if pruned:
                yield violation("G5", "pruning an older record deleted its successor", latest, pruned[-1], read)
            elif killed:
                yield violation("G1", "what the store had acknowledged did not last", latest, killed[-1], read)
            else:
                yield violation("G6", "a record was lost", latest, read)
