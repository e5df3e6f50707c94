"""The audit: each change has an entry in the same transaction (G32), and ``problems`` finds what was changed since."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.control import auditor as auditor_module
from stem_kombu.control.audit import ANCHOR, AUDIT, Entry, Note, key_of, problems, tasks_target
from stem_kombu.control.auditor import Auditor
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.verification import NO_KEYS
from stem_kombu.errors import ConfigurationError, RecordConflict, StoreUnavailable
from stem_kombu.revocation import RevocationDraft
from stem_kombu.settings import Settings
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.memory import MemoryRevokeStore
from stem_kombu.stores.records import BODY_LIMIT, Change, Changed, RecordDraft, Removal, body_text
from stem_kombu.stores.registry import open_revoke_store
from tests.signing.keys import ring, shared

NS = "shop"
PAUSE = Note("pause", {"queues": ["mail"]}, "ann@host", "INC-1", before=None, after=True)


@pytest.fixture(params=["sqlite", "redis", "postgres", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RevokeStore]:
    kind = request.param
    local = {"sqlite": f"sqlite://{tmp_path}/revokes.db", "file": f"file://{tmp_path}/revokes.stem"}
    opened = open_revoke_store(local[kind] if kind in local else request.getfixturevalue(f"{kind}_url"))
    yield opened
    opened.close()


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> MemoryRevokeStore:
    return MemoryRevokeStore(request.node.nodeid)


def pause(key: str = "k", **more: Any) -> Change:
    return Change(records=[RecordDraft("directive", key, {}, **more)])


def entries(store: RevokeStore, keyring: Any = None) -> list[Entry]:
    return [Entry.of(record, NS, keyring) for record in store.records_since(NS, 0, [AUDIT])]


def wrong(store: RevokeStore, keyring: Any = None) -> list[str]:
    return list(problems(store.records_since(NS, 0, [AUDIT]), store.record(NS, ANCHOR, ""), NS, keyring))


def test_g32_a_change_and_its_entry_are_stored_together(store: RevokeStore) -> None:
    auditor = Auditor(store, NS, None)

    done = auditor.change(pause(), PAUSE)
    again = auditor.change(pause(), Note("resume", {"queues": ["mail"]}, "bob"))

    assert done.entry is not None
    assert done.entry.note == PAUSE
    assert (done.entry.seq, done.entry.previous, done.entry.verified, done.entry.key) == (1, "", None, None)
    assert [record.place for record in done.changed.records] == ["directive"]
    assert done.entry.at == done.changed.records[0].stored_at
    assert entries(store) == [done.entry, again.entry]
    assert again.entry is not None
    assert again.entry.previous == done.entry.hash
    assert wrong(store) == []


def test_g32_a_change_that_is_refused_leaves_no_entry(store: RevokeStore) -> None:
    auditor = Auditor(store, NS, None)
    auditor.change(pause(), PAUSE)

    with pytest.raises(RecordConflict) as conflict:
        auditor.change(pause(replaces=0), PAUSE)

    assert conflict.value.place == "directive"
    assert len(entries(store)) == 1


def test_g32_clients_that_write_at_once_make_one_chain(store: RevokeStore) -> None:
    count, rounds = 4, 6
    gate = threading.Barrier(count)
    failures: list[BaseException] = []

    def write(place: int) -> None:
        auditor = Auditor(store, NS, None)
        try:
            gate.wait(60)
            for number in range(rounds):
                auditor.change(pause(f"{place}-{number}"), Note("pause", {"at": [place, number]}, "ann"))
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread of the test
            failures.append(error)

    threads = [threading.Thread(target=write, args=(place,), daemon=True) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    found = entries(store)
    assert [entry.seq for entry in found] == list(range(1, count * rounds + 1))
    assert wrong(store) == []
    assert len(list(store.records_since(NS, 0, ["directive"]))) == count * rounds


def test_g32_each_revocation_has_an_entry(store: RevokeStore) -> None:
    drafts = [RevocationDraft(f"t{number}", True, "bad deploy", "ann@host") for number in range(3)]

    stored = Revoker(store, NS, NO_KEYS).save(drafts)

    (entry,) = entries(store)
    assert entry.note == Note("revoke", tasks_target(["t0", "t1", "t2"], terminate=True), "ann@host", "bad deploy")
    assert [one.version for one in stored] == [entry.version - 3, entry.version - 2, entry.version - 1]
    assert entry.concerns("t1")
    assert not entry.concerns("t9")


def test_g32_what_was_sent_twice_because_the_answer_was_lost_has_one_entry(
    store: RevokeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (revoked,) = store.save(NS, [RevocationDraft("old")])
    change = Change(
        [RevocationDraft("t")], [Removal("old", revoked.version)], [RecordDraft("undo", "old", {}, replaces=0)]
    )
    genuine = type(store).change

    def twice(self: RevokeStore, namespace: str, change: Change) -> Changed:
        genuine(self, namespace, change)
        return genuine(self, namespace, change)

    monkeypatch.setattr(type(store), "change", twice)
    done = Auditor(store, NS, None).change(change, PAUSE)

    assert [entry.seq for entry in entries(store)] == [1]
    assert done.entry == entries(store)[0]
    assert [one.task_id for one in done.changed.revocations] == ["t"]
    assert [one.task_id for one in done.changed.ended] == ["old"]
    assert [record.key for record in done.changed.records] == ["old"]
    assert list(done.changed.records) == list(store.records_since(NS, 0, ["undo"]))


def test_g32_an_order_that_stores_nothing_has_an_entry_or_says_that_it_has_none(memory: MemoryRevokeStore) -> None:
    class Down(MemoryRevokeStore):
        def change(self, namespace: str, change: Change) -> Changed:
            raise StoreUnavailable("down")

    class Old(MemoryRevokeStore):
        keeps_records = False

    shutdown = Note("shutdown", {"workers": ["w1"]}, "ann")
    entry = Auditor(memory, NS, None).note(shutdown)

    assert entry is not None
    assert entries(memory) == [entry]
    assert Auditor(Down(memory.url), NS, None).note(shutdown) is None
    assert Auditor(Old(memory.url), NS, None).note(shutdown) is None


def test_a_store_that_keeps_revocations_only_takes_them_without_an_entry(memory: MemoryRevokeStore) -> None:
    class Old(MemoryRevokeStore):
        keeps_records = False

        def save(self, namespace: str, drafts: Any) -> Any:
            return list(super().change(namespace, Change(drafts)).revocations)

        def change(self, namespace: str, change: Change) -> Changed:
            return RevokeStore.change(self, namespace, change)

    auditor = Auditor(Old(memory.url), NS, None)

    done = auditor.change(Change([RevocationDraft("t")]), PAUSE)

    assert done.entry is None
    assert [one.task_id for one in done.changed.revocations] == ["t"]
    with pytest.raises(ConfigurationError, match="keeps revocations only"):
        auditor.change(pause(), PAUSE)


def test_ids_that_have_no_room_in_an_entry_are_counted(memory: MemoryRevokeStore) -> None:
    ids = [f"é{number:04}" * 80 for number in range(1000)]

    target = tasks_target(ids)
    Auditor(memory, NS, None).change(pause(), Note("revoke", target, "é" * 2000, "é" * 2000))

    assert target["count"] == 1000
    assert 10 < len(target["tasks"]) < 1000  # type: ignore[arg-type]
    assert len(body_text(dict(memory.newest_records(NS, AUDIT, 1)[0].body))) < BODY_LIMIT


# What verify finds.


@pytest.mark.parametrize("damage", ["changed", "missing", "missing two", "first missing", "renamed", "torn"])
@pytest.mark.parametrize("keys", [False, True])
def test_g32_damage_to_the_chain_is_found(memory: MemoryRevokeStore, damage: str, keys: bool) -> None:
    keyring = ring(shared("ops")) if keys else None
    auditor = Auditor(memory, NS, keyring)
    for number in range(6):
        auditor.change(pause(f"{number}"), Note("pause", {"number": number}, "ann"))
    assert wrong(memory, keyring) == []
    third = memory.record(NS, AUDIT, key_of(3))
    assert third is not None
    gone = {"missing": [3], "missing two": [3, 4], "first missing": [1], "renamed": [3]}.get(damage, [])
    memory.change(NS, Change(forgotten=[(AUDIT, key_of(seq)) for seq in gone]))
    if damage == "changed":
        body = {**third.body, "requester": "somebody else"}
        memory.change(NS, Change(records=[RecordDraft(AUDIT, third.key, body)]))
    elif damage == "renamed":
        memory.change(NS, Change(records=[RecordDraft(AUDIT, key_of(9), third.body)]))
    elif damage == "torn":
        memory.change(NS, Change(records=[RecordDraft(AUDIT, third.key, {"seq": 3})]))

    assert wrong(memory, keyring) != []


def test_g32_with_keys_an_entry_that_nobody_signed_is_found(memory: MemoryRevokeStore) -> None:
    """A chain can be computed anew by whoever may write to the store; a signature can't."""
    ops = ring(shared("ops"))
    Auditor(memory, NS, ops).change(pause("a"), PAUSE)
    Auditor(memory, NS, None).change(pause("b"), PAUSE)
    Auditor(memory, NS, ring(shared("viewer"))).change(pause("c"), PAUSE)

    assert [entry.verified for entry in entries(memory, ops)] == [True, False, False]
    assert [entry.key for entry in entries(memory, ops)] == ["ops", None, "viewer"]
    assert wrong(memory) == []
    assert len(wrong(memory, ops)) == 2
    other = [Entry.of(record, "other", ops) for record in memory.records_since(NS, 0, [AUDIT])]
    assert not any(entry.verified for entry in other)  # an entry can't be moved to another namespace


