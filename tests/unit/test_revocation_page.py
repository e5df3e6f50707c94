"""A page of revocations is what its records are, one by one, for its reader and for the cache that takes it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.clock import epoch_us
from stem_kombu.fields import FieldError
from stem_kombu.revocation import TASK_ID_LIMIT, TEXT_LIMIT, VERSION_LIMIT, Revocation
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.revocation_page import RevocationPage, from_records, ids_of, live, of_namespace, page_of, proofs_in

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
NOW_US = epoch_us(NOW)


def record(task_id: str, version: int, end: timedelta | None = None, reason: str | None = None) -> Revocation:
    return Revocation(
        "shop", task_id, version, NOW - HOUR, version % 2 == 0, reason, "ann", None if end is None else NOW + end
    )


def page(records: Sequence[Revocation]) -> RevocationPage | None:
    rows = [
        (
            one.task_id,
            one.version,
            epoch_us(one.issued_at),
            one.terminate,
            one.reason,
            one.requested_by,
            None if one.expires_at is None else epoch_us(one.expires_at),
        )
        for one in records
    ]
    return page_of("shop", list(zip(*rows, strict=True)))


RECORDS = [record("a", 1), record("b c", 2, HOUR, "why"), record("é", 5, -HOUR / 2), record("d", 9, -2 * HOUR, "")]


def test_it_is_the_sequence_of_its_records() -> None:
    made = page(RECORDS)

    assert made is not None
    assert list(made) == RECORDS
    assert (len(made), made[-1], made[1:3], list(ids_of(made))) == (4, RECORDS[3], RECORDS[1:3], ["a", "b c", "é", "d"])
    assert list(live(made, NOW)) == list(live(RECORDS, NOW)) == RECORDS[:2]
    assert list(live(made, NOW + 2 * HOUR)) == RECORDS[:1]
    assert page_of("shop", []) is None


def test_a_page_of_which_none_is_live_is_empty() -> None:
    made = page(RECORDS[2:])

    assert made is not None
    assert not live(made, NOW)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((0, value) for value in ("", " ", "a\n", "\ud800", "x" * (TASK_ID_LIMIT + 1), 5, None, b"a", ["a"])),
        *((1, value) for value in (0, 1, -3, VERSION_LIMIT, 2.0, "2", True, None)),
        *((2, value) for value in (-(2**62), 2**62, 2**80, 1.0, "1", None, True)),
        *((3, value) for value in (0, 1, None, "true")),
        *((at, value) for at in (4, 5) for value in (5, b"why", ["why"], {}, "a\0", "\udfff", "x" * (TEXT_LIMIT + 1))),
        *((6, value) for value in (2**63 - 1, -(2**62), 2**80, 1.0, "1", True)),
    ],
)
def test_g37_a_value_that_no_store_gives_makes_it_no_page(column: int, value: object) -> None:
    columns: list[list[object]] = [
        ["a", "b"], [1, 2], [NOW_US, NOW_US], [True, False], ["why", None], [None, "who"], [None, NOW_US],
    ]  # fmt: skip
    assert page_of("shop", columns) is not None

    columns[column][1] = value

    assert page_of("shop", columns) is None


@st.composite
def histories(draw: st.DrawFn) -> list[list[Revocation]]:
    """Pages as a store may give them one after the other, read again from an earlier version now and then."""
    pages, version = [], 0
    for _ in range(draw(st.integers(1, 5))):
        version = max(0, version - draw(st.sampled_from([0, 0, 0, 2, 9])))
        found = []
        for task_id in draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True)):
            version += draw(st.integers(1, 3))
            end = draw(st.sampled_from([None, None, HOUR, -HOUR / 2, -25 * HOUR]))
            found.append(record(task_id, version, end, draw(st.sampled_from([None, "why", "so"]))))
        pages.append(found)
    return pages


@given(histories(), st.lists(st.sampled_from(["keep", "restart", "prune", "proofs"]), min_size=5, max_size=5))
def test_g2_the_cache_holds_the_same_as_from_records(pages: list[list[Revocation]], between: list[str]) -> None:
    by_page, by_record = RevocationCache("shop"), RevocationCache("shop")
    for cache in (by_page, by_record):
        cache.set_store_time(NOW)
    for found, event in zip(pages, between, strict=False):
        made = page(found)
        assert made is not None
        assert by_page.apply(made, NOW) == by_record.apply(found, NOW)
        for cache in (by_page, by_record):
            if event == "restart":
                cache.restart()
            elif event == "prune":
                cache.prune(NOW + 2 * HOUR)
            elif event == "proofs":
                signed = Revocation("shop", "a", cache.highest + 1, NOW, proofs=("{}",))
                cache.apply([signed], NOW)
    assert by_page.newest(20) == by_record.newest(20)
    assert by_page.known("abcdefgh") == by_record.known("abcdefgh")
    assert (by_page.highest, by_page.undos()) == (by_record.highest, by_record.undos())
    assert {name for name in "abcdefgh" if name in by_page} == {name for name in "abcdefgh" if name in by_record}


def test_a_page_of_another_namespace_is_stale() -> None:
    made = page(RECORDS[:1])
    assert made is not None

    assert RevocationCache("other").apply(made, NOW).stale == ("a",)


def told(records: Sequence[Revocation]) -> list[dict[str, object]]:
    return [one.to_message() for one in records]


def test_what_a_command_tells_is_a_page_of_the_same_records() -> None:
    read = from_records(told(RECORDS))

    assert isinstance(read, RevocationPage)
    assert list(read) == RECORDS
    assert of_namespace(read, "shop") is read
    assert list(of_namespace(read, "another")) == list(proofs_in(read)) == []


@pytest.mark.parametrize(
    "records",
    [
        [],
        RECORDS[::-1],
        [RECORDS[0], replace(RECORDS[1], namespace="another")],
        [RECORDS[0], replace(RECORDS[1], proofs=("p",))],
    ],
    ids=["none", "versions that fall", "two namespaces", "a proof"],
)
def test_records_that_make_no_page_are_read_one_by_one(records: list[Revocation]) -> None:
    read = from_records(told(records))

    assert read == tuple(records)
    assert list(of_namespace(read, "shop")) == [one for one in records if one.namespace == "shop"]
    assert list(proofs_in(read)) == [proof for one in records for proof in one.proofs]


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("namespace", "", "namespace is empty"),
        ("task_id", "a\nb", "control character"),
        ("version", True, "version True is not a whole number"),
        ("issued_at", None, "issued_at null is not text|issued_at None is not text"),
        ("expires_at", "soon", "expires_at 'soon' is not an ISO 8601 time"),
        ("terminate", 1, "terminate 1 is not true or false"),
        ("reason", ["why"], "reason"),
        ("requested_by", "\0", "requested_by"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_by_its_field(field: str, value: object, complaint: str) -> None:
    records: list[dict[str, object]] = told(RECORDS)
    records[2][field] = value

    with pytest.raises(FieldError, match=complaint):
        from_records(records)
    with pytest.raises(FieldError, match="a revocation is str, not an object"):
        from_records([*records[:2], "eight ch"])
