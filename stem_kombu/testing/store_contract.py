"""What every revoke store promises, as tests: derive from :class:`RevokeStoreContract` and say where the store is.

    pytest.register_assert_rewrite("stem_kombu.testing.store_contract")  # before the import, for readable failures

    class TestMyStore(RevokeStoreContract):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mystore://{tmp_path}"

The scheme must be known to :func:`stem_kombu.stores.registry.open_revoke_store`, in other processes as well: register
it under the entry-point group ``stem_kombu.revoke_stores``. Needs pytest and nothing else. A name with ``g4`` in it
proves the guarantee of that number (G4).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta, timezone
from multiprocessing.synchronize import Barrier

import pytest

from stem_kombu.bound import Bound, bound_text, bounds_of
from stem_kombu.clock import SYSTEM, epoch_us
from stem_kombu.errors import ConfigurationError
from stem_kombu.ladder import Ladder, LadderText, ladder_of
from stem_kombu.revocation import MOST_PROOFS, Revocation, RevocationDraft, merge
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.batch import folded
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.open_stores import OpenStores
from stem_kombu.testing.parallel import PATIENCE, Processes, eventually

#: Long enough for what must not expire during a test.
HOUR = 3600.0
#: Short enough to wait for.
MOMENT = 0.02

Draft = RevocationDraft


class RevokeStoreContract(OpenStores):
    """The promises of :class:`stem_kombu.stores.base.RevokeStore` and G1 to G6."""

    #: False for a store that forgets when its process ends.
    durable = True

    # What save gives back, and what is held.

    def test_it_gives_one_record_per_task_in_the_order_of_first_mention(
        self, store: RevokeStore, namespace: str
    ) -> None:
        records = store.save(namespace, [Draft("b"), Draft("a"), Draft("b", terminate=True), Draft("c")])

        assert [record.task_id for record in records] == ["b", "a", "c"]
        assert records[0].terminate
        assert all(record.namespace == namespace for record in records)

    def test_g4_the_caller_gets_what_the_store_holds(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft("t", terminate=True, reason="bad deploy", requested_by="ann@host")])

        (second,) = store.save(namespace, [Draft("t", expires_in=HOUR)])

        assert (second.terminate, second.reason, second.requested_by) == (True, "bad deploy", "ann@host")
        assert store.get(namespace, "t") == second
        assert list(store.since(namespace, 0)) == [second]
        assert list(store.load(namespace)) == [second]

    def test_g2_its_parts_are_what_it_streams(self, store: RevokeStore, namespace: str) -> None:
        """Workers read by parts (:meth:`RevokeStore.pages`), and take a part in as a whole."""
        drafts = [Draft(f"t{number}", number % 2 == 0, "why", expires_in=HOUR) for number in range(2500)]
        first, *_, last = store.save(namespace, [*drafts, Draft("short", expires_in=0.000001), Draft("t-last")])

        parts = list(store.pages(namespace))

        assert all(parts)
        assert [one for part in parts for one in part] == list(store.load(namespace))
        assert [one for part in store.pages(namespace, 0) for one in part] == list(store.since(namespace, 0))
        assert [one for part in store.pages(namespace, first.version) for one in part] == list(
            store.since(namespace, first.version)
        )
        assert list(store.pages(namespace, last.version)) == []

    def test_an_empty_batch_changes_nothing(self, store: RevokeStore, namespace: str) -> None:
        assert store.save(namespace, []) == []
        assert store.revision(namespace) == 0

    def test_a_task_that_nobody_revoked_has_no_record(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft("t1")])

        assert store.get(namespace, "t2") is None
        assert store.get(namespace + "x", "t1") is None

    def test_duplicates_in_one_batch_merge_as_if_they_had_come_one_by_one(
        self, store: RevokeStore, namespace: str
    ) -> None:
        (record,) = store.save(
            namespace,
            [
                Draft("t", terminate=True, reason="first", expires_in=HOUR),
                Draft("t", reason="second", expires_in=2 * HOUR),
                Draft("t", requested_by="ann", expires_in=HOUR),
            ],
        )

        assert (record.terminate, record.reason, record.requested_by) == (True, "second", "ann")
        assert record.expires_at == record.issued_at + timedelta(seconds=2 * HOUR)

    def test_a_later_reason_and_requester_replace_the_earlier_ones(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft("t", reason="first", requested_by="ann")])

        (record,) = store.save(namespace, [Draft("t", reason="second", requested_by="bob")])

        assert (record.reason, record.requested_by) == ("second", "bob")

    def test_it_keeps_the_proofs_of_what_a_record_was_merged_from(self, store: RevokeStore, namespace: str) -> None:
        first, second = _proof("ops", 1), _proof("root", 2, terminate=True)
        store.save(namespace, [Draft("t", proofs=(first,)), Draft("u")])

        (record,) = store.save(namespace, [Draft("t", terminate=True, proofs=(second,))])

        assert record.proofs == (first, second)
        assert store.get(namespace, "t") == record
        assert [held.proofs for held in store.load(namespace)] == [(), (first, second)]
        assert [held.proofs for held in store.since(namespace, 0)] == [(), (first, second)]

    def test_a_draft_without_a_proof_destroys_none(self, store: RevokeStore, namespace: str) -> None:
        """Somebody without a key revokes what was revoked with one: workers with keys must still find the proof."""
        proof = _proof("ops", 1, reason='"expires_at":"2001-01-01T00:00:00Z"} \\ ümlaut')
        store.save(namespace, [Draft("t", expires_in=HOUR, proofs=(proof,))])

        (record,) = store.save(namespace, [Draft("t", terminate=True, reason="me too")])

        assert record.proofs == (proof,)
        assert record.expires_at is None
        assert store.get(namespace, "t") == record

    def test_proofs_are_bounded_and_one_key_can_not_push_out_anothers(self, store: RevokeStore, namespace: str) -> None:
        lasting = _proof("ops", 1, terminate=True)
        store.save(namespace, [Draft("t", proofs=(lasting,))])

        for signed_us in range(2, 40):
            store.save(namespace, [Draft("t", proofs=(_proof("viewer", signed_us, terminate=True, expires_us=99),))])

        record = store.get(namespace, "t")
        assert record is not None
        assert len(record.proofs) == 2
        assert record.proofs[0] == lasting

    def test_a_ladder_once_asked_for_stays_and_the_shorter_span_wins(self, store: RevokeStore, namespace: str) -> None:
        now = store.now()
        texts = [_ladder(2, 60.0, 600.0), _ladder(3, None, 30.0), _ladder(4, 20.0, None, expires_us=5)]
        store.save(namespace, [Draft("t", terminate=True, proofs=(_proof("ops", 1, terminate=True), texts[0]))])
        store.save(namespace, [Draft("t", terminate=True, proofs=tuple(texts[1:]))])

        (record,) = store.save(namespace, [Draft("t", reason="and a draft without one", proofs=(_proof("ops", 6),))])

        assert ladder_of(record, now) == Ladder(None, 30.0)  # SIGKILL comes before the SIGTERM of the other
        assert store.get(namespace, "t") == record
        (again,) = store.save(namespace, [Draft("t", terminate=True, proofs=(_ladder(7, 5.0, 900.0),))])
        assert ladder_of(again, now) == Ladder(5.0, 30.0)
        # and the proofs of who asked are not touched by it
        assert _proof("ops", 1, terminate=True) in again.proofs

    def test_g3_bounds_of_one_id_add_up_and_a_revocation_without_a_bound_takes_the_whole_id(
        self, store: RevokeStore, namespace: str
    ) -> None:
        attempt, before = Bound(attempt=2), Bound(before=store.now())

        (record,) = store.save(namespace, [_bound("t", attempt)])
        assert bounds_of(record) == bounds_of(store.get(namespace, "t") or record) == (attempt,)
        (record,) = store.save(namespace, [_bound("t", before), _bound("t", attempt)])
        assert set(bounds_of(record)) == {attempt, before}
        (record,) = store.save(namespace, [Draft("t")])
        assert bounds_of(record) == ()
        (record,) = store.save(namespace, [_bound("t", attempt)])
        assert bounds_of(record) == ()
        (record,) = store.save(namespace, [_bound("u", attempt), Draft("u")])
        assert bounds_of(record) == ()
        assert bounds_of(next(iter(store.since(namespace, record.version - 1)))) == ()

    def test_g3_a_bound_ends_with_the_revocation_that_it_came_with(self, store: RevokeStore, namespace: str) -> None:
        short = _bound("t", Bound(attempt=1), expires_in=HOUR)
        (record,) = store.save(namespace, [short, _bound("t", Bound(attempt=2))])

        assert set(bounds_of(record, store.now())) == {Bound(attempt=1), Bound(attempt=2)}
        assert bounds_of(record, store.now() + timedelta(seconds=2 * HOUR)) == (Bound(attempt=2),)

    def test_g3_another_secret_under_a_known_key_id_replaces_no_proof(self, store: RevokeStore, namespace: str) -> None:
        """A store can't verify: it tells secrets apart by the fingerprint that a proof names."""
        genuine, again = _proof("ops", 1, fingerprint="aaaa"), _proof("ops", 3, fingerprint="aaaa")
        other, old = _proof("ops", 2, fingerprint="bbbb"), _proof("ops", 4)
        store.save(namespace, [Draft("t", proofs=(genuine,))])

        (record,) = store.save(namespace, [Draft("t", proofs=(other,))])
        assert record.proofs == (genuine, other)

        (record,) = store.save(namespace, [Draft("t", proofs=(old,)), Draft("t", proofs=(again,))])
        assert record.proofs == (other, old, again)

    def test_g3_what_is_one_proof_too_many_is_what_expired_and_else_the_latest(
        self, store: RevokeStore, namespace: str
    ) -> None:
        first = [
            _proof(f"ops-{number}", number, expires_us=3 if number == 5 else None) for number in range(MOST_PROOFS)
        ]
        for proof in first:
            store.save(namespace, [Draft("t", proofs=(proof,))])

        late = _proof("late", 99)
        (record,) = store.save(namespace, [Draft("t", proofs=(late,))])
        assert record.proofs == (*first[:5], *first[6:], late)

        (after,) = store.save(namespace, [Draft("t", proofs=(_proof("too-late", 100),))])
        assert after.proofs == record.proofs

    def test_it_merges_as_the_rule_says(self, store: RevokeStore, namespace: str) -> None:
        """Random batches against :func:`stem_kombu.revocation.merge`, the rule itself."""
        dice = random.Random(20260131)
        held: dict[str, Revocation] = {}
        for _ in range(60):
            drafts = [_any_draft(dice) for _ in range(dice.randint(1, 6))]
            for draft, record in zip(folded(drafts), store.save(namespace, drafts), strict=True):
                rule = merge(
                    held.get(draft.task_id), draft, namespace=namespace, version=record.version, now=record.issued_at
                )
                assert record == rule, f"{held.get(draft.task_id)} + {draft}"
                held[draft.task_id] = record

        assert list(store.since(namespace, 0)) == sorted(held.values(), key=lambda record: record.version)

    @pytest.mark.parametrize(
        "task_id",
        ["a" * 512, "näme/🦑", 'it\'s "quoted" \\ and {braced} %s :p', "-", " spaced ", "日本語", "a\u2028b"],
    )
    def test_it_holds_any_task_id_as_it_is(self, store: RevokeStore, namespace: str, task_id: str) -> None:
        (record,) = store.save(namespace, [Draft(task_id, reason=f"because of\n{task_id}", requested_by=task_id)])

        assert record.task_id == task_id
        assert store.get(namespace, task_id) == record
        assert list(store.load(namespace)) == [record]
        assert store.save(namespace, [Draft(task_id)])[0].reason == f"because of\n{task_id}"

    def test_it_keeps_the_longest_reason(self, store: RevokeStore, namespace: str) -> None:
        reason = "é" * 2000

        store.save(namespace, [Draft("t", reason=reason)])

        found = store.get(namespace, "t")
        assert found is not None
        assert found.reason == reason

    @pytest.mark.parametrize(
        "bad",
        [
            Draft("x", expires_in=0),
            Draft("x", expires_in=-1),
            Draft("x", expires_in=float("nan")),
            Draft("x", expires_in=float("inf")),
            Draft("x", reason="a\0b"),
            Draft("x", requested_by="\ud800"),
        ],
        ids=["zero", "negative", "nan", "infinite", "nul", "surrogate"],
    )
    def test_a_batch_with_a_draft_that_cannot_be_held_stores_nothing(
        self, store: RevokeStore, namespace: str, bad: RevocationDraft
    ) -> None:
        with pytest.raises(ConfigurationError, match="'x'"):
            store.save(namespace, [Draft("good"), bad])

        assert list(store.since(namespace, 0)) == []
        assert store.revision(namespace) == 0

    def test_ten_thousand_tasks_are_one_batch(self, store: RevokeStore, namespace: str) -> None:
        drafts = [Draft(f"task-{number}", reason="all of them") for number in range(10_000)]

        records = store.save(namespace, drafts)

        assert [record.task_id for record in records] == [draft.task_id for draft in drafts]
        assert list(store.load(namespace)) == records
        assert len({record.issued_at for record in records}) == 1

    # Order.

    def test_g4_every_record_has_a_higher_version_than_the_one_before(self, store: RevokeStore, namespace: str) -> None:
        versions = [
            record.version
            for batch in ([Draft("t1"), Draft("t2")], [Draft("t3")], [Draft("t1"), Draft("t4")])
            for record in store.save(namespace, batch)
        ]

        assert versions == sorted(set(versions))
        assert versions[0] > 0
        assert store.revision(namespace) == versions[-1]

    def test_g4_terminate_once_asked_for_stays_asked_for(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft("t", terminate=True)])

        (later,) = store.save(namespace, [Draft("t", terminate=False)])

        assert later.terminate

    def test_g4_terminate_can_be_asked_for_later(self, store: RevokeStore, namespace: str) -> None:
        (first,) = store.save(namespace, [Draft("t")])

        (later,) = store.save(namespace, [Draft("t", terminate=True)])

        assert (first.terminate, later.terminate) == (False, True)

    @pytest.mark.parametrize(
        ("first", "second", "longest"),
        [(HOUR, 2 * HOUR, 2 * HOUR), (2 * HOUR, HOUR, 2 * HOUR), (None, HOUR, None), (HOUR, None, None)],
    )
    def test_g3_a_revocation_is_never_shortened(
        self, store: RevokeStore, namespace: str, first: float | None, second: float | None, longest: float | None
    ) -> None:
        (held,) = store.save(namespace, [Draft("t", expires_in=first)])

        (record,) = store.save(namespace, [Draft("t", expires_in=second)])

        if longest is None:
            assert record.expires_at is None
        else:
            issued_at = held.issued_at if first == longest else record.issued_at
            assert record.expires_at == issued_at + timedelta(seconds=longest)

    def test_g4_since_gives_what_is_newer_in_order_and_each_task_once(self, store: RevokeStore, namespace: str) -> None:
        first, second = store.save(namespace, [Draft("t1"), Draft("t2")])
        (third,) = store.save(namespace, [Draft("t3")])
        (again,) = store.save(namespace, [Draft("t1")])

        assert list(store.since(namespace, 0)) == [second, third, again]
        assert list(store.since(namespace, first.version)) == [second, third, again]
        assert list(store.since(namespace, second.version)) == [third, again]
        assert list(store.since(namespace, again.version)) == []
        assert list(store.since(namespace, again.version + 10**9)) == []

    def test_g2_since_sees_what_was_saved_between_two_looks(self, store: RevokeStore, namespace: str) -> None:
        seen: list[str] = []
        version = 0
        for number in range(5):
            store.save(namespace, [Draft(f"t{number}"), Draft("again")])
            for record in store.since(namespace, version):
                seen.append(record.task_id)
                version = record.version

        assert seen == [name for number in range(5) for name in (f"t{number}", "again")]

    def test_namespaces_do_not_meet(self, store: RevokeStore, namespace: str) -> None:
        other = namespace + "-b"
        (here,) = store.save(namespace, [Draft("t", reason="here")])
        (there,) = store.save(other, [Draft("t", terminate=True, expires_in=MOMENT)])
        eventually(lambda: store.get(other, "t") is None)

        assert store.prune(other) == 1

        assert not here.terminate
        assert list(store.since(namespace, 0)) == [here] == list(store.load(namespace))
        assert store.get(namespace, "t") == here
        assert (store.revision(namespace), store.revision(other)) == (here.version, there.version)

    # Time and pruning.

    def test_g4_times_are_by_the_clock_of_the_store(self, store: RevokeStore, namespace: str) -> None:
        before = store.now()
        (record,) = store.save(namespace, [Draft("t", expires_in=HOUR)])
        after = store.now()

        assert before <= record.issued_at <= after
        assert record.expires_at == record.issued_at + timedelta(seconds=HOUR)
        assert {before.tzinfo, record.issued_at.tzinfo, record.expires_at.tzinfo} == {timezone.utc}

    def test_an_expired_record_counts_as_absent(self, store: RevokeStore, namespace: str) -> None:
        (short,) = store.save(namespace, [Draft("t", terminate=True, reason="old", expires_in=MOMENT)])
        eventually(lambda: store.get(namespace, "t") is None)

        assert list(store.load(namespace)) == []
        assert list(store.since(namespace, 0)) == [short]
        (fresh,) = store.save(namespace, [Draft("t")])
        assert (fresh.terminate, fresh.reason, fresh.expires_at) == (False, None, None)

    def test_g5_pruning_deletes_what_has_expired_and_nothing_else(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft(f"short-{number}", expires_in=MOMENT) for number in range(3)])
        kept = store.save(namespace, [Draft("long", expires_in=HOUR), Draft("ever")])
        eventually(lambda: len(list(store.load(namespace))) == 2)

        assert store.prune(namespace) == 3
        assert store.prune(namespace) == 0
        assert list(store.since(namespace, 0)) == kept

    def test_g5_pruning_many_takes_them_all(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft(f"t{number}", expires_in=MOMENT) for number in range(3000)])
        (kept,) = store.save(namespace, [Draft("ever")])
        eventually(lambda: list(store.load(namespace)) == [kept])

        assert store.prune(namespace) == 3000
        assert list(store.since(namespace, 0)) == [kept]

    def test_g5_a_record_that_replaced_an_expired_one_is_not_pruned(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft("t", expires_in=MOMENT)])
        eventually(lambda: store.get(namespace, "t") is None)
        (fresh,) = store.save(namespace, [Draft("t")])

        assert store.prune(namespace) == 0
        assert store.get(namespace, "t") == fresh

    def test_g5_pruning_while_expired_records_are_replaced_loses_none(
        self, open_store: Callable[[], RevokeStore], namespace: str
    ) -> None:
        pruner, writer = open_store(), open_store()
        rounds = 25
        gate = threading.Barrier(2)

        def prune() -> None:
            for _ in range(rounds):
                gate.wait(PATIENCE)
                pruner.prune(namespace)
                gate.wait(PATIENCE)

        with _Threads([prune]):
            for number in range(rounds):
                drafts = [Draft(f"t{number}-{place}", expires_in=0.001) for place in range(20)]
                writer.save(namespace, drafts)
                eventually(lambda last=drafts[-1].task_id: writer.get(namespace, last) is None)  # type: ignore[misc]
                gate.wait(PATIENCE)
                fresh = writer.save(namespace, [Draft(draft.task_id) for draft in drafts])
                gate.wait(PATIENCE)
                held = {record.task_id: record for record in pruner.load(namespace)}
                assert [held.get(record.task_id) for record in fresh] == fresh

    def test_g4_the_revision_never_goes_back(self, open_store: Callable[[], RevokeStore], namespace: str) -> None:
        store = open_store()
        assert store.revision(namespace) == 0
        (record,) = store.save(namespace, [Draft("t", expires_in=MOMENT)])
        eventually(lambda: store.get(namespace, "t") is None)
        assert store.prune(namespace) == 1
        store.close()

        reopened = open_store()

        assert reopened.revision(namespace) == record.version
        assert reopened.save(namespace, [Draft("t")])[0].version > record.version

    # Durability, and several at once.

    def test_g1_what_was_saved_is_there_for_the_next_one_who_opens_the_store(
        self, open_store: Callable[[], RevokeStore], namespace: str
    ) -> None:
        first = open_store()
        records = first.save(namespace, [Draft("t1"), Draft("t2", terminate=True, reason="r", expires_in=HOUR)])
        first.close()

        second = open_store()

        assert list(second.load(namespace)) == records
        assert second.revision(namespace) == records[-1].version

    def test_g1_what_a_process_saved_before_it_died_is_there(
        self, store: RevokeStore, namespace: str, url: str
    ) -> None:
        self._needs_processes()

        with Processes(1, _save_and_die, url, namespace) as (process,):
            process.join(PATIENCE)

        assert process.exitcode == 7
        assert [record.task_id for record in store.load(namespace)] == ["last words"]

    def test_a_closed_store_can_be_closed_again_and_used_again(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft("t")])

        store.close()
        store.close()

        assert store.get(namespace, "t") is not None
        store.ping()

    def test_closing_one_store_leaves_the_others_alone(
        self, open_store: Callable[[], RevokeStore], namespace: str
    ) -> None:
        first, second = open_store(), open_store()
        first.save(namespace, [Draft("t")])
        second.save(namespace, [Draft("u")])

        first.close()

        assert len(list(second.load(namespace))) == 2

    def test_load_is_a_stream_that_goes_on_while_others_save(self, store: RevokeStore, namespace: str) -> None:
        there = store.save(namespace, [Draft(f"t{number}") for number in range(12_000)])

        stream = store.load(namespace)
        first = next(stream)
        (late,) = store.save(namespace, [Draft("late")])
        rest = list(stream)

        assert [record for record in [first, *rest] if record != late] == there

    def test_g6_threads_share_a_store_and_lose_nothing(self, store: RevokeStore, namespace: str) -> None:
        saved: list[Revocation] = []

        def save(thread: int) -> Callable[[], None]:
            def run() -> None:
                for number in range(15):
                    saved.extend(store.save(namespace, [Draft(f"{thread}-{number}"), Draft(f"{thread}-{number}-b")]))
                    assert store.get(namespace, f"{thread}-{number}") is not None

            return run

        with _Threads([save(thread) for thread in range(6)]):
            pass

        assert list(store.since(namespace, 0)) == sorted(saved, key=lambda record: record.version)
        assert len({record.version for record in saved}) == len(saved) == 6 * 15 * 2

    def test_g4_g6_since_skips_nothing_while_processes_write(
        self, open_store: Callable[[], RevokeStore], namespace: str, url: str
    ) -> None:
        self._needs_processes()
        reader, writers, batches = open_store(), 3, 25
        expected = writers * sum(_batch_size(number) for number in range(batches))
        seen: list[Revocation] = []
        version = 0

        with Processes(writers, _save_batches, url, namespace, batches) as processes:
            deadline = SYSTEM.monotonic() + PATIENCE
            while len(seen) < expected and SYSTEM.monotonic() < deadline:
                writing = any(process.is_alive() for process in processes)
                for record in reader.since(namespace, version):
                    assert record.version > version
                    version = record.version
                    seen.append(record)
                if not writing:
                    break  # nobody wrote when this look began: what it did not see will never be seen
            for process in processes:
                process.join(PATIENCE)

        assert [process.exitcode for process in processes] == [0] * writers
        assert len({record.task_id for record in seen}) == len(seen)
        assert {record.task_id for record in seen} == {record.task_id for record in open_store().load(namespace)}
        assert len(seen) == expected

    def test_g6_many_processes_open_an_empty_store_at_once(self, namespace: str, url: str) -> None:
        self._needs_processes()

        with Processes(5, _save_once, url, namespace) as processes:
            for process in processes:
                process.join(PATIENCE)

        assert [process.exitcode for process in processes] == [0] * 5
        store = open_revoke_store(url)
        assert len(list(store.load(namespace))) == 5
        store.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_and_its_parent_both_go_on(self, store: RevokeStore, namespace: str) -> None:
        store.save(namespace, [Draft("before")])
        child = multiprocessing.get_context("fork").Process(target=_use_inherited, args=(store, namespace))

        child.start()
        store.save(namespace, [Draft("parent")])
        child.join(PATIENCE)

        assert child.exitcode == 0
        names = {record.task_id for record in store.load(namespace)}
        assert names >= {"before", "parent"}
        assert ("child" in names) == self.shared_between_processes
        store.save(namespace, [Draft("after")])