# Retention.


def test_g32_what_is_pruned_leaves_an_anchor(store: RevokeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor_module, "MOST_ENTRIES", 5)
    monkeypatch.setattr(auditor_module, "_PRUNE_EVERY", 4)
    monkeypatch.setattr(auditor_module, "_PAGE", 3)
    keyring = ring(shared("ops"))
    auditor = Auditor(store, NS, keyring)

    for number in range(12):
        auditor.change(pause(f"{number}"), PAUSE)

    assert [entry.seq for entry in entries(store)] == [8, 9, 10, 11, 12]
    assert wrong(store, keyring) == []
    store.change(NS, Change(forgotten=[(AUDIT, key_of(8))]))
    assert wrong(store, keyring) == ["entry 8 is missing"]


def test_g32_old_entries_are_pruned_by_the_clock_of_the_store(memory: MemoryRevokeStore) -> None:
    auditor = Auditor(memory, NS, None, keep=0.05)
    old = auditor.change(pause(), PAUSE).entry
    assert old is not None
    while memory.now() <= old.at + timedelta(seconds=0.05):
        SYSTEM.sleep(0.005)
    recent = Auditor(memory, NS, None, keep=3600).change(pause(), PAUSE).entry

    auditor._prune(2)
    Auditor(memory, NS, None)._prune(2)

    assert recent is not None
    assert [entry.seq for entry in entries(memory)] in ([2], [])
    assert wrong(memory) == []
    memory.change(NS, Change(forgotten=[(AUDIT, key_of(2))]))
    after = auditor.change(pause(), PAUSE).entry
    assert after is not None
    assert after.seq >= 2


def test_a_last_entry_that_can_not_be_read_blocks_no_change(memory: MemoryRevokeStore) -> None:
    auditor = Auditor(memory, NS, None)
    auditor.change(pause(), PAUSE)
    memory.change(NS, Change(records=[RecordDraft(AUDIT, key_of(2), {"seq": "x"})]))

    third = auditor.change(pause(), PAUSE).entry

    assert third is not None
    assert third.seq == 3
    assert any("entry 000000000002" in problem for problem in wrong(memory))


def test_the_life_of_entries_is_a_setting() -> None:
    assert Settings.from_env({}).audit_keep == 90 * 86_400
    assert Settings.from_env({"STEM_AUDIT_KEEP": "30d"}).audit_keep == 30 * 86_400
    with pytest.raises(ConfigurationError, match="STEM_AUDIT_KEEP"):
        Settings.from_env({"STEM_AUDIT_KEEP": "never"})
