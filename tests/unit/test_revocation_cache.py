"""The cache that a worker asks before every task."""

from __future__ import annotations

import random
import threading
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.clock import SystemClock
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied, RevocationCache

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
OVER = NOW - HOUR


class Clock(SystemClock):
    """Stands until it is moved; ``wall`` and ``spent`` are apart, as on a machine whose clock is wrong."""

    def __init__(self) -> None:
        self.wall = NOW.timestamp()
        self.spent = 1000.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.spent


def record(task_id: str, version: int, *, expires_at: datetime | None = None, **fields: object) -> Revocation:
    return Revocation("shop", task_id, version, NOW, expires_at=expires_at, **fields)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> RevocationCache:
    return RevocationCache("shop", clock=clock)


def held(cache: RevocationCache) -> list[Revocation]:
    return cache.newest(1000)[0]


def test_it_holds_what_was_applied(cache: RevocationCache) -> None:
    full = record("t1", 7, terminate=True, reason="bad deploy", requested_by="ann", expires_at=NOW + HOUR)

    assert cache.apply([full, record("t2", 8)], NOW) == Applied(applied=("t1", "t2"))

    assert cache.get("t1") == full
    assert cache.get("t2") == record("t2", 8)
    assert cache.get("t3") is None
    assert [task_id in cache for task_id in ("t1", "t2", "t3")] == [True, True, False]
    assert len(cache) == 2


def test_the_higher_version_wins_in_any_order(cache: RevocationCache) -> None:
    cache.apply([record("t", 7, reason="new")], NOW)

    assert cache.apply([record("t", 6, reason="old"), record("t", 7)], NOW) == Applied(stale=("t", "t"))
    assert cache.apply([record("t", 8, reason="newest")], NOW) == Applied(applied=("t",))

    assert held(cache) == [record("t", 8, reason="newest")]


def test_a_task_that_comes_twice_in_one_batch_is_listed_once(cache: RevocationCache) -> None:
    assert cache.apply([record("t", 1), record("t", 3), record("t", 2)], NOW) == Applied(("t",), ("t",))

    assert held(cache) == [record("t", 3)]


def test_a_record_of_another_namespace_is_not_let_in(cache: RevocationCache) -> None:
    stranger = Revocation("other", "t", 7, NOW)

    assert cache.apply([stranger], NOW) == Applied(stale=("t",))
    assert "t" not in cache


def test_a_newer_expired_record_undoes_the_older_one(cache: RevocationCache) -> None:
    cache.apply([record("t", 7)], NOW)

    assert cache.apply([record("t", 8, expires_at=NOW)], NOW) == Applied(expired=("t",))

    assert "t" not in cache
    assert len(cache) == 0


def test_an_undone_record_does_not_come_back_by_a_late_broadcast(cache: RevocationCache) -> None:
    cache.apply([record("t", 8, expires_at=OVER)], NOW)

    assert cache.apply([record("t", 7)], NOW) == Applied(stale=("t",))
    assert cache.apply([record("t", 9)], NOW) == Applied(applied=("t",))

    assert "t" in cache


def test_an_older_expired_record_undoes_nothing(cache: RevocationCache) -> None:
    cache.apply([record("t", 8)], NOW)

    assert cache.apply([record("t", 7, expires_at=OVER)], NOW) == Applied(stale=("t",))

    assert "t" in cache


def test_a_task_that_is_revoked_and_undone_in_one_batch_is_not_revoked(cache: RevocationCache) -> None:
    assert cache.apply([record("t", 7), record("t", 8, expires_at=OVER)], NOW) == Applied(expired=("t",))

    assert "t" not in cache


def test_g2_the_revision_is_moved_by_syncs_alone(cache: RevocationCache) -> None:
    cache.apply([record("t", 70)], NOW)
    assert (cache.revision, cache.highest) == (0, 70)

    cache.advance(60)
    cache.advance(50)
    cache.apply([record("earlier", 65)], NOW)

    assert (cache.revision, cache.highest) == (60, 70)

    cache.advance(80)

    assert cache.highest == 80


def test_g4_expiry_is_judged_by_the_clock_of_the_store(cache: RevocationCache, clock: Clock) -> None:
    cache.apply([record("t", 1, expires_at=NOW + HOUR)], NOW)
    clock.wall += 2 * 3600  # this machine's clock is two hours fast
    cache.set_store_time(NOW)
    assert "t" in cache
    assert cache.now() == NOW

    clock.spent += 3599
    assert "t" in cache
    assert cache.get("t") is not None

    clock.spent += 1
    assert "t" not in cache
    assert cache.get("t") is None
    assert cache.newest(10) == ([], False)


def test_before_the_store_was_heard_this_machines_clock_is_used(cache: RevocationCache, clock: Clock) -> None:
    cache.apply([record("t", 1, expires_at=NOW + HOUR)], NOW)
    assert "t" in cache

    clock.wall += 3600
    assert "t" not in cache


