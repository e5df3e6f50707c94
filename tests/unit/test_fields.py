"""Fields that another process wrote: what each reader accepts, and what it says of the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.clock import isoformat
from stem_kombu.fields import (
    CONTROL_CHARACTER,
    LONGEST_TEXT,
    UNSTORABLE,
    FieldError,
    any_text,
    flag,
    items,
    json_value,
    mapping,
    moment,
    number,
    optional,
    shown,
    text,
    whole,
)

READERS: list[Callable[[object, str], object]] = [text, any_text, whole, number, flag, mapping, items, moment]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("reader", READERS)
@given(value=anything)
def test_a_reader_returns_the_value_or_names_the_field(reader: Callable[[object, str], object], value: object) -> None:
    found, refusal = None, ""
    try:
        found = reader(value, "pid")
    except FieldError as error:
        refusal = str(error)

    if refusal:
        assert refusal.startswith("pid ")
        assert len(refusal) < 250
    else:
        assert found == value or isinstance(found, datetime)


@pytest.mark.parametrize(
    "value",
    ["", "x" * (LONGEST_TEXT + 1), "\ud800", "a\udfffb", 7, None, b"x", ["x"]],
    ids=repr,
)
def test_text_has_a_length_and_no_halves_of_surrogate_pairs(value: object) -> None:
    with pytest.raises(FieldError, match=r"^name "):
        text(value, "name")


def test_text_is_as_long_and_as_plain_as_the_caller_says() -> None:
    assert text("", "hostname", least=0) == ""
    assert text("x" * 600, "reason", most=600) == "x" * 600
    for value, without in (("a\0b", UNSTORABLE), ("a\nb", CONTROL_CHARACTER), ("a\x7fb", CONTROL_CHARACTER)):
        assert text(value, "reason") == value
        with pytest.raises(FieldError, match="invalid character"):
            text(value, "reason", without=without)


@pytest.mark.parametrize(
    "value", [-1, 2**31, 10**5000, True, 1.0, "1", None, math.nan], ids=lambda value: repr(type(value))
)
def test_a_whole_number_has_a_bound_and_is_no_truth_value(value: object) -> None:
    assert whole(2**31 - 1, "part", below=2**31) == 2**31 - 1
    with pytest.raises(FieldError, match=r"^part .* is not a whole number from 0 to 2147483647$"):
        whole(value, "part", below=2**31)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -0.1, 3600.1, 10**400, False, "1"], ids=lambda value: str(value)[:9]
)
def test_a_number_is_finite_and_in_its_range(value: object) -> None:
    assert number(3600, "settle_s", most=3600) == 3600.0
    with pytest.raises(FieldError, match=r"^settle_s .* is not a number from 0 to 3600$"):
        number(value, "settle_s", most=3600)


@pytest.mark.parametrize("value", [0, 1, None, "true"])
def test_nothing_else_stands_for_true_or_false(value: object) -> None:
    with pytest.raises(FieldError, match="is not true or false"):
        flag(value, "terminate")


def test_lists_and_objects_have_a_bound() -> None:
    with pytest.raises(FieldError, match="3 members, more than 2"):
        items([1, 2, 3], "queues", most=2)
    with pytest.raises(FieldError, match="3 members, more than 2"):
        mapping({"a": 1, "b": 2, "c": 3}, "totals", most=2)


@given(st.datetimes(timezones=st.just(timezone.utc)))
def test_a_time_survives_its_json_form(value: datetime) -> None:
    assert moment(isoformat(value), "issued_at") == value


def test_a_time_without_an_offset_needs_a_zone() -> None:
    with pytest.raises(FieldError, match="with an offset"):
        moment("2026-01-31T12:00:00", "eta")
    assert moment("2026-01-31T12:00:00", "eta", zone=timezone.utc) == datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
    with pytest.raises(FieldError, match="is not an ISO 8601 time"):
        moment("0001-01-01T00:00:00+23:59", "eta", zone=timezone.utc)


def test_an_absent_field_is_none_and_a_present_one_is_read() -> None:
    assert optional(text, None, "reason", most=3) is None
    assert optional(text, "why", "reason", most=3) == "why"
    with pytest.raises(FieldError):
        optional(text, "long", "reason", most=3)


@pytest.mark.parametrize(
    "document", ["NaN", "[Infinity]", "1e999", "{", "", "[" * 100_000, "1" * 10_000, b"\xff", "\ufeff1"]
)
def test_what_is_no_json_document_is_refused(document: str | bytes) -> None:
    with pytest.raises(FieldError):
        json_value(document)


@given(anything)
def test_every_json_document_is_read(value: object) -> None:
    try:
        document = json.dumps(value, allow_nan=False)
    except ValueError:
        return
    assert json_value(document) == value


def test_a_value_is_shown_short_whatever_it_is() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert shown("x" * 500) == "'" + "x" * 78 + "…"
    assert shown(10**5000) == "a int"
    assert shown(Broken()) == "a Broken"
