"""What a worker answers to directives (G22)."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from stem_kombu.app import Stem
from stem_kombu.directive import Directive, Kind
from stem_kombu.task import TaskMessage
from stem_kombu.worker.delivery_events import Phase
from stem_kombu.worker.worker import Worker

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g22_an_answer_waits_for_what_starts_though_the_pause_was_read_from_the_store_before(app: Stem) -> None:
    """The sync took the pause while a task was on its way into its handler; the command that came next found nothing new, and
    was answered while that task had still to start."""
    worker = Worker(app, name="alpha", concurrency=1, queues=["default"])
    task = app.registry.get("inline.add")
    # Its executor does not have it any more, and its handler is not called yet.
    message = TaskMessage("t1", "inline.add", queue="default")
    starting = worker.inflight.add(message, task, None, 1, False, Phase.RESERVED)
    pause = Directive(app.settings.namespace, Kind.PAUSE, "default", "*", True, 1, NOW, None)

    assert worker.directives.obey([pause]).starting == {starting.token}
    assert worker.directives.obey([pause]).starting == {starting.token}

    worker.inflight.remove(starting.token)
    assert worker.directives.obey([pause]).starting == frozenset()
