"""G31: an undo lifts the revocation that it names, for what is delivered from then on. That it never revives what is recorded is
judged with G3, of which it is a case."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.history import Event
from tests.faults.story import NONE, NOTHING, Story, Violation, sides, violation


def g31_undo_is_exact(story: Story) -> Iterator[Violation]:
    for facts in story.tasks.values():
        for undone in facts.get("undone", NONE):
            if undone.version is None:
                continue
            before = [s for s in facts.get("stored", NONE) if (s.version or 0) < undone.version]
            latest = max(before, key=lambda event: event.version or 0, default=None)
            if latest is not None and latest.version != undone.value:
                yield violation("G31", "an undo took back what it did not name", latest, undone)
            taken = {event.version for event in before}
            for refused in facts.get("refused", NONE):
                if refused.version in taken:
                    yield from _refused_all_the_same(story, facts, undone, refused)


def _refused_all_the_same(
    story: Story, facts: dict[str, list[Event]], undone: Event, refused: Event
) -> Iterator[Violation]:
    """Whether a worker refused a task by a revocation that it had to know to be undone."""
    worker = refused.by
    slack = story.paused(worker, refused, story.bounds.start_slack)
    lead = story.apart(undone, refused) - slack
    if lead <= 0:
        return
    known = next(
        (
            lifted
            for lifted in facts.get("lifted", NONE)
            if lifted.by == worker
            and (lifted.version or 0) >= (undone.version or 0)
            and story.apart(lifted, refused) > slack
        ),
        None,
    )
    born = next(iter(story.workers.get(worker, NOTHING).get("up", NONE)), None)
    if known is not None:
        what = "a worker refused a task by a revocation that it knew to be undone"
        yield violation("G31", what, undone, known, refused)
    elif born is not None and born.value != "unsynced" and story.before(undone, born):
        yield violation("G31", "a worker that was started later obeyed what was undone", undone, born, refused)
    elif lead > story.bounds.freshness and not story.disturbed(sides(worker, "store"), undone, refused):
        yield violation("G31", f"a worker did not know of an undo {lead:.1f} s later", undone, refused)
