"""The checker: does a history keep its promises (docs/guarantees.md)?  Pure, and as good as linear in the history's length.

Each promise accuses only on what the history shows beyond doubt: an event that nobody noted is no evidence, and a fault
excuses what the promise lets it excuse and nothing else. For what an event means see :mod:`tests.faults.history`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.faults.history import History
from tests.faults.promises import control, ladders, pauses, revocations, rules, stopping, undos, work
from tests.faults.story import Story, Violation

#: In the order of the guarantees. A name says which promises a function judges.
PROMISES: tuple[Callable[[Story], Iterator[Violation]], ...] = (
    revocations.g1_durable_then_visible,
    revocations.g2_g3_what_is_revoked_does_not_run,
    revocations.g4_the_store_orders,
    revocations.g5_pruning_is_safe,
    revocations.g6_concurrent_writers,
    stopping.g7_only_at_checkpoints,
    stopping.g8_the_right_task,
    stopping.g9_handled_recorded_acknowledged,
    stopping.g10_one_ending,
    stopping.g11_swallowing,
    control.g12_broadcast_reaches_everyone,
    control.g12_g16_everyone_who_can_answers,
    control.g13_one_deadline,
    control.g14_stale_commands_die,
    control.g15_no_litter,
    control.g17_bad_input,
    work.g18_no_task_is_lost,
    work.g19_not_twice_without_need,
    work.g20_stopping_is_not_revoking,
    pauses.g22_paused_means_none,
    ladders.g26_the_verdict_is_true,
    ladders.g27_the_ladder_hits_its_attempt_only,
    rules.g2_g3_what_a_rule_strikes_does_not_run,
    rules.g29_the_past_only,
    undos.g31_undo_is_exact,
    control.g33_shutdown_is_for_this_life,
)


def check(history: History) -> Violation | None:
    """The first promise that the history shows to be violated, ``None`` when it shows none."""
    return next(iter(violations(history)), None)


def violations(history: History) -> list[Violation]:
    """All that it shows, in the order in which they became evident."""
    story = Story(history)
    found = [violation for promise in PROMISES for violation in promise(story)]
    found.sort(key=lambda violation: (violation.events[-1].seq, int(violation.promise[1:])))
    return found


#: What has to have happened for a promise to be judged on it.
EVIDENCE: dict[str, tuple[str, ...]] = {
    "G1": ("broadcast", "applied", "read"),
    "G2": ("started",),
    "G3": ("started",),
    "G4": ("stored", "read"),
    "G5": ("pruned", "cached", "read"),
    "G6": ("read",),
    "G7": ("checkpoint", "stopped"),
    "G8": ("stopped",),
    "G9": ("recorded", "acknowledged"),
    "G10": ("recorded",),
    "G11": ("ended", "swallowed"),
    "G12": ("heard", "answered", "obeyed"),
    "G13": ("answered",),
    "G14": ("obeyed",),
    "G15": ("left",),
    "G16": ("answered",),
    "G17": ("fed", "complained", "unpickled"),
    "G18": ("enqueued", "pool", "acknowledged"),
    "G19": ("started",),
    "G20": ("recorded",),
    "G22": ("paused",),
    "G26": ("recorded", "verdict"),
    "G27": ("signalled",),
    "G29": ("rule-stored", "refused"),
    "G31": ("refused", "undone"),
    "G33": ("stopping",),
}


def judged(history: History) -> dict[str, int]:
    """How many events of a history each promise was judged on; promises with none are left out."""
    kinds: dict[str, int] = {}
    for event in history:
        kinds[event.kind] = kinds.get(event.kind, 0) + 1
    counted = {promise: sum(kinds.get(kind, 0) for kind in evidence) for promise, evidence in EVIDENCE.items()}
    return {promise: count for promise, count in counted.items() if count}
