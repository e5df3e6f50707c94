"""The roster's clock between two looks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest

from stem_kombu import timeouts
from stem_kombu.control.client.roster import RosterClock

NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


@dataclass
class TwoClocks:
    """A wall clock and a monotonic one that a test moves apart."""

    wall: float = 1e9
    steady: float = 50.0

    def now(self) -> float:
        return self.wall

    def utcnow(self) -> datetime:
        return datetime.fromtimestamp(self.wall, timezone.utc)

    def monotonic(self) -> float:
        return self.steady

    def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_it_goes_on_from_the_last_reading_whatever_the_wall_clock_shows() -> None:
    clock = TwoClocks()
    roster = RosterClock(clock)
    assert roster.now() is None
    roster.read(NOON)
    clock.sleep(3)
    assert roster.now() == NOON + timedelta(seconds=3)


@pytest.mark.parametrize(
    ("wall", "steady"),
    [(timeouts.ROSTER_CLOCK_RELIANCE + 0.1, timeouts.ROSTER_CLOCK_RELIANCE + 0.1), (3600, 1), (-60, 1)],
)
def test_it_is_not_relied_on_after_a_while_a_suspension_or_a_step(wall: float, steady: float) -> None:
    clock = TwoClocks()
    roster = RosterClock(clock)
    roster.read(NOON)
    clock.wall += wall
    clock.steady += steady
    assert roster.now() is None


def test_where_nobody_can_be_asked_an_old_reading_still_counts() -> None:
    clock = TwoClocks()
    roster = RosterClock(clock)
    roster.read(NOON)
    clock.sleep(86_400)
    assert roster.now() is None
    assert roster.now(longest=float("inf")) == NOON + timedelta(days=1)
