"""The grid of a rate limit: what workers start together stays below it (G25)."""

from __future__ import annotations

import heapq
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError
from stem_kombu.rate import Rate, RateLimit
from stem_kombu.worker.pace import OWN, Pace, Share, is_elected, is_for_one


def starts(paces: list[tuple[Pace, Share]], until: float, jitter: list[float]) -> list[float]:
    """When workers with more to do than they may do start tasks; each look comes a little late."""
    late, order = iter(jitter * 100_000), count()
    looks = [(0.0, next(order), pace, share) for pace, share in paces]
    found = []
    while looks:
        now, _, pace, share = heapq.heappop(looks)
        if now > until:
            continue
        wait = pace.take(now, share)
        if wait == 0:
            found.append(now)
        heapq.heappush(looks, (now + wait + next(late), next(order), pace, share))
    return sorted(found)


def most_in_a_minute(found: list[float]) -> int:
    first = most = 0
    for last, at in enumerate(found):
        while found[first] <= at - 60.0:
            first += 1
        most = max(most, last - first + 1)
    return most


@given(
    tasks=st.integers(1, 600),
    seconds=st.sampled_from([1.0, 60.0, 3600.0]),
    workers=st.integers(1, 12),
    jitter=st.lists(st.floats(0.0001, 0.05), min_size=5, max_size=20),
)
def test_g25_the_shares_of_a_fleet_sum_to_at_most_a_tenth_more_than_its_limit(
    tasks: int, seconds: float, workers: int, jitter: list[float]
) -> None:
    rate = Rate(min(tasks, 20) if seconds == 1.0 else tasks, seconds)
    shares = [Share(index, workers) for index in range(workers)]
    if is_for_one(rate, workers):
        shares = [OWN]
    found = starts([(Pace(rate, 0.0), share) for share in shares], 200.0, jitter)
    limit = 60.0 / rate.interval
    assert most_in_a_minute(found) <= max(1.1 * limit, ceil_of(limit))
    # Nor is it less: who has enough to do uses the limit, but for what the looks come late.
    assert len(found) >= 200.0 / rate.interval * 0.8 - 1


def ceil_of(limit: float) -> int:
    return int(limit) + (limit > int(limit))


@given(tasks=st.integers(1, 100), workers=st.integers(1, 8))
def test_shares_are_equal(tasks: int, workers: int) -> None:
    rate = Rate(tasks, 1.0)
    counts = [len(starts([(Pace(rate, 0.0), Share(index, workers))], 20.0, [0.001])) for index in range(workers)]
    assert max(counts) - min(counts) <= 1 + 0.05 * max(counts)


def test_a_worker_that_starts_again_and_again_starts_no_more_than_its_slots() -> None:
    rate = Rate(1, 60.0)
    found = 0
    for second in range(600):  # a life of a second each
        found += Pace(rate, float(second)).take(second + 0.5, OWN) == 0
    assert found <= 1


def test_a_rest_is_not_made_up_for_by_a_burst() -> None:
    pace = Pace(Rate(10, 1.0), 0.0)
    assert pace.take(0.0, OWN) == 0
    found = sum(pace.take(3600.0 + step / 1000, OWN) == 0 for step in range(100))
    assert found <= 12  # one second's worth, and what came due meanwhile
    slow = Pace(Rate(6, 60.0), 0.0)
    assert slow.take(0.0, OWN) == 0
    assert [slow.take(3600.0 + second, OWN) == 0 for second in range(21)].count(True) <= 3


def test_a_clock_that_is_set_back_stops_nothing_for_long() -> None:
    pace = Pace(Rate(1, 1.0), 0.0)
    assert pace.take(5000.0, OWN) == 0
    assert pace.take(10.0, OWN) <= 1.0


def test_a_limit_below_one_a_worker_and_minute_is_one_workers() -> None:
    few, many = Rate(5, 60.0), Rate(100, 60.0)
    assert [is_elected(few, Share(index, 8)) for index in range(8)] == [True] + [False] * 7
    assert all(is_elected(many, Share(index, 8)) for index in range(8))
    assert is_elected(few, OWN)


@pytest.mark.parametrize(("text", "tasks", "seconds"), [("10/s", 10, 1), ("100/m", 100, 60), (" 5000/h ", 5000, 3600)])
def test_a_rate_is_read_and_written(text: str, tasks: int, seconds: float) -> None:
    rate = Rate.parse(text)
    assert (rate.tasks, rate.seconds, str(rate)) == (tasks, seconds, text.strip())
    assert RateLimit.of_value(RateLimit(rate, each=True).value()) == RateLimit(rate, each=True)
    assert str(RateLimit(rate, each=True)) == f"{text.strip()} each"


@pytest.mark.parametrize("text", ["", "5", "5/fortnight", "0/s", "-1/s", "1.5/s", "10/S", "٣/s", "10000000/s", "5/d"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no rate|no task|more than"):
        Rate.parse(text)


@pytest.mark.parametrize("value", [{}, {"tasks": 0, "seconds": 1}, {"tasks": 1, "seconds": 0}, {"tasks": True, "seconds": 1},
                                   {"tasks": 1, "seconds": float("nan")}, {"tasks": 1, "seconds": 1, "each": 1}])  # fmt: skip
def test_a_stored_limit_that_makes_no_sense_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(FieldError):
        RateLimit.of_value(value)