def _ladder(signed_us: int, term: float | None, kill: float | None, expires_us: int | None = None) -> str:
    return LadderText(signed_us, expires_us, term, kill, "ops").encoded()


def _proof(
    key: str,
    signed_us: int,
    *,
    terminate: bool = False,
    expires_us: int | None = None,
    reason: str | None = None,
    fingerprint: str | None = None,
) -> str:
    """What stands for a proof in a store, which can't verify it."""
    fields = {"t": signed_us, "e": expires_us, "x": terminate, "r": reason, "q": None, "s": f"hmac-sha256:{key}:AA=="}
    if fingerprint is not None:
        fields["f"] = fingerprint
    return json.dumps(fields, separators=(",", ":"))


def _bound(task_id: str, bound: Bound, *, expires_in: float | None = None) -> RevocationDraft:
    now_us = epoch_us(SYSTEM.utcnow())
    ends = None if expires_in is None else now_us + int(expires_in * 1_000_000)
    return Draft(task_id, expires_in=expires_in, proofs=(bound_text(bound, now_us=now_us, expires_us=ends),))


def _any_draft(dice: random.Random) -> RevocationDraft:
    return RevocationDraft(
        task_id=f"t{dice.randint(1, 5)}",
        terminate=dice.random() < 0.3,
        reason=dice.choice([None, "", "r1", "r2 / \"'\n"]),
        requested_by=dice.choice([None, "ann", "bøb"]),
        expires_in=dice.choice([None, HOUR, 1e-6, 0.0005, dice.random() * HOUR, 99 * 365 * 86_400.0]),
        proofs=dice.choice([(), _bound("t", Bound(dice.randint(1, 2))).proofs, (_proof("ops", dice.randint(1, 9)),)]),
    )


