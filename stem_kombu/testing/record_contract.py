"""What every revoke store promises of control records, as tests: derive from :class:`RecordContract` and say where the store is.

    class TestMyStoresRecords(RecordContract):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mystore://{tmp_path}"

A store that keeps revocations only (``keeps_records = False``) has no use for it. As
:mod:`stem_kombu.testing.store_contract`, which the store has to pass as well.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from datetime import timedelta, timezone
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import ConfigurationError, RecordConflict
from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import BODY_LIMIT, MOST_RECORDS, Change, ControlRecord, Removal
from stem_kombu.stores.records import RecordDraft as Draft
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.open_stores import OpenStores
from stem_kombu.testing.parallel import PATIENCE, Processes, eventually

#: Long enough for what must not expire during a test.
HOUR = 3600.0
#: Short enough to wait for.
MOMENT = 0.02


class RecordContract(OpenStores):
    """The promises of :class:`stem_kombu.stores.base.RevokeStore` about records, undo (G31) and order (G4)."""

    # What is kept.

    def test_it_says_that_it_keeps_records(self, store: RevokeStore) -> None:
        assert store.keeps_records

    def test_the_caller_gets_what_the_store_holds(self, store: RevokeStore, namespace: str) -> None:
        before = store.now()
        body = {"value": [1, 2.5, None, True, "é\u2028 \0"], "reason": 'bad "deploy"', "": {}}

        done = store.change(namespace, Change(records=[Draft("directive", 'pause|"q"|*', body, expires_in=HOUR)]))

        (record,) = done.records
        assert (record.place, record.key, dict(record.body)) == ("directive", 'pause|"q"|*', body)
        assert before <= record.stored_at <= store.now()
        assert record.expires_at == record.stored_at + timedelta(seconds=HOUR)
        assert record.stored_at.tzinfo is timezone.utc
        assert done.version == record.version == store.revision(namespace)
        assert list(store.records_since(namespace, 0)) == [record]
        assert store.newest_records(namespace, "directive", 5) == [record]
        assert store.record(namespace, "directive", 'pause|"q"|*') == record

    def test_a_later_record_replaces_the_earlier_one_whole(self, store: RevokeStore, namespace: str) -> None:
        _put(store, namespace, "directive", "k", {"a": 1}, expires_in=HOUR)

        record = _put(store, namespace, "directive", "k", {"b": 2})

        assert dict(record.body) == {"b": 2}
        assert record.expires_at is None
        assert list(store.records_since(namespace, 0)) == [record]

    def test_it_takes_an_end_by_its_own_clock(self, store: RevokeStore, namespace: str) -> None:
        until = store.now() + timedelta(minutes=5)

        record = _put(store, namespace, "directive", "k", {}, expires_at=until)

        assert record.expires_at == until
        assert store.record(namespace, "directive", "k") == record

    def test_what_is_not_there_is_none(self, store: RevokeStore, namespace: str) -> None:
        _put(store, namespace, "directive", "k", {})

        assert store.record(namespace, "rule", "k") is None
        assert store.record(namespace, "directive", "l") is None
        assert store.newest_records(namespace, "rule", 9) == []
        assert store.record(namespace + "x", "directive", "k") is None

    def test_an_empty_change_changes_nothing(self, store: RevokeStore, namespace: str) -> None:
        assert store.change(namespace, Change()).version == 0
        assert store.revision(namespace) == 0

    def test_the_largest_body_and_the_largest_change(self, store: RevokeStore, namespace: str) -> None:
        large = _put(store, namespace, "rule", "k" * 1024, {"text": "x" * (BODY_LIMIT - 20)})
        many = [Draft("rule", f"k{number}", {"number": number}) for number in range(MOST_RECORDS)]

        done = store.change(namespace, Change(records=many))

        assert [record.key for record in done.records] == [draft.key for draft in many]
        assert list(store.records_since(namespace, 0)) == [large, *done.records]

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Draft("Directive", "k", {}),
            lambda: Draft("rule", "a\0b", {}),
            lambda: Draft("rule", "k" * 1025, {}),
            lambda: Draft("rule", "k", {"x": "y" * BODY_LIMIT}),
            lambda: Draft("rule", "k", {"x": float("nan")}),
            lambda: Draft("rule", "k", {"x": object()}),
            lambda: Draft("rule", "k", {}, expires_in=0),
            lambda: Draft("rule", "k", {}, expires_in=float("inf")),
        ],
    )
    def test_what_no_store_can_hold_is_refused(self, make: Callable[[], Draft]) -> None:
        with pytest.raises(ConfigurationError):
            make()

    def test_a_change_that_names_a_record_or_a_task_twice_is_refused(self, store: RevokeStore, namespace: str) -> None:
        for change in (
            Change(records=[Draft("rule", "k", {}), Draft("rule", "k", {})]),
            Change(records=[Draft("rule", "k", {})], forgotten=[("rule", "k")]),
            Change([RevocationDraft("t")], removals=[Removal("t", 1)]),
            Change(records=[Draft("rule", f"k{number}", {}) for number in range(MOST_RECORDS + 1)]),
        ):
            with pytest.raises(ConfigurationError):
                store.change(namespace, change)
        assert store.revision(namespace) == 0

    def test_what_is_forgotten_leaves_no_trace(self, store: RevokeStore, namespace: str) -> None:
        _put(store, namespace, "audit", "1", {})
        second = _put(store, namespace, "audit", "2", {})

        done = store.change(namespace, Change(forgotten=[("audit", "1"), ("audit", "never")]))

        assert done.version == 0
        assert list(store.records_since(namespace, 0)) == [second]
        assert store.revision(namespace) == second.version

    # Order.

    def test_g4_records_and_revocations_share_one_counter(self, store: RevokeStore, namespace: str) -> None:
        (first,) = store.save(namespace, [RevocationDraft("t1")])
        second = _put(store, namespace, "rule", "k", {})
        (third,) = store.save(namespace, [RevocationDraft("t2")])
        done = store.change(namespace, Change([RevocationDraft("t3")], records=[Draft("rule", "l", {})]))

        versions = [first.version, second.version, third.version, done.revocations[0].version, done.records[0].version]
        assert versions == sorted(set(versions))
        assert done.version == store.revision(namespace) == versions[-1]
        assert store.glance(namespace, []).revision == versions[-1]
        assert [one.task_id for one in store.since(namespace, first.version)] == ["t2", "t3"]

    def test_records_since_gives_what_is_newer_in_order(self, store: RevokeStore, namespace: str) -> None:
        first = _put(store, namespace, "directive", "a", {})
        second = _put(store, namespace, "rule", "a", {})
        third = _put(store, namespace, "audit", "a", {})
        again = _put(store, namespace, "directive", "a", {"again": 1})

        assert list(store.records_since(namespace, 0)) == [second, third, again]
        assert list(store.records_since(namespace, first.version)) == [second, third, again]
        assert list(store.records_since(namespace, second.version)) == [third, again]
        assert list(store.records_since(namespace, again.version)) == []
        assert list(store.records_since(namespace, 0, ["directive", "rule"])) == [second, again]
        assert list(store.records_since(namespace, 0, ["audit"])) == [third]
        assert list(store.records_since(namespace, 0, [])) == []

    def test_the_newest_come_first_and_are_counted(self, store: RevokeStore, namespace: str) -> None:
        records = [_put(store, namespace, "audit", f"{number}", {}) for number in range(5)]
        _put(store, namespace, "rule", "k", {})

        assert store.newest_records(namespace, "audit", 2) == records[:-3:-1]
        assert store.newest_records(namespace, "audit", 99) == records[::-1]

    def test_thousands_are_streamed_in_order(self, store: RevokeStore, namespace: str) -> None:
        for first in range(0, 3000, 500):
            drafts = [Draft("audit", f"{number}", {"n": number}) for number in range(first, first + 500)]
            store.change(namespace, Change(records=drafts))

        found = list(store.records_since(namespace, 0, ["audit"]))

        assert [record.body["n"] for record in found] == list(range(3000))
        assert [record.version for record in found] == sorted({record.version for record in found})

    def test_namespaces_do_not_meet(self, store: RevokeStore, namespace: str) -> None:
        record = _put(store, namespace, "rule", "k", {"here": 1}, expires_in=MOMENT)
        other = _put(store, namespace + "-b", "rule", "k", {"there": 1})
        eventually(lambda: record.is_expired(store.now()))

        assert store.prune_records(namespace, store.now()) == 1

        assert list(store.records_since(namespace, 0)) == []
        assert list(store.records_since(namespace + "-b", 0)) == [other]
        assert (store.floor(namespace), store.floor(namespace + "-b")) == (record.version, 0)

    # Compare and set.

    def test_a_change_replaces_the_version_that_it_names_and_no_other(self, store: RevokeStore, namespace: str) -> None:
        first = _put(store, namespace, "directive", "k", {"n": 1}, replaces=0)
        second = _put(store, namespace, "directive", "k", {"n": 2}, replaces=first.version)

        for stale in (0, first.version, second.version + 1):
            with pytest.raises(RecordConflict) as conflict:
                _put(store, namespace, "directive", "k", {"n": 3}, replaces=stale)
            assert (conflict.value.place, conflict.value.key) == ("directive", "k")
            assert conflict.value.held == second.version

        assert list(store.records_since(namespace, 0)) == [second]

    def test_a_conflict_undoes_all_of_the_change(self, store: RevokeStore, namespace: str) -> None:
        held = _put(store, namespace, "directive", "k", {})
        change = Change(
            [RevocationDraft("t")],
            records=[Draft("rule", "new", {}), Draft("directive", "k", {"n": 2}, replaces=0)],
            forgotten=[("directive", "z")],
        )

        with pytest.raises(RecordConflict):
            store.change(namespace, change)

        assert list(store.records_since(namespace, 0)) == [held]
        assert list(store.since(namespace, 0)) == []
        assert store.revision(namespace) == held.version

    def test_of_many_writers_who_replace_the_same_version_one_wins(
        self, open_store: Callable[[], RevokeStore], namespace: str
    ) -> None:
        stores, rounds, won = [open_store() for _ in range(4)], 5, []
        gate = threading.Barrier(len(stores))

        def write(place: int) -> None:
            for number in range(rounds):
                gate.wait(PATIENCE)
                try:
                    _put(stores[place], namespace, "audit", f"{number}", {"by": place}, replaces=0)
                except RecordConflict:
                    continue
                won.append((number, place))

        threads = [threading.Thread(target=write, args=(place,), daemon=True) for place in range(len(stores))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        held = [(int(record.key), record.body["by"]) for record in stores[0].records_since(namespace, 0)]
        assert sorted(won) == held
        assert [number for number, _ in held] == list(range(rounds))

    # Time.

    def test_an_expired_record_is_still_read_until_it_is_pruned(self, store: RevokeStore, namespace: str) -> None:
        short = _put(store, namespace, "directive", "short", {}, expires_in=MOMENT)
        kept = _put(store, namespace, "directive", "long", {}, expires_in=HOUR)
        ever = _put(store, namespace, "rule", "ever", {})
        eventually(lambda: short.is_expired(store.now()))

        assert list(store.records_since(namespace, 0)) == [short, kept, ever]
        assert store.floor(namespace) == 0
        assert store.prune_records(namespace, short.stored_at) == 0
        assert store.prune_records(namespace, store.now()) == 1
        assert store.prune_records(namespace, store.now()) == 0
        assert list(store.records_since(namespace, 0)) == [kept, ever]
        assert store.floor(namespace) == short.version
        assert store.revision(namespace) == ever.version

    def test_a_record_that_replaced_an_expired_one_is_not_pruned(self, store: RevokeStore, namespace: str) -> None:
        short = _put(store, namespace, "rule", "k", {}, expires_in=MOMENT)
        eventually(lambda: short.is_expired(store.now()))
        fresh = _put(store, namespace, "rule", "k", {}, replaces=short.version)

        assert store.prune_records(namespace, store.now()) == 0
        assert list(store.records_since(namespace, 0)) == [fresh]

    def test_the_revision_and_the_floor_never_go_back(
        self, open_store: Callable[[], RevokeStore], namespace: str
    ) -> None:
        store = open_store()
        record = _put(store, namespace, "rule", "k", {}, expires_in=MOMENT)
        eventually(lambda: record.is_expired(store.now()))
        assert store.prune_records(namespace, store.now()) == 1
        store.close()

        again = open_store()

        assert (again.revision(namespace), again.floor(namespace)) == (record.version, record.version)
        assert _put(again, namespace, "rule", "k", {}, replaces=0).version > record.version
        assert again.save(namespace, [RevocationDraft("t")])[0].version == again.revision(namespace)

    # Undo.

    def test_g31_an_undone_revocation_is_over_and_each_reader_learns_it(
        self, store: RevokeStore, namespace: str
    ) -> None:
        proof = '{"t":1,"e":1,"x":false,"r":null,"q":null,"s":"hmac-sha256:ops:AA=="}'
        revoked, other = store.save(namespace, [RevocationDraft("t", True, "wrong"), RevocationDraft("u")])
        undo = Removal("t", revoked.version, "typo", "ann", (proof,))

        done = store.change(namespace, Change(removals=[undo], records=[Draft("undo", "t", {})]))

        (ended,) = done.ended
        assert other.version < ended.version < done.records[0].version == store.revision(namespace)
        assert ended.is_expired(ended.issued_at)
        assert (ended.terminate, ended.reason, ended.requested_by, ended.proofs) == (False, "typo", "ann", (proof,))
        assert store.get(namespace, "t") is None
        assert list(store.load(namespace)) == [other]
        assert list(store.since(namespace, revoked.version)) == [other, ended]

    def test_g31_a_revocation_after_an_undo_counts_again_and_begins_anew(
        self, store: RevokeStore, namespace: str
    ) -> None:
        (first,) = store.save(namespace, [RevocationDraft("t", True, "wrong")])
        store.change(namespace, Change(removals=[Removal("t", first.version)]))

        (again,) = store.save(namespace, [RevocationDraft("t")])

        assert (again.terminate, again.reason, again.expires_at) == (False, None, None)
        assert store.get(namespace, "t") == again

    def test_g31_a_late_undo_does_not_lift_a_later_revocation(self, store: RevokeStore, namespace: str) -> None:
        (first,) = store.save(namespace, [RevocationDraft("t")])
        (later,) = store.save(namespace, [RevocationDraft("t", True)])

        with pytest.raises(RecordConflict) as conflict:
            store.change(namespace, Change(removals=[Removal("t", first.version)], records=[Draft("undo", "t", {})]))

        assert (conflict.value.key, conflict.value.held) == ("t", later.version)
        assert store.get(namespace, "t") == later
        assert list(store.records_since(namespace, 0)) == []
        with pytest.raises(RecordConflict):
            store.change(namespace, Change(removals=[Removal("never", 1)]))

    def test_what_replaced_an_undone_revocation_is_kept_until_all_workers_have_read_it(
        self, store: RevokeStore, namespace: str
    ) -> None:
        (revoked,) = store.save(namespace, [RevocationDraft("t")])
        store.change(namespace, Change(removals=[Removal("t", revoked.version)]))

        assert store.prune_after(namespace, 6 * 86_400.0) == 0
        assert store.prune(namespace) == 1

    # Several at once.

    def test_what_a_process_changed_before_it_died_is_there(self, store: RevokeStore, namespace: str, url: str) -> None:
        self._needs_processes()

        with Processes(1, _change_and_die, url, namespace) as (process,):
            process.join(PATIENCE)

        assert process.exitcode == 7
        assert [record.key for record in store.records_since(namespace, 0)] == ["last words"]
        assert [record.task_id for record in store.load(namespace)] == ["t"]

    def test_g4_g6_readers_skip_nothing_while_processes_write_both(
        self, store: RevokeStore, namespace: str, url: str
    ) -> None:
        self._needs_processes()
        writers, rounds, cursor = 3, 12, 0
        seen: list[str] = []

        with Processes(writers, _change_many, url, namespace, rounds) as processes:
            deadline = SYSTEM.monotonic() + PATIENCE
            while SYSTEM.monotonic() < deadline:
                writing = any(process.is_alive() for process in processes)
                revision = store.revision(namespace)
                for record in store.records_since(namespace, cursor):
                    if record.version <= revision:  # as a worker reads: what is newer is read at the next look
                        seen.append(record.key)
                cursor = revision
                if not writing:
                    break
            for process in processes:
                process.join(PATIENCE)

        assert [process.exitcode for process in processes] == [0] * writers
        assert sorted(seen) == sorted(f"{place}-{number}" for place in range(writers) for number in range(rounds))
        assert len(list(store.load(namespace))) == writers * rounds

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_and_its_parent_both_go_on(self, store: RevokeStore, namespace: str) -> None:
        _put(store, namespace, "rule", "before", {})
        child = multiprocessing.get_context("fork").Process(target=_use_inherited, args=(store, namespace))

        child.start()
        _put(store, namespace, "rule", "parent", {})
        child.join(PATIENCE)

        assert child.exitcode == 0
        names = {record.key for record in store.records_since(namespace, 0)}
        assert names >= {"before", "parent"}
        assert ("child" in names) == self.shared_between_processes


def _put(
    store: RevokeStore, namespace: str, place: str, key: str, body: dict[str, object], **more: Any
) -> ControlRecord:
    (record,) = store.change(namespace, Change(records=[Draft(place, key, body, **more)])).records
    return record


def _change_many(barrier: Barrier, place: int, url: str, namespace: str, rounds: int) -> None:
    store = open_revoke_store(url)
    barrier.wait(PATIENCE)
    for number in range(rounds):
        name = f"{place}-{number}"
        store.change(namespace, Change([RevocationDraft(name)], records=[Draft("audit", name, {})]))
    store.close()


def _change_and_die(barrier: Barrier, place: int, url: str, namespace: str) -> None:
    barrier.wait(PATIENCE)
    change = Change([RevocationDraft("t")], records=[Draft("rule", "last words", {})])
    open_revoke_store(url).change(namespace, change)
    os._exit(7)  # no close(), no clean-up, no flush


def _use_inherited(store: RevokeStore, namespace: str) -> None:
    assert store.record(namespace, "rule", "before") is not None
    _put(store, namespace, "rule", "child", {})
    store.close()
