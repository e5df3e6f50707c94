"""A call of a task: what is checked before anything is sent."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, cast

import pytest

from stem_kombu.calls import message_of
from stem_kombu.context import Retry, TaskContext
from stem_kombu.errors import ConfigurationError
from stem_kombu.task import MOST_RETRIES, TaskMessage, TaskOptions

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
NO_SECONDS: list[Any] = [
    timedelta(minutes=5),
    "5",
    b"5",
    True,
    Decimal(5),
    [5],
    float("inf"),
    float("nan"),
    1e12,
    10**400,
    10**5000,
]


def call(**options: Any) -> TaskMessage:
    return message_of("tasks.render", (), None, "default", now=NOW, **options)


def shown_by(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:12]}" if not isinstance(value, int) else f"int {value.bit_length()}"


@pytest.mark.parametrize("name", ["countdown", "expires", "soft_time_limit", "time_limit"])
@pytest.mark.parametrize("value", NO_SECONDS, ids=shown_by)
def test_what_is_no_number_of_seconds_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} of task 'tasks.render': "):
        call(**{name: value})


@pytest.mark.parametrize("value", NO_SECONDS, ids=shown_by)
def test_a_retry_refuses_what_is_no_number_of_seconds(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^countdown of a retry: "):
        Retry("busy", countdown=value)
    with pytest.raises(ConfigurationError, match=r"^countdown of a retry: "):
        TaskContext.retry(cast(TaskContext, None), "busy", countdown=value)


@pytest.mark.parametrize(
    "name", ["retry_backoff", "retry_backoff_max", "retry_jitter", "soft_time_limit", "time_limit", "visibility"]
)
@pytest.mark.parametrize("value", NO_SECONDS, ids=shown_by)
def test_a_task_is_not_defined_with_what_is_no_number_of_seconds(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        TaskOptions(**{name: value})


@pytest.mark.parametrize("value", [-1, 1.0, True, "3", float("inf")], ids=repr)
def test_retries_are_a_whole_number(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_retries"):
        TaskOptions(max_retries=value)
    with pytest.raises(ConfigurationError, match=r"^max_retries of task 'tasks.render'"):
        call(max_retries=value)


def test_more_retries_than_a_message_counts_are_as_many_as_it_counts() -> None:
    assert call(max_retries=10**400).max_retries == MOST_RETRIES - 1


def test_negative_countdowns_are_refused_and_past_expiries_are_not() -> None:
    with pytest.raises(ConfigurationError, match="must not be negative"):
        call(countdown=-0.5)
    assert call(expires=-1).expires_at == NOW - timedelta(seconds=1)


def test_a_time_without_a_zone_is_utc() -> None:
    naive = datetime(2030, 7, 1, 12)  # noqa: DTZ001 - what is tested
    message = call(eta=naive, expires=naive)
    assert message.eta == message.expires_at == datetime(2030, 7, 1, 12, tzinfo=timezone.utc)


def test_a_time_of_another_zone_is_sent_as_utc() -> None:
    message = call(eta=datetime(2030, 7, 1, 12, tzinfo=timezone(timedelta(hours=2))))
    assert message.eta is not None and message.eta.isoformat() == "2030-07-01T10:00:00+00:00"


class Broken(tzinfo):
    """A zone that can't tell its offset."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        raise ValueError("no such zone")


@pytest.mark.parametrize("name", ["eta", "expires"])
@pytest.mark.parametrize(
    "moment",
    [
        "tomorrow",
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        NOW.replace(tzinfo=Broken()),
        NOW.date(),
    ],
    ids=["text", "after the calendar", "before the calendar", "a zone that fails", "a date"],
)
def test_what_is_no_time_is_refused_by_its_name(name: str, moment: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} of task 'tasks.render': "):
        call(**{name: moment})
