"""What is measured of tasks stays bounded, and its sums stay true (G35)."""

from __future__ import annotations

import pytest

from stem_kombu.measures import BOUNDS, MOST_COMMANDS, MOST_WAITS, OTHER, CommandCounts, Totals


def filled(names: int, queues: int) -> Totals:
    """Of that many task names in each of that many queues, one attempt that succeeds and one that fails."""
    totals = Totals()
    for queue in (f"queue-{number}" for number in range(queues)):
        for task in (f"tasks.task_{number}" for number in range(names)):
            for outcome in ("succeeded", "failed", "retried"):
                totals.add("received", queue, task)
                totals.started(queue, task, 0.2)
                totals.ended(outcome, queue, task, ran=0.7)
            totals.add("received", queue, task)
            totals.ended("cancelled", queue, task, how="before-start")
    return totals


@pytest.mark.parametrize(("names", "queues"), [(3, 2), (300, 1), (300, 40)])
def test_g35_the_rows_sum_up_to_the_totals_also_beyond_the_bounds(names: int, queues: int) -> None:
    counts, measured = filled(names, queues).measured()
    for name, total in counts.items():
        assert sum(row[name] for row in measured["tasks"]) == total
    assert sum(sum(row["counts"]) for row in measured["durations"]) == 3 * names * queues
    assert sum(sum(row["counts"]) for row in measured["waits"]) == counts["started"]
    assert sum(row["sum_s"] for row in measured["durations"]) == pytest.approx(0.7 * 3 * names * queues)
    assert measured["cancelled"] == {"before-start": names * queues}


def test_what_comes_beyond_a_bound_counts_under_other_in_its_own_queue_while_queues_are_few() -> None:
    few = {(row["queue"], row["task"]) for row in filled(300, 1).measured()[1]["tasks"]}
    assert ("queue-0", "tasks.task_0") in few
    assert ("queue-0", OTHER) in few
    many = filled(10, 60).measured()[1]
    assert (OTHER, OTHER) in {(row["queue"], row["task"]) for row in many["tasks"]}
    assert len(many["waits"]) == MOST_WAITS + 1


def test_a_span_stands_in_the_bucket_whose_bound_it_does_not_pass() -> None:
    totals = Totals()
    for seconds in (-3.0, 0.0, BOUNDS[0], BOUNDS[0] + 0.001, BOUNDS[-1] + 1):
        totals.started("q", "t", seconds)
    (waits,) = totals.measured()[1]["waits"]
    assert waits["counts"] == [3, 1, *[0] * (len(BOUNDS) - 2), 1]


def test_commands_of_many_names_are_counted_under_other() -> None:
    counts = CommandCounts()
    for number in range(2 * MOST_COMMANDS):
        counts.add(f"command-{number}", "ok")
    rows = counts.snapshot()
    assert len(rows) == MOST_COMMANDS + 1
    assert sum(row["count"] for row in rows) == 2 * MOST_COMMANDS
