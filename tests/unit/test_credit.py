"""How many messages a worker holds."""

from __future__ import annotations

import pytest

from stem_kombu import timeouts
from stem_kombu.task import Mode
from stem_kombu.worker.prefetch_policy import LOOK_DEPTH, MOST, Load, PrefetchPolicy


def test_a_worker_of_isolates_alone_holds_the_multiplier_for_each_child() -> None:
    assert PrefetchPolicy(isolates=4, inline=0, multiplier=1).allowance(Load(4, 0), now=0.0) == 4
    assert PrefetchPolicy(isolates=4, inline=0, multiplier=3).allowance(Load(0, 0), now=0.0) == 12


def test_a_worker_of_inline_tasks_alone_holds_the_multiplier_for_each_slot() -> None:
    assert PrefetchPolicy(isolates=0, inline=16, multiplier=1).allowance(Load(0, 3), now=0.0) == 16
    assert PrefetchPolicy(isolates=0, inline=16, multiplier=4).allowance(Load(0, 3), now=0.0) == 64


def test_no_more_are_held_than_a_prefetch_count_can_say() -> None:
    assert PrefetchPolicy(isolates=0, inline=10_000, multiplier=10_000).allowance(Load(0, 0), now=0.0) == MOST == 0xFFFF
    assert PrefetchPolicy(isolates=1024, inline=10_000, multiplier=10_000).allowance(Load(9, 9), now=0.0) == MOST


def test_a_worker_of_both_kinds_fetches_no_more_than_its_free_children_could_run() -> None:
    credit = PrefetchPolicy(isolates=2, inline=16, multiplier=1)
    assert credit.allowance(Load(0, 0), now=0.0) == 2
    assert credit.allowance(Load(1, 5), now=0.0) == 7


@pytest.mark.parametrize(("mode", "full"), [(Mode.ISOLATE, Load(1, 0)), (Mode.INLINE, Load(0, 2))])
def test_what_comes_while_the_slots_of_its_kind_are_full_is_set_aside_and_the_next_look_is_later(
    mode: Mode, full: Load
) -> None:
    credit = PrefetchPolicy(isolates=1, inline=2, multiplier=1)
    free = credit.allowance(full, now=10.0) - full.isolates - full.inline
    one_more = Load(full.isolates + (mode is Mode.ISOLATE), full.inline + (mode is Mode.INLINE))
    assert credit.deferred_until(mode, one_more, now=10.0) == 10.0 + timeouts.PREFETCH_LOOK
    # this look goes on, past those that are set aside, to its bound
    rooms = [credit.allowance(full, 10.0, aside) - sum((full.isolates, full.inline)) for aside in range(LOOK_DEPTH + 1)]
    assert rooms == [min(free, LOOK_DEPTH - aside) for aside in range(LOOK_DEPTH + 1)]
    # and once they are given back none of them is fetched again at once
    assert credit.allowance(full, now=10.0 + timeouts.PREFETCH_LOOK) == full.isolates + full.inline
    assert (
        credit.allowance(full, now=10.001 + timeouts.PREFETCH_LOOK + timeouts.PREFETCH_LOOK_EVERY)
        == full.isolates + full.inline + free
    )


def test_a_look_is_no_deeper_than_its_bound() -> None:
    assert PrefetchPolicy(isolates=1, inline=1000, multiplier=1).allowance(Load(1, 0), now=0.0) == 1 + LOOK_DEPTH


def test_what_fits_is_followed_by_the_next_at_once() -> None:
    credit = PrefetchPolicy(isolates=1, inline=3, multiplier=1)
    assert credit.deferred_until(Mode.INLINE, Load(1, 1), now=0.0) is None
    assert credit.allowance(Load(1, 1), now=0.0) == 4
    assert credit.deferred_until(Mode.INLINE, Load(1, 3), now=0.0) is None
    assert credit.allowance(Load(1, 3), now=0.0) == 4


@pytest.mark.parametrize("isolates", range(4))
@pytest.mark.parametrize("inline", range(4))
def test_nothing_more_is_fetched_when_all_is_full_and_something_always_when_a_slot_is_free(
    isolates: int, inline: int
) -> None:
    credit = PrefetchPolicy(isolates=3, inline=3, multiplier=1)
    room = credit.allowance(Load(isolates, inline), now=0.0) - isolates - inline
    assert (room > 0) == ((isolates, inline) != (3, 3))
    if isolates < 3 and inline < 3:
        assert room <= min(3 - isolates, 3 - inline)


def test_a_look_lasts_longer_while_what_is_given_back_comes_here_again_and_only_then() -> None:
    credit, now, spans = PrefetchPolicy(isolates=1, inline=2, multiplier=1), 0.0, []
    for comes_back in (False, True, True, True, False):
        if comes_back:
            credit.came_back()
        until = credit.deferred_until(Mode.ISOLATE, Load(2, 0), now)
        assert until is not None
        spans.append(until - now)
        now = until + 1.0
    assert spans == [
        timeouts.PREFETCH_LOOK,
        2 * timeouts.PREFETCH_LOOK,
        timeouts.PREFETCH_LONGEST_LOOK,
        timeouts.PREFETCH_LONGEST_LOOK,
        timeouts.PREFETCH_LOOK,
    ]
