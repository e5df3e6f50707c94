"""What a worker answers to directives (G22)."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from stem_kombu.app import Stem
from stem_kombu.directive import Directive, Kind
from stem_kombu.task import TaskMessage
from stem_kombu.worker.active_limits import ActiveLimits
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.phase import Phase
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


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_without_a_rate_limit_nothing_is_asked_of_limits(app: Stem, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a task costs no more than it did before there were limits."""

    def asked(*_: object) -> None:
        raise AssertionError("a limit was asked, and there is none")

    for name in ("holds_back", "take", "wait", "leave", "next", "set_shares"):
        monkeypatch.setattr(ActiveLimits, name, asked)
    with Worker(app, name="alpha", concurrency=1, queues=["default"]):
        assert app.send_task("inline.add", args=(1, 2)).get(timeout=30) == 3
        assert app.send_task("inline.add", args=(1, 2), countdown=0.1).get(timeout=30) == 3
        assert not [thread.name for thread in threading.enumerate() if thread.name == "stem-limits"]


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g23_a_task_goes_on_whose_limit_ends_just_before_it_begins_to_wait(
    app: Stem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the limit freed what waited for it, and this task did not wait yet: it lay there for a day."""
    limit = Directive(
        app.settings.namespace,
        Kind.RATE_LIMIT,
        "queue:default",
        "*",
        {"tasks": 1, "seconds": 3600, "each": True},
        1,
        NOW,
    )
    with Worker(app, name="alpha", concurrency=1, queues=["default"]) as worker:
        let_pass, limits = ActiveLimits.take, worker.lifecycle.facts.limits
        refused = []

        def take(self: ActiveLimits, delivery: Delivery) -> bool:
            if refused:
                return let_pass(self, delivery)
            refused.append(delivery.task_id)
            worker.directives.obey([replace(limit, version=2, cleared=True)])
            assert not limits.live
            return False

        monkeypatch.setattr(ActiveLimits, "take", take)
        worker.directives.obey([limit])
        assert limits.live
        assert app.send_task("inline.add", args=(3, 4)).get(timeout=30) == 7
        assert len(refused) == 1
