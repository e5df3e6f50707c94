"""What a pause and a resume change (G22, G24)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.control.client.pause_plans import PausePlan, plan_pause, plan_resume
from stem_kombu.directive import Directive, DirectiveDraft, Kind, latest, winner

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
LATER = NOW + timedelta(hours=1)
WORKERS = ["alpha", "bravo-1", "bravo-2"]
QUEUES = ["mail", "mail-bulk", "video"]


class Fleet:
    """What a store holds, and what its workers do with it."""

    def __init__(self) -> None:
        self._versions = count(1)
        self.held: list[Directive] = []

    def store(self, plan: PausePlan) -> list[Directive]:
        stored = [self._stored(draft) for draft in plan.drafts()]
        self.held += stored
        return stored

    def _stored(self, draft: DirectiveDraft) -> Directive:
        known = latest(self.held).get(draft.key)
        assert draft.replaces == (0 if known is None else known.version)
        return Directive(
            "stem", draft.kind, draft.subject, draft.workers, draft.value, next(self._versions), NOW,
            draft.expires_at, cleared=draft.cleared,
        )  # fmt: skip

    def pause(self, *queues: str | None, workers: Sequence[str] = ("*",)) -> list[Directive]:
        return self.store(plan_pause(self.held, queues, workers, NOW))

    def resume(self, *queues: str | None, workers: Sequence[str] | None = None) -> list[Directive]:
        return self.store(plan_resume(self.held, queues, workers, NOW))

    def paused(self) -> set[tuple[str, str]]:
        held = latest(self.held).values()
        return {
            (worker, queue)
            for worker in WORKERS
            for queue in QUEUES
            if (won := winner(held, Kind.PAUSE, worker, queue, NOW)) is not None and won.value is True
        }


def everywhere(*queues: str) -> set[tuple[str, str]]:
    return {(worker, queue) for worker in WORKERS for queue in queues}


def test_a_pause_and_its_resume() -> None:
    fleet = Fleet()
    fleet.pause("mail")
    assert fleet.paused() == everywhere("mail")
    (cleared,) = fleet.resume("mail")
    assert cleared.cleared
    assert fleet.paused() == set()


def test_pausing_twice_replaces_the_record() -> None:
    fleet = Fleet()
    fleet.pause("mail")
    (again,) = fleet.store(plan_pause(fleet.held, ["mail"], ["*"], NOW, LATER))
    assert (again.key, again.expires_at) == (fleet.held[0].key, LATER)
    assert len(latest(fleet.held)) == 1


def test_a_resume_without_workers_clears_the_pauses_of_single_workers_too() -> None:
    fleet = Fleet()
    fleet.pause("mail", workers=["alpha"])
    fleet.pause("mail", workers=["bravo-*"])
    assert len(fleet.resume("mail")) == 2
    assert fleet.paused() == set()


def test_a_resume_under_a_pause_of_all_queues_stores_an_exemption() -> None:
    fleet = Fleet()
    fleet.pause(None)
    (exempt,) = fleet.resume("mail")
    assert (exempt.subject, exempt.workers, exempt.value) == ("mail", "*", False)
    assert fleet.paused() == everywhere("mail-bulk", "video")
    # and a pause of all queues afterwards means all
    fleet.pause(None)
    assert fleet.paused() == everywhere(*QUEUES)
    fleet.resume(None)
    assert fleet.paused() == set()


def test_a_resume_of_one_worker_under_a_pause_of_the_fleet_stores_an_exemption_of_that_worker() -> None:
    fleet = Fleet()
    fleet.pause("mail")
    (exempt,) = fleet.resume("mail", workers=["alpha"])
    assert (exempt.subject, exempt.workers, exempt.value) == ("mail", "alpha", False)
    assert fleet.paused() == {("bravo-1", "mail"), ("bravo-2", "mail")}
    fleet.resume("mail")
    assert fleet.paused() == set()
    assert not [one for one in latest(fleet.held).values() if one.is_live(NOW)]


def test_a_resume_of_nothing_changes_nothing() -> None:
    fleet = Fleet()
    assert fleet.resume("mail") == []
    fleet.pause("video")
    assert fleet.resume("mail") == []
    assert fleet.resume("mail", workers=["alpha"]) == []


def test_what_has_ended_is_not_cleared_again() -> None:
    fleet = Fleet()
    fleet.pause("mail")
    ended = replace(fleet.held[0], expires_at=NOW - timedelta(seconds=1))
    assert plan_resume([ended], ["mail"], None, NOW).drafts() == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pause", "resume"]),
        st.sampled_from([*QUEUES, "mail*", None]),
        st.sampled_from([None, ("alpha",), ("bravo-*",), ("bravo-1", "alpha")]),
    ),
    max_size=8,
)


@given(STEPS)
def test_g24_what_was_asked_for_last_is_what_workers_do(
    steps: list[tuple[str, str | None, Sequence[str] | None]],
) -> None:
    """Of a queue that is named exactly, or of all queues: nothing that was asked for before stands against it."""
    fleet = Fleet()
    for verb, subject, workers in steps:
        before = fleet.paused()
        if verb == "pause":
            fleet.pause(subject, workers=workers or ("*",))
        else:
            fleet.resume(subject, workers=workers)
        chosen = [
            (worker, queue)
            for worker in WORKERS
            for queue in QUEUES
            if subject is None or queue == subject or (subject == "mail*" and queue.startswith("mail"))
            if workers is None or worker in workers or ("bravo-*" in workers and worker.startswith("bravo"))
        ]
        after = fleet.paused()
        # Nothing else changes.
        assert {pair for pair in before ^ after if pair not in chosen} == set()
        if verb == "resume":
            assert not after & set(chosen), (verb, subject, workers)
        else:
            assert set(chosen) <= after, (verb, subject, workers)
