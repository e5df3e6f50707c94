"""One grammar of durations for flags, variables and keywords."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.durations import checked_duration, format_duration, parse_duration
from stem_kombu.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("7d", 604800.0),
        ("3", 3.0),
        (".5", 0.5),
        (" 5s ", 5.0),
    ],
)
def test_the_accepted_forms_are_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5 parsecs", "-1s", "1h30m", "nan", "inf", "1e3", "٣s", "5ss", "s", "0x10", "5 s", "5S"]
)
def test_anything_else_is_an_error_that_names_the_flag_the_value_and_the_accepted_forms(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_duration(text, name="--timeout")
    assert "--timeout" in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "250ms" in (caught.value.hint or "")


def test_zero_is_refused_unless_it_makes_sense() -> None:
    with pytest.raises(ConfigurationError, match="more than zero"):
        parse_duration("0s")
    assert parse_duration("0s", allow_zero=True) == 0.0


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e12])
def test_numbers_given_as_keywords_are_held_to_the_same_bounds(seconds: float) -> None:
    with pytest.raises(ConfigurationError):
        checked_duration(seconds, name="timeout")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250ms"),
        (5.0, "5s"),
        (4.25, "4.2s"),
        (90.0, "1m30s"),
        (7500.0, "2h05m"),
        (270000.0, "3d03h"),
        (-5.0, "-5s"),
    ],
)
def test_people_read_a_short_form(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(min_value=0.001, max_value=1e9, allow_nan=False))
def test_every_span_has_a_short_form_without_an_exponent(seconds: float) -> None:
    assert "e" not in format_duration(seconds)
