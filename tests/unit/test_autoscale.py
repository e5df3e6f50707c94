"""How many children autoscale makes of what it sees (G25)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.autoscale import MOST_CHILDREN, Autoscale, Autoscaler, Look
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError

#: Seconds between two looks of a worker.
EVERY = 2.0


def run(scaler: Autoscaler, looks: list[tuple[int, float | None]], children: int) -> list[int]:
    """How many children there are after each look; a look is the tasks that could run at once, and the backlog."""
    found = []
    for number, (tasks, backlog) in enumerate(looks):
        children = scaler.decide(Look(children, min(tasks, children), backlog), number * EVERY)
        found.append(children)
    return found


def test_a_range_is_read_and_kept() -> None:
    asked = Autoscale.parse("1,8", backlog=4, up_after=0.5, down_after=60.0)
    assert asked.value() == {"min": 1, "max": 8, "backlog_per_child": 4, "up_after": 0.5, "down_after": 60}
    assert Autoscale.of_value(asked.value()) == asked
    assert str(asked) == "1 to 8"


@pytest.mark.parametrize("text", ["", "8", "1,", "1;8", "-1,8", "1,2,3", "a,b", "1, 8", "off", "1,99999"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no range of children") as caught:
        Autoscale.parse(text)
    assert "MIN,MAX" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["0,8", "8,1", "1,1025"])
def test_a_range_that_no_worker_can_keep_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no range"):
        Autoscale.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        {"min": 0}, {"min": 9}, {"max": None}, {"max": MOST_CHILDREN + 1}, {"max": True}, {"max": "8"},
        {"backlog_per_child": 0}, {"backlog_per_child": 1.5}, {"up_after": -1}, {"down_after": 1e9},
        {"up_after": float("nan")},
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_names_its_field(change: dict[str, object]) -> None:
    with pytest.raises(FieldError):
        Autoscale.of_value({**Autoscale(1, 8).value(), **change})


def test_a_backlog_starts_children_once_it_has_lasted_twice_as_many_at_a_time() -> None:
    scaler = Autoscaler(Autoscale(1, 8, up_after=5.0))
    assert run(scaler, [(100, 50.0)] * 13, 1) == [1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 8, 8]


def test_a_backlog_that_does_not_last_starts_none() -> None:
    scaler = Autoscaler(Autoscale(1, 8, up_after=5.0))
    assert set(run(scaler, [(100, 50.0), (1, 0.0)] * 20, 1)) == {1}


def test_as_many_are_started_as_the_backlog_asks_for() -> None:
    assert run(Autoscaler(Autoscale(1, 8, backlog=10, up_after=2.0)), [(4, 42.0)] * 3, 4) == [4, 5, 5]
    # ``backlog`` for each child that there is: one more.
    assert run(Autoscaler(Autoscale(1, 8, up_after=2.0)), [(4, 4.0)] * 2, 4) == [4, 5]
    assert run(Autoscaler(Autoscale(1, 8, up_after=2.0)), [(4, 3.0)] * 3, 4) == [4, 4, 4]


def test_children_that_no_look_has_asked_for_go() -> None:
    scaler = Autoscaler(Autoscale(1, 8, down_after=30.0))
    looks = [(2, 0.0)] * 10 + [(3, 0.0)] + [(2, 0.0)] * 30
    found = run(scaler, looks, 8)
    assert found[:15] == [8] * 15
    assert found[15] == 3
    assert found[-1] == 2


def test_where_nothing_is_counted_one_is_kept_free_while_there_may_be_more() -> None:
    scaler = Autoscaler(Autoscale(1, 8, up_after=4.0, down_after=6.0))
    found = run(scaler, [(3, None)] * 40, 1)
    assert found[-20:] == [4] * 20
    assert run(Autoscaler(Autoscale(1, 8, down_after=6.0)), [(0, None)] * 10, 4)[-1] == 1


def test_the_range_counts_at_the_first_look() -> None:
    assert run(Autoscaler(Autoscale(3, 8)), [(0, 0.0)], 1) == [3]
    assert run(Autoscaler(Autoscale(1, 2)), [(5, 9.0)], 8) == [2]


@given(
    st.integers(1, 20), st.integers(0, 20), st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 40), st.none() | st.floats(0, 1000)), min_size=1, max_size=60), st.integers(1, 40),
)  # fmt: skip
def test_g25_the_range_is_kept_and_busy_children_stay(
    least: int, more: int, backlog: int, looks: list[tuple[int, float | None]], children: int
) -> None:
    scaler = Autoscaler(Autoscale(least, least + more, backlog))
    for number, (tasks, waiting) in enumerate(looks):
        busy = min(tasks, children)
        wanted = scaler.decide(Look(children, busy, waiting), number * EVERY)
        assert least <= wanted <= least + more
        assert wanted >= min(busy, least + more), "a child that runs a task would have been too many"
        assert wanted <= max(2 * children, least)
        children = wanted
