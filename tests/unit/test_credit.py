"""How many messages a worker holds."""

from __future__ import annotations

from stem_kombu.task import Mode
from stem_kombu.worker.credit import LOOK_EVERY, Credit, Load


def test_a_worker_of_isolates_alone_holds_the_multiplier_for_each_child() -> None:
    assert Credit(isolates=4, multiplier=1, inline=0).allowance(Load(4, 0), now=0.0) == 4
    assert Credit(isolates=4, multiplier=3, inline=0).allowance(Load(0, 0), now=0.0) == 12


def test_a_worker_of_inline_tasks_alone_holds_as_many_as_it_has_slots() -> None:
    assert Credit(isolates=0, multiplier=1, inline=16).allowance(Load(0, 3), now=0.0) == 16


def test_a_worker_of_both_kinds_fetches_no_more_than_its_free_children_could_run() -> None:
    credit = Credit(isolates=2, multiplier=1, inline=16)
    assert credit.allowance(Load(0, 0), now=0.0) == 2
    assert credit.allowance(Load(1, 5), now=0.0) == 7


def test_an_isolate_that_comes_while_every_child_is_busy_is_given_back_and_the_next_look_is_later() -> None:
    credit = Credit(isolates=1, multiplier=1, inline=16)
    assert credit.allowance(Load(1, 0), now=10.0) == 2
    assert not credit.takes(Mode.ISOLATE, Load(2, 0), now=10.0)
    assert credit.allowance(Load(1, 0), now=10.0) == 1
    assert credit.allowance(Load(1, 0), now=10.0 + LOOK_EVERY) == 2


def test_inline_tasks_behind_busy_children_are_fetched_one_after_the_other_up_to_the_slots() -> None:
    credit = Credit(isolates=1, multiplier=1, inline=2)
    assert not credit.takes(Mode.ISOLATE, Load(2, 0), now=0.0)
    later = LOOK_EVERY
    assert credit.takes(Mode.INLINE, Load(1, 1), now=later)
    assert credit.allowance(Load(1, 1), now=later) == 3
    assert credit.takes(Mode.INLINE, Load(1, 2), now=later)
    assert credit.allowance(Load(1, 2), now=later) == 3


def test_something_is_always_fetched_so_that_no_worker_falls_silent() -> None:
    credit = Credit(isolates=1, multiplier=1, inline=1)
    assert credit.allowance(Load(0, 1), now=0.0) == 1