def test_g5_pruning_drops_what_has_expired_and_nothing_else(cache: RevocationCache) -> None:
    cache.apply([record(f"t{hours}", hours, expires_at=NOW + hours * HOUR) for hours in range(1, 6)], NOW)
    cache.apply([record("ever", 6)], NOW)

    assert cache.prune(NOW) == 0
    assert cache.prune(NOW + 2 * HOUR) == 2
    assert cache.prune(NOW + 2 * HOUR) == 0
    assert cache.prune(NOW + 5 * HOUR) == 3

    assert held(cache) == [record("ever", 6)]


def test_a_record_that_was_prolonged_is_not_pruned(cache: RevocationCache) -> None:
    cache.apply([record("t", 1, expires_at=NOW + HOUR)], NOW)
    cache.apply([record("t", 2)], NOW)

    assert cache.prune(NOW + 2 * HOUR) == 0
    assert "t" in cache


def test_the_newest_come_first_and_say_whether_there_are_more(cache: RevocationCache) -> None:
    cache.apply([record("t5", 5), record("t2", 2), record("t9", 9)], NOW)
    cache.apply([record("t7", 7), record("t1", 1)], NOW)  # two broadcasts that overtook each other

    assert cache.newest(3) == ([record("t9", 9), record("t7", 7), record("t5", 5)], True)
    assert [found.version for found in cache.newest(5)[0]] == [9, 7, 5, 2, 1]
    assert cache.newest(5)[1] is False
    assert cache.newest(0) == ([], True)


def test_words_are_kept_once_and_forgotten_with_their_last_record(cache: RevocationCache) -> None:
    for version in range(1, 200):
        cache.apply([record("t", version, reason=f"reason {version}", requested_by="ann")], NOW)
    cache.apply([record("u", 200, requested_by="ann")], NOW)
    cache.apply([record("t", 201, expires_at=NOW), record("u", 202, reason="r", expires_at=NOW + HOUR)], NOW)

    assert held(cache) == [record("u", 202, reason="r", expires_at=NOW + HOUR)]
    assert cache._texts._numbers.keys() == {"r"}
    assert len(cache._texts.by_number) < 6
    cache.prune(NOW + HOUR)
    assert not cache._texts._numbers


def test_an_undone_task_is_remembered_among_ten_thousand(cache: RevocationCache) -> None:
    cache.apply([record(f"t{number}", number, expires_at=OVER) for number in range(1, 25_001)], NOW)

    assert len(cache) == 0
    assert len(cache._undone) == 10_000
    assert cache.apply([record("t25000", 1)], NOW) == Applied(stale=("t25000",))


def test_a_stream_is_taken_as_it_comes(cache: RevocationCache) -> None:
    told = cache.apply((record(f"t{number}", number) for number in range(1, 5001)), NOW)

    assert len(told.applied) == len(cache) == 5000


batches = st.lists(
    st.lists(
        st.builds(
            record,
            task_id=st.sampled_from("abcdef"),
            version=st.integers(1, 40),
            expires_at=st.sampled_from([None, OVER, NOW + HOUR]),
            reason=st.sampled_from([None, "r1", "r2"]),
            terminate=st.booleans(),
        ),
        max_size=8,
    ),
    max_size=8,
)


@given(batches=batches)
def test_it_is_what_a_plain_dictionary_would_be(batches: list[list[Revocation]]) -> None:
    cache = RevocationCache("shop", clock=Clock())
    newest: dict[str, Revocation] = {}

    for batch in batches:
        told = cache.apply(batch, NOW)
        for found in batch:
            if found.task_id not in newest or found.version > newest[found.task_id].version:
                newest[found.task_id] = found
        live = {task_id: found for task_id, found in newest.items() if not found.is_expired(NOW)}
        versions = [found.version for found in held(cache)]
        assert versions == sorted(versions, reverse=True)
        assert {found.task_id: found for found in held(cache)} == live
        assert {task_id for task_id in "abcdef" if task_id in cache} == live.keys()
        assert {task_id: cache.get(task_id) for task_id in live} == live
        assert set(told.applied) <= live.keys()
    kept = {found.reason for found in newest.values() if not found.is_expired(NOW)} - {None}
    assert cache._texts._numbers.keys() == kept


def test_a_look_up_never_misses_a_record_that_is_being_moved(cache: RevocationCache) -> None:
    """Records that arrive out of order push newer ones out and in again; a reader must not see them gone."""
    cache.apply([record(f"fixed{number}", 10_000 + number) for number in range(50)], NOW)
    stop = threading.Event()
    missed: list[str] = []

    def look() -> None:
        while not stop.is_set():
            missed.extend(name for number in range(50) if (name := f"fixed{number}") not in cache)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    dice = random.Random(1)
    for version in range(1, 1500):
        cache.apply([record(f"t{dice.randint(1, 9)}", version)], NOW)
        cache.apply([record(f"fixed{version % 50}", 20_000 + version)], NOW)
    stop.set()
    for reader in readers:
        reader.join()

    assert missed == []
