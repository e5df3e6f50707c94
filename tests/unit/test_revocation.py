"""The revocation and its merge rule, and what stores do with a batch."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu import clock, fields
from stem_kombu.clock import SYSTEM, epoch_us, from_epoch_us
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError
from stem_kombu.revocation import Revocation, merge
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.stores.batch import LONGEST_LIFE, folded, life_us, merged, next_version

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
HELD = Revocation("shop", "t", 7, NOW, terminate=True, reason="old", requested_by="ann")

spans = st.none() | st.floats(1e-6, LONGEST_LIFE)
texts = st.none() | st.sampled_from(["", "r1", "r2"])
drafts = st.builds(
    Draft, task_id=st.sampled_from("abc"), terminate=st.booleans(), reason=texts, requested_by=texts, expires_in=spans
)
records = st.builds(
    Revocation,
    namespace=st.just("shop"),
    task_id=st.just("a"),
    version=st.integers(1, 100),
    issued_at=st.just(NOW),
    terminate=st.booleans(),
    reason=texts,
    requested_by=texts,
    expires_at=st.none() | st.timedeltas(timedelta(-1), timedelta(1)).map(NOW.__add__),
)


def merged_with(held: Revocation | None, draft: Draft) -> Revocation:
    return merge(held, draft, namespace="shop", version=8, now=NOW)


def test_g4_terminate_once_asked_for_stays_asked_for() -> None:
    assert merged_with(HELD, Draft("t")).terminate


def test_newer_words_replace_older_ones_and_missing_words_do_not() -> None:
    assert merged_with(HELD, Draft("t", reason="new")).reason == "new"
    assert merged_with(HELD, Draft("t")).reason == "old"
    assert merged_with(HELD, Draft("t", requested_by="bob")).requested_by == "bob"


@pytest.mark.parametrize("expires_at", [NOW, NOW - timedelta(seconds=1)])
def test_an_expired_record_counts_as_absent(expires_at: datetime) -> None:
    held = Revocation("shop", "t", 7, NOW, terminate=True, reason="old", expires_at=expires_at)

    assert merged_with(held, Draft("t")) == Revocation("shop", "t", 8, NOW)


@given(held=st.none() | records, first=drafts, second=drafts)
def test_merging_is_never_shorter_and_never_milder_than_what_went_in(
    held: Revocation | None, first: Draft, second: Draft
) -> None:
    one = merged_with(held, first)
    two = merged_with(one, second)

    assert two.terminate or not one.terminate
    assert two.expires_at is None or (one.expires_at is not None and two.expires_at >= one.expires_at)


@given(held=st.none() | records, batch=st.lists(drafts, min_size=1, max_size=6))
def test_a_folded_batch_merges_as_its_drafts_would_one_by_one(held: Revocation | None, batch: list[Draft]) -> None:
    one_by_one: dict[str, Revocation] = {} if held is None else {"a": held}
    for draft in batch:
        one_by_one[draft.task_id] = merged_with(one_by_one.get(draft.task_id), draft)

    distinct = folded(batch)

    start = {} if held is None else {"a": held}
    assert [draft.task_id for draft in distinct] == list(dict.fromkeys(draft.task_id for draft in batch))
    assert [merged_with(start.get(draft.task_id), draft) for draft in distinct] == [
        one_by_one[draft.task_id] for draft in distinct
    ]


@given(record=records)
def test_the_json_form_gives_the_record_back(record: Revocation) -> None:
    assert Revocation.from_record(record.to_record()) == record


@given(moment=st.datetimes(timezones=st.just(timezone.utc)))
def test_whole_microseconds_give_the_time_back(moment: datetime) -> None:
    assert from_epoch_us(epoch_us(moment)) == moment


@given(span=st.floats(1e-6, LONGEST_LIFE))
def test_a_life_in_microseconds_is_what_the_merge_makes_of_it(span: float) -> None:
    life = life_us(span)

    assert life is not None
    assert NOW + timedelta(microseconds=life) == merged_with(None, Draft("t", expires_in=span)).expires_at


@pytest.mark.parametrize("life", [0.0, -1.0, 1e-7, float("nan"), float("inf"), LONGEST_LIFE * 1.01])
def test_a_life_that_is_none_is_refused(life: float) -> None:
    with pytest.raises(ConfigurationError, match="'t'") as refused:
        folded([Draft("t", expires_in=life)])

    assert "100 years" in (refused.value.hint or "")


def test_versions_follow_the_clock_and_never_go_back_with_it() -> None:
    ahead = epoch_us(NOW) + 10**9

    assert next_version(0, NOW) == epoch_us(NOW) + 1
    assert next_version(5, NOW) == epoch_us(NOW) + 1
    assert next_version(ahead, NOW) == ahead + 1


def test_a_batch_is_numbered_in_order() -> None:
    first, second = merged([Draft("t"), Draft("u")], {"t": HELD}, namespace="shop", highest=10**17, now=NOW)

    assert (first.version, second.version) == (10**17 + 1, 10**17 + 2)
    assert (first.terminate, second.terminate) == (True, False)


@pytest.mark.parametrize(
    "record",
    [
        {"version": "7"},
        {"version": True},
        {"version": -1},
        {"task_id": ""},
        {"task_id": None},
        {"issued_at": "yesterday"},
        {"issued_at": "2026-01-31T12:00:00"},
        {"terminate": 1},
        {"reason": 7},
        {"expires_at": 7},
    ],
)
def test_a_json_form_with_a_field_of_another_kind_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Revocation.from_record({**HELD.to_record(), **record})


def test_the_times_of_a_batch_are_written_and_read_once() -> None:
    issued = SYSTEM.utcnow()
    batch = [
        Revocation("shop", f"task-{number}", number + 1, issued, False, None, "ann", issued + timedelta(hours=1))
        for number in range(100)
    ]
    before = clock.repeated_isoformat.cache_info(), fields._moment_again.cache_info()

    written = [record.to_record() for record in batch]

    assert [Revocation.from_record(record) for record in written] == batch
    after = clock.repeated_isoformat.cache_info(), fields._moment_again.cache_info()
    assert [now.misses - earlier.misses for now, earlier in zip(after, before, strict=True)] == [2, 2]
    for wrong in (None, 5, ["2026"], "no time"):
        with pytest.raises(FieldError, match="issued_at"):
            Revocation.from_record({**written[0], "issued_at": wrong})
