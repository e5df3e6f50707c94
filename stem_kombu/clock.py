"""The only reader of time, so that tests can own it.

Wall times are aware datetimes in UTC and are meant for people and records; monotonic seconds are meant for deadlines.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """What Stem asks of time."""

    def now(self) -> float:
        """Wall time in seconds since the epoch."""

    def utcnow(self) -> datetime:
        """The same instant as an aware UTC datetime."""

    def monotonic(self) -> float:
        """Seconds that never go backwards; comparable only within one process."""

    def sleep(self, seconds: float) -> None:
        """Give the processor away for about that long."""


class SystemClock:
    """The machine's clock."""

    now = staticmethod(time.time)

    def utcnow(self) -> datetime:
        return datetime.now(timezone.utc)

    # Asked some thirty times for each task: no call of Python around the one of C.
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


SYSTEM = SystemClock()

#: The bare function, for the one caller where an attribute look-up on an object is measurable: a task's checkpoint.
monotonic = time.monotonic


def from_epoch(seconds: float) -> datetime:
    """An aware UTC datetime for seconds since the epoch."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def isoformat(moment: datetime) -> str:
    """``2026-01-31T12:00:00.000000Z``: UTC, microseconds, one spelling everywhere so that text sorts as time does."""
    # Not strftime: its %Y has no leading zeros on some platforms.
    utc = moment if moment.tzinfo is timezone.utc else moment.astimezone(timezone.utc)
    return f"{utc.isoformat(timespec='microseconds')[:-6]}Z"  # without +00:00


#: The same for times that repeat, as all revocations of a batch have the same two: each is written once.
repeated_isoformat = lru_cache(maxsize=64)(isoformat)


def parse_isoformat(text: str, *, zone: timezone | None = None) -> datetime:
    """The aware UTC datetime that :func:`isoformat` wrote; other ISO 8601 spellings are read as well.

    A time without an offset is in ``zone``. Raises ``ValueError`` for text that is no time, has no offset where no zone was
    given, or is in no year from 1 to 9999 in UTC.
    """
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    if moment.tzinfo is None:
        if zone is None:
            raise ValueError(f"time {text!r} has no offset from UTC")
        moment = moment.replace(tzinfo=zone)
    if moment.tzinfo is timezone.utc:
        return moment
    try:
        return moment.astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(f"time {text!r} is beyond the calendar in UTC") from error


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def epoch_us(moment: datetime) -> int:
    """Whole microseconds since the epoch: what stores keep, exact where a float of seconds is not."""
    span = moment - _EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def from_epoch_us(microseconds: object) -> datetime:
    """The aware UTC datetime of :func:`epoch_us`; raises ``OverflowError`` outside of the years 1 to 9999, and
    ``TypeError`` for what is no whole number, as a store may hold."""
    if type(microseconds) is not int:
        raise TypeError(f"{str(microseconds)[:40]!r} is no whole number of microseconds")
    return _EPOCH + timedelta(microseconds=microseconds)
