"""An undo reaches each worker by the store, whatever it missed, and lifts what it names and nothing else (G31)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from stem_kombu.agent.hydration import Hydration
from stem_kombu.agent.record_sync import RecordSync
from stem_kombu.clock import SYSTEM
from stem_kombu.control import undo
from stem_kombu.control.audit import Note
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.verification import NO_KEYS, Verifier
from stem_kombu.errors import RecordConflict
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.proofs import proven
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Change, RecordDraft, Removal
from stem_kombu.stores.registry import open_revoke_store
from tests.signing.scene import OPS, VIEWER, WORKERS

NS = "shop"
UNDO = Note("undo", {}, "ann", "typo", request_id="r1")


class Reader:
    """A worker as far as revocations and their undoing go."""

    def __init__(self, url: str) -> None:
        self.store = open_revoke_store(url)
        self.cache = RevocationCache(NS)
        records = RecordSync(self.store, NS, {undo.UNDO: lambda found: self.hear(undo.lifted(found, NS, None))})
        self.hydration = Hydration(
            self.store, NS, self.cache, self.hear, interval=3600.0, clock=SYSTEM, worker="w1", records=records
        )

    def hear(self, records: object) -> None:
        """A broadcast, and what a sync reads."""
        self.cache.apply(records, self.cache.now())  # type: ignore[arg-type]

    def sync(self) -> None:
        assert self.hydration.sync(), self.hydration.trouble


@pytest.fixture(params=["sqlite", "file", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kind = request.param
    local = {"sqlite": f"sqlite://{tmp_path}/revokes.db", "file": f"file://{tmp_path}/revokes.stem"}
    found: str = local[kind] if kind in local else request.getfixturevalue(f"{kind}_url")
    return found


@pytest.fixture
def store(url: str) -> Iterator[RevokeStore]:
    opened = open_revoke_store(url)
    yield opened
    opened.close()


@pytest.fixture
def reader(url: str) -> Iterator[Reader]:
    found = Reader(url)
    yield found
    found.store.close()


def revoke(store: RevokeStore, *ids: str, keys: Keyring | None = None) -> list[Revocation]:
    return Revoker(store, NS, Verifier(keys)).save([RevocationDraft(task_id, True, "wrong") for task_id in ids])


def take_back(store: RevokeStore, *revoked: Revocation, keys: Keyring | None = None) -> list[Revocation]:
    removals = [Removal(one.task_id, one.version, "typo", "ann") for one in revoked]
    return list(Revoker(store, NS, Verifier(keys)).undo(removals, UNDO).changed.ended)


def test_g31_a_worker_that_missed_the_broadcast_lifts_it_with_its_next_sync(store: RevokeStore, reader: Reader) -> None:
    wrong, _ = revoke(store, "wrong", "right")
    reader.sync()
    assert "wrong" in reader.cache and "right" in reader.cache

    take_back(store, wrong)
    reader.sync()

    assert "wrong" not in reader.cache and "right" in reader.cache
    assert [record.task_id for record in store.load(NS)] == ["right"]
    (again,) = revoke(store, "wrong")
    reader.sync()
    assert reader.cache.get("wrong") == again


def test_g31_broadcasts_that_come_late_change_nothing(store: RevokeStore, reader: Reader) -> None:
    (first,) = revoke(store, "t")
    (ended,) = take_back(store, first)
    reader.sync()

    reader.hear([first])
    assert "t" not in reader.cache

    (later,) = revoke(store, "t")
    reader.hear([later])
    reader.hear([ended])
    assert reader.cache.get("t") == later
    with pytest.raises(RecordConflict):
        take_back(store, first)
    reader.sync()
    assert reader.cache.get("t") == later


def test_g31_a_worker_that_starts_afterwards_knows_of_none(store: RevokeStore, url: str) -> None:
    (first,) = revoke(store, "t")
    take_back(store, first)
    reader = Reader(url)
    reader.sync()
    reader.hear([first])

    assert "t" not in reader.cache
    reader.store.close()


def test_g31_an_undo_is_not_taken_for_a_loss_of_the_store(store: RevokeStore, reader: Reader) -> None:
    """Workers of 0.1.0 prune what has ended without any grace: the record of the undo says the same."""
    (first,) = revoke(store, "t")
    reader.sync()
    take_back(store, first)
    assert store.prune(NS) == 1

    reader.sync()

    assert "t" not in reader.cache
    assert reader.hydration.facts().set_back is None
    assert store.get(NS, "t") is None


def test_g31_a_clock_that_is_behind_by_days_keeps_no_undone_revocation(store: RevokeStore) -> None:
    cache = RevocationCache(NS)
    cache.set_store_time(store.now() - timedelta(days=3))
    (first,) = revoke(store, "t")
    cache.apply([first], cache.now())

    applied = cache.apply(take_back(store, first), cache.now())

    assert applied.expired == ("t",)
    assert "t" not in cache


def test_g31_with_keys_an_undo_is_signed_and_workers_verify_it(store: RevokeStore) -> None:
    (first,) = revoke(store, "t", keys=OPS)
    (ended,) = take_back(store, first, keys=OPS)

    judged = proven(ended, WORKERS, store.now())
    assert judged.is_expired(store.now())
    records = list(store.records_since(NS, 0, [undo.UNDO]))
    (lifted,) = undo.lifted(records, NS, WORKERS)
    assert (lifted.task_id, lifted.version) == ("t", records[0].version)
    assert lifted.version > ended.version
    assert undo.lifted(records, "other", WORKERS) == []

    (again,) = revoke(store, "t", keys=OPS)
    assert not proven(again, WORKERS, store.now()).is_expired(store.now())


def test_g31_with_keys_an_undo_that_nobody_may_sign_lifts_nothing(store: RevokeStore) -> None:
    (first,) = revoke(store, "t", keys=OPS)
    with pytest.raises(Untrusted):
        take_back(store, first, keys=VIEWER)
    forged = RecordDraft(undo.UNDO, "t", {"undoes": first.version, "reason": None, "requested_by": "eve"})
    store.change(NS, Change([], [Removal("t", first.version)], [forged]))

    (record,) = store.records_since(NS, 0, [undo.UNDO])
    assert undo.lifted([record], NS, WORKERS) == []
    (ended,) = [one for one in store.since(NS, 0) if one.task_id == "t"]
    with pytest.raises(Untrusted):
        proven(ended, WORKERS, store.now())


def test_g31_all_are_undone_or_none(store: RevokeStore) -> None:
    first, second = revoke(store, "a", "b")
    take_back(store, second)

    with pytest.raises(RecordConflict):
        take_back(store, first, second)

    assert store.get(NS, "a") == first
    assert len(list(store.records_since(NS, 0, [undo.UNDO]))) == 1


def test_g31_what_no_worker_understands_lifts_nothing(store: RevokeStore) -> None:
    bodies: list[dict[str, object]] = [{}, {"undoes": "x"}, {"undoes": -1}, {"undoes": 1, "reason": 7}]
    drafts = [RecordDraft(undo.UNDO, f"t{number}", body) for number, body in enumerate(bodies)]
    store.change(NS, Change(records=drafts))

    assert undo.lifted(store.records_since(NS, 0), NS, NO_KEYS.keyring) == []
