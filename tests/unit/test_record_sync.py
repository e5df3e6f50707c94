"""Control records from the store to what obeys them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta

import pytest

from stem_kombu.agent.record_sync import RecordSync
from stem_kombu.stores.memory import MemoryRevokeStore
from stem_kombu.stores.records import Change, ControlRecord, RecordDraft


class Seen:
    def __init__(self) -> None:
        self.keys: list[str] = []

    def take(self, records: Sequence[ControlRecord]) -> None:
        self.keys += [record.key for record in records]


@pytest.fixture
def store() -> MemoryRevokeStore:
    return MemoryRevokeStore(uuid.uuid4().hex)


def put(store: MemoryRevokeStore, place: str, *keys: str, expires_in: float | None = None) -> None:
    store.change("stem", Change(records=[RecordDraft(place, key, {"a": 1}, expires_in) for key in keys]))


def test_g21_each_place_gets_its_records_once_and_in_order(store: MemoryRevokeStore) -> None:
    directives, rules = Seen(), Seen()
    sync = RecordSync(store, "stem", {"directive": directives.take, "rule": rules.take})
    put(store, "directive", "a", "b")
    put(store, "rule", "r")
    put(store, "undo", "u")
    sync.look(store.revision("stem"))
    sync.look(store.revision("stem"))
    assert (directives.keys, rules.keys) == (["a", "b"], ["r"])
    put(store, "directive", "a")
    sync.look(store.revision("stem"))
    assert directives.keys == ["a", "b", "a"]


def test_nothing_is_read_while_the_revision_stands_still(store: MemoryRevokeStore) -> None:
    seen = Seen()
    sync = RecordSync(store, "stem", {"directive": seen.take})
    put(store, "directive", "a")
    revision = store.revision("stem")
    sync.look(revision)
    store.close()
    store.records_since = None  # type: ignore[assignment, method-assign]
    sync.look(revision)
    assert seen.keys == ["a"]


def test_all_is_read_again_where_what_was_not_read_may_have_been_pruned(store: MemoryRevokeStore) -> None:
    seen = Seen()
    sync = RecordSync(store, "stem", {"directive": seen.take})
    put(store, "directive", "kept")
    sync.look(store.revision("stem"))
    put(store, "directive", "pruned", expires_in=1e-6)
    store.prune_records("stem", store.now() + timedelta(0))
    put(store, "directive", "late")
    sync.look(store.revision("stem"))
    assert seen.keys == ["kept", "kept", "late"]


def test_what_is_asked_for_anew_comes_again(store: MemoryRevokeStore) -> None:
    seen = Seen()
    sync = RecordSync(store, "stem", {"directive": seen.take})
    put(store, "directive", "a")
    sync.look(store.revision("stem"))
    sync.read_anew()
    sync.look(store.revision("stem"))
    assert seen.keys == ["a", "a"]


def test_a_store_without_records_is_asked_for_none(store: MemoryRevokeStore) -> None:
    store.keeps_records = False
    store.records_since = None  # type: ignore[assignment, method-assign]
    RecordSync(store, "stem", {"directive": Seen().take}).look(7)


def lose(store: MemoryRevokeStore, *records: tuple[str, str]) -> None:
    store.change("stem", Change(forgotten=records))


@pytest.mark.parametrize("written_since", [False, True], ids=["untouched", "written"])
def test_g21_what_the_store_has_lost_of_directives_and_rules_is_put_back(
    store: MemoryRevokeStore, written_since: bool
) -> None:
    seen, others = Seen(), Seen()
    sync = RecordSync(store, "stem", {"directive": seen.take, "rule": seen.take})
    other = RecordSync(store, "stem", {"directive": others.take, "rule": others.take})
    put(store, "directive", "ended", expires_in=1e-6)
    put(store, "directive", "a", "b")
    put(store, "rule", "r")
    sync.look(store.revision("stem"))
    other.look(store.revision("stem"))
    lose(store, ("directive", "b"), ("directive", "ended"), ("rule", "r"))
    if written_since:  # it is noticed without a word of the store's
        put(store, "directive", "c")
    else:
        sync.read_anew()
    sync.look(store.revision("stem") + 1)
    assert {(one.place, one.key) for one in store.records_since("stem", 0)} >= {("directive", "b"), ("rule", "r")}
    assert store.record("stem", "directive", "ended") is None
    # a worker that was slower puts nothing back again, and reads what the first one did
    before = store.revision("stem")
    other.look(before)
    assert store.revision("stem") == before
    assert others.keys[-2:] == ["b", "r"]


def test_what_was_written_after_the_loss_is_left_as_it_is(store: MemoryRevokeStore) -> None:
    sync = RecordSync(store, "stem", {"directive": Seen().take})
    put(store, "directive", "a")
    sync.look(store.revision("stem"))
    lose(store, ("directive", "a"))
    store.change("stem", Change(records=[RecordDraft("directive", "a", {"a": 2})]))
    sync.read_anew()
    sync.look(store.revision("stem"))
    (held,) = store.records_since("stem", 0)
    assert held.body == {"a": 2}