def _batch_size(number: int) -> int:
    return (1, 1, 7, 2, 40)[number % 5]


class _Threads:
    """Run each target in a thread of its own; at the end all have ended, and the first failure is raised here."""

    def __init__(self, targets: Sequence[Callable[[], None]]) -> None:
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(target,), daemon=True) for target in targets]

    def _run(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the test
            self._failures.append(error)

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *exception: object) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
        if self._failures:
            raise self._failures[0]
        assert not any(thread.is_alive() for thread in self._threads), "a thread did not end"


def _save_batches(barrier: Barrier, place: int, url: str, namespace: str, batches: int) -> None:
    store = open_revoke_store(url)
    barrier.wait(PATIENCE)
    for number in range(batches):
        store.save(namespace, [Draft(f"{place}-{number}-{item}") for item in range(_batch_size(number))])
    store.close()


def _save_once(barrier: Barrier, place: int, url: str, namespace: str) -> None:
    store = open_revoke_store(url)
    barrier.wait(PATIENCE)
    store.save(namespace, [Draft(f"t{place}")])
    assert store.get(namespace, f"t{place}") is not None
    store.close()


def _save_and_die(barrier: Barrier, place: int, url: str, namespace: str) -> None:
    barrier.wait(PATIENCE)
    open_revoke_store(url).save(namespace, [Draft("last words")])
    os._exit(7)  # no close(), no clean-up, no flush


def _use_inherited(store: RevokeStore, namespace: str) -> None:
    assert store.get(namespace, "before") is not None
    store.save(namespace, [Draft("child")])
    assert store.get(namespace, "child") is not None
    store.close()
