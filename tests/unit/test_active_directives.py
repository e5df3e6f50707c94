"""What directives ask of a worker now (G23)."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.directive import Directive, Kind
from stem_kombu.worker.active_directives import ActiveDirectives

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


def test_g23_an_end_that_passes_right_after_it_was_looked_at_is_still_told_of() -> None:
    """A pause that ended between the reading of the store and the start of the thread stayed for good."""
    time = [NOW]
    active = ActiveDirectives(WorkerIdentity.here("stem", "alpha", NOW), ["mail"], lambda: time[0])
    end = NOW + timedelta(seconds=1)
    active.take([Directive("stem", Kind.PAUSE, "mail", "*", True, 1, NOW, end)])
    assert active.update() == {"mail"}
    time[0] = end
    assert active.next_end() == end
    assert active.paused
    active.update()
    assert not active.paused
    assert active.next_end() is None
