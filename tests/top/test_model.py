"""What ``stem top`` shows of a snapshot, without a terminal."""

from __future__ import annotations

import time

import pytest

from stem_kombu_cli.commands.top import text
from stem_kombu_cli.top.actions import ACTIONS
from stem_kombu_cli.top.model import COLUMNS, KEYS, Order, Snapshot, Tab, fitting, head, line, rows_of
from tests.top.fleets import snapshot


@pytest.mark.parametrize("tab", list(Tab))
@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_as_many_columns_as_fit_are_shown_and_none_is_broken(tab: Tab, width: int) -> None:
    columns = fitting(tab, width)
    lines = [head(columns, Order(), tab), *(line(columns, row) for row in rows_of(snapshot(), tab, Order()))]
    assert {len(each) for each in lines} == {len(lines[0])}
    assert len(lines[0]) <= width or len(columns) == 1
    assert columns == list(COLUMNS[tab])[: len(columns)]


def test_rows_are_sorted_by_any_column_and_what_has_no_value_comes_last() -> None:
    found = snapshot(workers=3, tasks=30)
    by_depth = next(n for n, column in enumerate(COLUMNS[Tab.QUEUES]) if column.name == "depth")
    up = [row["depth"] for row in rows_of(found, Tab.QUEUES, Order(column=by_depth))]
    down = [row["depth"] for row in rows_of(found, Tab.QUEUES, Order(column=by_depth, descending=True))]
    assert up == [0, 4000, None]
    assert down == [4000, 0, None]


def test_a_filter_looks_into_each_column_whatever_the_case() -> None:
    found = snapshot(workers=3, tasks=30)
    assert {row["worker"] for row in rows_of(found, Tab.TASKS, Order("WORKER-2"))} == {"worker-2"}
    assert rows_of(found, Tab.TASKS, Order("nowhere")) == []
    assert len(rows_of(found, Tab.WORKERS, Order("mail"))) == 3


def test_each_row_has_a_key_of_its_own() -> None:
    for tab in Tab:
        rows = snapshot(workers=5, tasks=40).facts[tab]
        assert len({KEYS[tab](row) for row in rows}) == len(rows)


def test_ten_thousand_tasks_of_five_hundred_workers_are_in_order_within_a_tenth_of_a_second() -> None:
    found = snapshot(workers=500, tasks=10_000)
    order = Order(column=2, descending=True)

    def spent() -> float:
        began = time.thread_time()
        rows = rows_of(found, Tab.TASKS, order)
        columns = fitting(Tab.TASKS, 200)
        assert len([line(columns, row) for row in rows[:60]]) == 60
        return time.thread_time() - began

    assert min(spent() for _ in range(5)) < 0.1


def test_a_plan_says_what_will_happen_and_counts_what_it_strikes() -> None:
    found = snapshot(workers=2, tasks=150)
    plans = {(tab, action.word): action.plan(found.facts[tab]) for tab in Tab for action in ACTIONS[tab]}
    assert plans[Tab.TASKS, "revoke"].must_be_typed
    assert plans[Tab.TASKS, "revoke"].says.startswith("This revokes 150 tasks (task-0, task-1, task-2 and 147 more)")
    assert "SIGKILL after 30 s" in plans[Tab.TASKS, "ladder"].says
    assert plans[Tab.WORKERS, "shutdown"].count == 150
    assert plans[Tab.WORKERS, "scale"].asks is not None
    assert plans[Tab.QUEUES, "resume"].count == 4000
    assert "pause of queue mail on workers *" in plans[Tab.DIRECTIVES, "end"].says


def test_one_look_is_text_without_a_terminal() -> None:
    shown = text(snapshot(workers=1, tasks=1), 10_000)
    assert "Workers 1" in shown and "worker-0" in shown and "Tasks 1" in shown and "task-0" in shown
    assert text(Snapshot("shop", "redis://h/0"), 80).count("0") >= 4


def test_values_of_several_kinds_can_be_sorted() -> None:
    found = Snapshot("shop", "b", facts={Tab.DIRECTIVES: [{"version": 1, "value": "x"}, {"version": 2, "value": 3}]})
    assert len(rows_of(found, Tab.DIRECTIVES, Order(column=3))) == 2


def test_what_a_resume_lets_loose_is_not_nothing_where_a_depth_is_unknown() -> None:
    (resume,) = [action for action in ACTIONS[Tab.QUEUES] if action.word == "resume"]
    known, unknown = {"name": "mail", "depth": 4000}, {"name": "typo", "depth": None}
    assert resume.plan([known]).says == "This resumes queue mail. Waiting messages: 4,000."
    assert resume.plan([unknown]).says == "This resumes queue typo. Waiting messages: unknown."
    both = resume.plan([known, unknown])
    assert "Waiting messages: 4,000 or more." in both.says
    assert both.must_be_typed
