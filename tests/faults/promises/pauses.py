"""G22 and G23: once a worker has answered to a pause, no task starts there, in this life or the next, until it ends."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from tests.faults.history import Event
from tests.faults.story import Story, Violation, violation

#: Seconds by which a worker's idea of the store's clock may be off.
_CLOCK = 0.5


def g22_paused_means_none(story: Story) -> Iterator[Violation]:
    """A resume makes every pause before it void: from its storing on, a worker may know of it."""
    pauses: dict[str, Event] = {}  # by the workers that they are for: the later replaces the earlier
    obeying: dict[str, Event] = {}
    for event in story.history:
        if event.kind == "pause-stored" and event.version is not None:
            pauses[str(event.value)] = event
            obeying = {by: found for by, found in obeying.items() if found.value != event.value}
        elif event.kind == "resume-stored":
            obeying.clear()
            pauses.clear()
        elif event.kind == "paused":
            for found in pauses.values():
                if found.version == event.version:
                    obeying[event.by] = found
        elif event.kind == "up" and "unsynced" not in str(event.value or ""):
            name = event.by.partition("#")[0]
            for found in pauses.values():
                if fnmatchcase(name, str(found.value)):
                    obeying[event.by] = found
        elif event.kind == "started" and (pause := obeying.get(event.by)) is not None:
            if pause.until is None or event.at < pause.until - _CLOCK:
                yield violation("G22", "a task of a paused queue started", pause, event)
