"""Directives from a client to workers: stored, then sent; who obeys, and who does not."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

import pytest

from stem_kombu.control.client.directives import DirectiveClient, Ending
from stem_kombu.control.directive_writer import Author
from stem_kombu.control.protocol import codec
from stem_kombu.control.server.worker_view import Obeyed
from stem_kombu.directive import Directive
from stem_kombu.errors import ConfigurationError, ControlError, RecordConflict
from stem_kombu.stores.memory import MemoryRevokeStore
from stem_kombu.stores.records import Change, Changed
from tests.control.fleet import Fleet


@pytest.fixture
def memory_fleet(fleet_on: Callable[..., Fleet]) -> Fleet:
    # Kombu's memory transport keeps its queues for the whole process.
    return fleet_on("memory://", namespace=f"ns-{uuid.uuid4().hex[:8]}")


def test_g21_a_directive_is_stored_and_then_reaches_every_worker_with_its_author(fleet: Fleet) -> None:
    alpha, bravo = fleet.start("alpha", "bravo")
    report = DirectiveClient(fleet.client(timeout=30.0)).pause(
        ["mail"], ending=Ending(expires_in=60.0), author=Author("ada@ops", "INC-42")
    )
    (stored,) = report.stored
    assert (stored.subject, stored.workers, stored.value, stored.requested_by, stored.reason) == (
        "mail", "*", True, "ada@ops", "INC-42",
    )  # fmt: skip
    assert alpha.worker.obeyed == bravo.worker.obeyed == [stored]
    assert report.applied == {"alpha": stored.version, "bravo": stored.version}
    assert report.not_obeying == ()


def test_a_directive_for_one_worker_is_sent_to_that_one(memory_fleet: Fleet) -> None:
    alpha, bravo = memory_fleet.start("alpha", "bravo")
    report = DirectiveClient(memory_fleet.client(timeout=30.0)).pause(None, workers=["alpha"])
    assert [reply.worker for reply in report.replies] == ["alpha"]
    assert (len(alpha.worker.obeyed), bravo.worker.obeyed) == (1, [])


def test_workers_that_know_no_directives_are_named(memory_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of 0.1.0 does not know the command; a Celery guest says that it obeys none."""
    (old,) = memory_fleet.start("old")
    monkeypatch.delitem(codec._ORDERS, "directives")
    report = DirectiveClient(memory_fleet.client(timeout=30.0)).pause(["mail"])
    assert report.not_obeying == (("old", "unknown-command"),)
    assert old.worker.obeyed == []
    monkeypatch.undo()

    def refuse(directives: Sequence[Directive]) -> Obeyed:
        raise ControlError("no", code="unsupported")

    monkeypatch.setattr(old.worker, "obey", refuse)
    report = DirectiveClient(memory_fleet.client(timeout=30.0)).pause(["mail"])
    assert report.not_obeying == (("old", "unsupported"),)
    assert report.to_dict()["not_obeying"] == [{"worker": "old", "code": "unsupported"}]


def test_a_store_that_holds_no_directives_is_refused_before_anything_is_sent(
    memory_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alpha,) = memory_fleet.start("alpha")
    monkeypatch.setattr(MemoryRevokeStore, "keeps_records", False)
    directives = DirectiveClient(memory_fleet.client(timeout=30.0))
    for change in (directives.pause, directives.resume, directives.planned_pause):
        with pytest.raises(ConfigurationError, match="can't store directives") as refused:
            change(["mail"])
        assert refused.value.hint is not None
    assert alpha.worker.obeyed == []


def test_a_change_is_planned_anew_where_another_operator_was_quicker(
    memory_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_fleet.start("alpha")
    ours, theirs = (DirectiveClient(memory_fleet.client(timeout=30.0)) for _ in range(2))
    real, overtaken = MemoryRevokeStore.change, []

    def change(store: MemoryRevokeStore, namespace: str, change: Change) -> Changed:
        if any(draft.place == "directive" for draft in change.records) and not overtaken:
            overtaken.append(True)
            theirs.pause(["mail"], author=Author("bob"))
        return real(store, namespace, change)

    monkeypatch.setattr(MemoryRevokeStore, "change", change)
    (stored,) = ours.pause(["mail"], author=Author("ada")).stored
    held, _ = ours.held()
    assert [one.requested_by for one in held] == ["ada"]
    assert held == [stored]


def test_g22_a_pause_of_everything_ends_an_exemption_that_another_operator_stored_in_that_moment(
    memory_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has another key, so that neither replaces the other: found by the simulation, seed 20055707."""
    memory_fleet.start("alpha")
    ours, theirs = (DirectiveClient(memory_fleet.client(timeout=30.0)) for _ in range(2))
    ours.pause(None)
    real, overtaken = MemoryRevokeStore.change, []

    def change(store: MemoryRevokeStore, namespace: str, change: Change) -> Changed:
        if any(draft.place == "directive" for draft in change.records) and not overtaken:
            overtaken.append(True)
            theirs.resume(None, workers=["al*"])
        return real(store, namespace, change)

    monkeypatch.setattr(MemoryRevokeStore, "change", change)
    ours.pause(None)
    held, now = ours.held()
    assert [(one.workers, one.value) for one in held if one.is_live(now)] == [("*", True)]


def test_a_change_gives_up_where_another_writer_is_always_quicker(
    memory_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_fleet.start("alpha")
    directives = DirectiveClient(memory_fleet.client(timeout=30.0))

    def change(store: MemoryRevokeStore, namespace: str, change: Change) -> Changed:
        raise RecordConflict.of("directive", "k", 1, 2)

    monkeypatch.setattr(MemoryRevokeStore, "change", change)
    with pytest.raises(RecordConflict, match="nothing was stored"):
        directives.pause(["mail"])


def test_what_has_passed_is_no_end(memory_fleet: Fleet) -> None:
    directives = DirectiveClient(memory_fleet.client(timeout=30.0))
    _, now = directives.held()
    with pytest.raises(ConfigurationError, match="has passed"):
        directives.pause(["mail"], ending=Ending(expires_at=now))
    with pytest.raises(ConfigurationError, match="expires_in"):
        directives.pause(["mail"], ending=Ending(expires_in=-1.0))
    for queues in ("mail", [], ["amq.x"]):
        with pytest.raises(ConfigurationError):
            directives.pause(queues)
    assert directives.held()[0] == []
