"""The checker is checked: by hand-made histories that each violate one promise, and by clean ones beside them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.history import KINDS, Bounds, Event, History
from tests.faults.promises import check, violations

A, B = "alpha#1", "bravo#1"


def e(kind: str, at: float, by: str = "", **facts: Any) -> Event:
    assert kind in KINDS
    return Event(kind, at, by, **facts)


def up(by: str = A, at: float = 0.0) -> list[Event]:
    return [e("up", at, by), e("ready", at + 0.5, by)]


def sent(task: str = "t", at: float = 1.0) -> Event:
    return e("enqueued", at, "cli", task=task)


def run(at: float, task: str = "t", by: str = A, attempt: int = 1, run: str = "r1", **facts: Any) -> Event:
    return e("started", at, by, task=task, attempt=attempt, run=run, **facts)


def stored(at: float, version: int = 1, task: str = "t", **facts: Any) -> Event:
    return e("stored", at, "store", task=task, version=version, **facts)


def applied(at: float, version: int = 1, task: str = "t", by: str = A, **facts: Any) -> Event:
    return e("applied", at, by, task=task, version=version, **facts)


def undone(at: float, version: int = 2, value: int = 1, task: str = "t") -> Event:
    return e("undone", at, "store", task=task, version=version, value=value)


def refused(at: float, version: int = 1, by: str = A) -> Event:
    return e("refused", at, by, task="t", version=version)


def signalled(at: float, value: str = "kill", target: str = f"{A}/child") -> Event:
    return e("signalled", at, A, task="t", run="r1", target=target, value=value)


def rule(at: float, name: str = "na*", **facts: Any) -> Event:
    return e("rule-stored", at, "store", version=7, value={"name": name, "before": at}, **facts)


def named(at: float) -> Event:
    return e("enqueued", at, "cli", task="t", value="named")


def recorded(at: float, state: str, task: str = "t", attempt: int = 1, **facts: Any) -> Event:
    return e("recorded", at, facts.pop("by", "backend"), task=task, attempt=attempt, state=state, **facts)


def cancelled(at: float, version: int | None = 1, **facts: Any) -> Event:
    return recorded(at, "cancelled", version=version, **facts)


def acknowledged(at: float, task: str = "t", attempt: int = 1) -> Event:
    return e("acknowledged", at, A, task=task, attempt=attempt)


def asked(at: float, value: float | None = 5.0, **facts: Any) -> Event:
    return e("asked", at, "cli", request="q", state="ping", value=value, **facts)


def heard(at: float, target: str, **facts: Any) -> Event:
    return e("heard", at, "cli", request="q", target=target, **facts)


def answered(at: float, *silent: str) -> Event:
    return e("answered", at, "cli", request="q", targets=silent)


def fault(at: float, target: str, value: str = "killed") -> Event:
    return e("fault", at, "nemesis", target=target, value=value)


def healed(at: float, target: str) -> Event:
    return e("healed", at, "nemesis", target=target)


def quiet(at: float) -> Event:
    return e("quiet", at, "harness")


VIOLATING: dict[str, list[Event]] = {
    "G1 broadcast without a store": [e("broadcast", 2, "cli", request="q", task="t", version=1)],
    "G1 broadcast before it was durable": [
        e("broadcast", 2, "cli", request="q", task="t", version=1),
        stored(3, began=2.5),
    ],
    "G1 broadcast after the store had refused": [
        e("store-failed", 1, "store", request="q"),
        stored(1.5),
        e("broadcast", 2, "cli", request="q", task="t", version=1),
    ],
    "G1 a worker holds what no store held": [stored(1, task="other"), *up(), applied(3, 7)],
    "G1 what was acknowledged did not last": [
        stored(1),
        fault(2, "store"),
        healed(3, "store"),
        e("read", 4, "store", value={}),
    ],
    "G2 a worker that came later": [stored(1), *up(at=2), sent(at=3), run(4)],
    "G2 a worker that never looked": [*up(), stored(1), sent(at=2), run(30)],
    "G3 a worker that knew": [*up(), stored(1), applied(2), sent(at=3), run(4)],
    "G3 delivered again": [*up(), stored(1), sent(at=2), cancelled(3), run(4)],
    "G3 sent twice, and still revoked": [*up(), sent(), sent(), stored(1.5, until=9), cancelled(3), run(4)],
    "G3 sent once, and revoked in vain": [*up(), sent(), stored(1.5, until=4), cancelled(3), run(5)],
    "G3 a retry": [*up(), sent(), run(1), stored(2), applied(3), run(5, attempt=2, run="r2")],
    "G4 a version was given twice": [stored(1, 5), stored(1, 5, task="u")],
    "G4 a later save has a lower version": [stored(1, 5), stored(3, 4, task="u", began=2)],
    "G4 a terminate was taken back": [stored(1, 1, terminate=True), stored(2, 2)],
    "G4 a terminate is no more in the store": [
        stored(1, 1, terminate=True),
        e("read", 4, "store", value={"t": (1, False)}),
    ],
    "G4 cancelled by what had expired": [*up(), stored(1, until=2), sent(at=3), cancelled(4)],
    "G5 a live record was pruned": [stored(1, until=50), e("pruned", 10, "store", task="t", version=1)],
    "G5 pruning hit the successor": [
        stored(1, 1, until=2),
        stored(4, 2, began=3),
        e("pruned", 5, "store", task="t", version=1),
        e("read", 6, "store", value={}),
    ],
    "G5 memory grows": [stored(1, until=2), *up(), e("cached", 900, A, value=1)],
    "G6 a record was lost": [stored(1), e("read", 4, "store", value={"u": (2, False)})],
    "G6 an old record came back": [stored(1, 1), stored(2, 2), e("read", 4, "store", value={"t": (1, False)})],
    "G6 torn": [e("read", 4, "store", state="corrupt")],
    "G7 interrupted elsewhere": [
        *up(),
        stored(1, terminate=True),
        run(1),
        e("stopped", 2, A, run="r1", task="t", value="elsewhere"),
    ],
    "G7 a checkpoint let it pass": [
        *up(),
        run(1),
        stored(2, terminate=True),
        applied(3, terminate=True),
        e("checkpoint", 9, A, run="r1"),
    ],
    "G8 stopped by another's terminate": [
        *up(),
        stored(1, 1, terminate=True),
        stored(1, 2, task="u", terminate=True),
        run(1),
        e("stopped", 2, A, run="r1", task="t", target="u"),
    ],
    "G8 nobody had asked": [*up(), run(1), e("stopped", 2, A, run="r1", task="t")],
    "G9 acknowledged first": [*up(), stored(1), sent(at=2), acknowledged(3), cancelled(4)],
    "G9 cancelled without a cause": [*up(), stored(1), sent(at=2), cancelled(3, None)],
    "G9 tried again": [*up(), run(1), stored(1.1), cancelled(2), run(2.5, attempt=2, run="r2", by=B)],
    "G9 it had finished": [
        *up(),
        run(1),
        stored(1.1),
        e("ended", 2, A, run="r1", state="succeeded"),
        cancelled(3),
    ],
    "G10 a second ending": [sent(), recorded(2, "succeeded"), recorded(3, "failed")],
    "G10 back to running": [sent(), recorded(2, "failed"), recorded(3, "running")],
    "G11 swallowed": [*up(), stored(1), run(1), e("swallowed", 2, A, run="r1", task="t")],
    "G11 finally was skipped": [
        *up(),
        stored(1),
        run(1, value="cleans"),
        e("stopped", 2, A, run="r1", task="t"),
        e("ended", 3, A, run="r1", state="cancelled"),
    ],
    "G12 counted twice": [*up(), asked(1), heard(2, "alpha"), heard(3, "alpha"), answered(3)],
    "G12 a stranger": [*up(), asked(1), heard(2, "mallory"), answered(3)],
    "G12 obeyed by another": [*up(), *up(B), asked(1, targets=["alpha"]), e("obeyed", 2, B, request="q")],
    "G12 silent": [*up(), asked(1), answered(6, "alpha")],
    "G13 later than the deadline": [*up(), asked(1), answered(9)],
    "G13 gave up early": [asked(1), answered(2, "alpha")],
    "G14 twice": [*up(), asked(1), e("obeyed", 2, A, request="q"), e("obeyed", 3, A, request="q")],
    "G14 stale": [*up(), asked(1, until=6), e("obeyed", 7, A, request="q")],
    "G15 litter": [*up(), e("down", 5, A), e("left", 900, "broker", target=A, value=["inbox"])],
    "G16 busy": [*up(), e("busy", 0.7, A), asked(1), answered(6, "alpha")],
    "G16 the store is down": [*up(), fault(0.8, "store"), asked(1), answered(6, "alpha")],
    "G17 unpickled": [e("unpickled", 1, A)],
    "G17 ended of it": [*up(), e("fed", 1, "harness", target="alpha"), e("down", 2, A, value="crashed")],
    "G17 complained all the time": [e("complained", 1, A, value="garbage"), e("complained", 9, A, value="garbage")],
    "G18 lost": [*up(), sent(), recorded(2, "running"), quiet(60)],
    "G18 acknowledged first": [*up(), sent(), acknowledged(2), recorded(3, "succeeded")],
    "G18 never recorded": [*up(), sent(), acknowledged(2)],
    "G18 a child's loss came late": [
        *up(),
        run(1),
        e("child-killed", 2, A, run="r1"),
        e("lost", 9, A, run="r1"),
    ],
    "G18 a child's loss went unseen": [
        *up(),
        sent(),
        run(1),
        e("child-killed", 2, A, run="r1"),
        recorded(3, "failed"),
        quiet(60),
    ],
    "G18 a pool stays short of children": [*up(), e("pool", 9, A, value=(1, 2)), quiet(60)],
    "G19 twice": [*up(), *up(B), sent(), run(2), run(9, by=B, run="r2")],
    "G19 started long after its connection was lost": [
        *up(),
        *up(B),
        sent(),
        fault(2, f"broker/{B}", "reset"),
        healed(2, f"broker/{B}"),
        run(2.1),
        run(8, by=B, run="r2"),
    ],
    "G19 its connection was lost after the other had started": [
        *up(),
        *up(B),
        sent(),
        run(2),
        fault(3, f"broker/{B}", "reset"),
        healed(3, f"broker/{B}"),
        run(3.1, by=B, run="r2"),
    ],
    "G20 a shutdown cancelled": [*up(), sent(), run(2), e("stopping", 3, A), cancelled(4, by=A)],
    "G26 recorded while it runs": [*up(), sent(), stored(1.5), run(2), cancelled(3, by=A)],
    "G26 a verdict without a record": [
        *up(),
        sent(),
        stored(1.5),
        run(2),
        e("verdict", 3, "cli", task="t", value="stopped"),
    ],
    "G27 no ladder was for it": [*up(), sent(), stored(1.5), applied(2), run(1.8), signalled(4)],
    "G27 before its time": [*up(), sent(), stored(1.5), run(1.8), applied(2, value=(None, 3.0)), signalled(4)],
    "G27 another process": [*up(), signalled(4, target=A)],
    "G27 it was not climbed": [
        *up(),
        stored(1.5),
        run(1.8, target="isolate"),
        applied(2, value=(1.0, 2.0)),
        e("ended", 5, A, run="r1", state="failed"),
    ],
    "G29 sent after the cut-off": [*up(), rule(1), named(at=2), refused(3, 7)],
    "G29 sent after the cut-off, and revoked by its id": [*up(), rule(1), named(at=2), stored(3, value=7)],
    "G29 another name": [*up(), named(at=0.6), rule(1, name="other"), cancelled(3, 7)],
    "G2 a worker that never learnt of a rule": [*up(), named(at=0.6), rule(1), run(30)],
    "G2 a worker that came after a rule": [named(at=0.6), rule(1), *up(at=2), run(3)],
    "G3 a worker that knew a rule": [*up(), named(at=0.6), rule(1), e("rule-applied", 2, A, version=7), run(3)],
    "G31 refused by what it knew to be undone": [
        *up(),
        stored(1),
        undone(2),
        e("lifted", 3, A, task="t", version=2),
        refused(4),
    ],
    "G31 a worker that came later": [stored(1), undone(2), *up(at=3), refused(4)],
    "G31 a worker that never looked": [*up(), stored(1), applied(2), undone(3), refused(30)],
    "G31 another revocation was taken back": [stored(1, 1), stored(2, 2), undone(3, 3, value=1)],
    "G31 it was revived": [*up(), sent(), stored(1.5), cancelled(2), undone(3), run(4)],
}

CLEAN: dict[str, list[Event]] = {
    "a next attempt was recorded before its predecessor's retry": [
        *up(),
        *up(B),
        sent(),
        run(2),
        recorded(4, "running", attempt=2),
        run(4, by=B, attempt=2, run="r2"),
        acknowledged(5),
        recorded(6, "succeeded", attempt=2),
        acknowledged(7, attempt=2),
    ],
    "another worker refused what one finished whose connection was lost": [
        *up(),
        *up(B),
        sent(),
        run(2),
        fault(3, "broker", "down"),
        stored(4),
        healed(5, "broker"),
        cancelled(6, by=B),
        e("ended", 7, A, run="r1", state="succeeded"),
    ],
    "a worker knew of a revoke that had expired, and not yet of its successor": [
        *up(),
        stored(1, 1, until=3),
        applied(1.5, 1),
        stored(4, 2),
        run(4.5),
    ],
    "the second of two messages came when its revoke had expired": [
        *up(),
        sent(),
        sent(),
        stored(1.5, until=4),
        cancelled(2),
        acknowledged(2.1),
        run(5),
    ],
    "it ran once more when its revoke had expired and the backend could not tell": [
        *up(),
        *up(B),
        sent(),
        stored(1.5, 1, until=4),
        cancelled(2),
        fault(3, "backend", "down"),
        run(5, by=B),
    ],
    "a stopping worker left behind what passes no checkpoint": [
        *up(),
        *up(B),
        sent(),
        run(2),
        e("stopping", 3, A),
        run(5, by=B, run="r2"),
        e("down", 6, A),
    ],
    "nothing": [],
    "a task": [*up(), sent(), run(2), recorded(3, "running"), recorded(4, "succeeded"), acknowledged(5), quiet(6)],
    "a revoke of a queued task": [
        *up(),
        sent(),
        asked(1.5),
        stored(2, began=1.5, terminate=True),
        e("broadcast", 2.1, "cli", request="q", task="t", version=1),
        applied(2.2),
        e("obeyed", 2.2, A, request="q"),
        heard(2.3, "alpha"),
        answered(2.3),
        cancelled(3),
        acknowledged(4),
        e("read", 5, "store", value={"t": (1, True)}),
        quiet(6),
    ],
    "a terminate of a running task": [
        *up(),
        sent(),
        run(2, value="cleans"),
        stored(3, terminate=True),
        e("checkpoint", 3.5, A, run="r1"),
        applied(4, terminate=True),
        e("stopped", 5, A, run="r1", task="t", target="t", value="checkpoint"),
        e("cleaned", 5, A, run="r1"),
        e("ended", 5, A, run="r1", state="cancelled"),
        cancelled(6),
        acknowledged(7),
    ],
    "it was undone": [*up(), stored(1), applied(2), e("undone", 3, "cli", task="t"), sent(at=4), run(5)],
    "a ladder": [
        *up(),
        sent(),
        stored(1.5, terminate=True),
        run(1.8, target="isolate"),
        applied(2, terminate=True, value=(1.0, 2.0)),
        signalled(3, "term"),
        signalled(4),
        e("dead", 4, A, task="t", run="r1"),
        cancelled(4.5, by=A),
        e("verdict", 5, "cli", task="t", value="killed"),
    ],
    "the audit of an undo failed once it was broadcast": [
        *up(),
        stored(1),
        undone(2),
        e("broadcast", 2.5, "cli", request="q", task="t", version=2),
        e("store-failed", 4, "cli", request="q", began=3),
    ],
    "a rule": [*up(), named(at=0.6), rule(1), refused(2, 7), cancelled(2.5, 7), acknowledged(3)],
    "a task of tomorrow": [*up(), rule(1), e("rule-applied", 2, A, version=7), named(at=3), run(4)],
    "a rule that has ended": [*up(), named(at=0.6), rule(1, until=3), e("rule-applied", 2, A, version=7), run(4)],
    "a worker that stops kills": [*up(), sent(), run(2), e("stopping", 3, A), signalled(4)],
    "it was revoked anew after an undo": [
        *up(),
        stored(1),
        applied(1.5),
        undone(2),
        e("lifted", 2.5, A, task="t", version=2),
        stored(3, 3),
        applied(3.5, 3),
        sent(at=4),
        refused(5, 3),
    ],
    "a worker did not know of an undo yet": [*up(), stored(1), applied(2), sent(at=3), undone(4), refused(5)],
    "it had expired": [*up(), stored(1, until=3), applied(2), sent(at=4), run(5), recorded(6, "succeeded")],
    "it started while the revoke was under way": [*up(), sent(), stored(2, began=1), run(2), recorded(3, "succeeded")],
    "a worker has not looked yet": [*up(), stored(1), sent(at=2), run(10)],
    "the store was down": [*up(), stored(1), fault(2, "store"), sent(at=2), run(30), healed(40, "store")],
    "a worker that may run without having looked": [
        stored(1),
        e("up", 2, A, value="unsynced"),
        e("ready", 2.5, A),
        run(3),
    ],
    "the backend could not tell that it was cancelled": [
        *up(),
        *up(B),
        stored(1, until=3),
        sent(at=2),
        cancelled(2.1),
        fault(2.2, "backend"),
        healed(4, "backend"),
        run(4.1, by=B),
        e("ended", 4.2, B, run="r1", state="succeeded"),
        acknowledged(4.3),
    ],
    "one of two messages of an attempt was cancelled": [
        *up(),
        *up(B),
        sent(),
        run(1.2),
        fault(1.3, f"broker/{A}", "reset"),
        healed(1.3, f"broker/{A}"),
        run(1.4, by=B, run="r2"),
        recorded(1.5, "retrying", by=A),
        recorded(1.6, "retrying", by=B),
        stored(1.7),
        cancelled(1.8, attempt=2, by=A),
        run(1.75, attempt=2, run="r3", by=B),
        e("ended", 2.5, B, run="r3", state="succeeded"),
        acknowledged(2.6, attempt=2),
    ],
    "the id was sent twice and the revocation had expired": [
        *up(),
        sent(),
        sent(),
        run(1.2),
        recorded(1.3, "retrying"),
        run(1.4, run="r2"),
        stored(1.5, until=4),
        cancelled(2),
        run(6.8, attempt=2, run="r3"),
    ],
    "a killed worker's task runs elsewhere": [
        *up(),
        *up(B),
        sent(),
        run(2),
        e("down", 3, A),
        run(9, by=B, run="r2"),
        recorded(10, "succeeded"),
        quiet(11),
    ],
    "a killed child's task is tried again": [
        *up(),
        sent(),
        run(2),
        e("child-killed", 3, A, run="r1"),
        e("lost", 3.5, A, run="r1"),
        recorded(3.6, "retrying"),
        acknowledged(3.7),
        run(4, attempt=2, run="r2"),
        recorded(5, "succeeded", attempt=2),
        acknowledged(5.1, attempt=2),
        quiet(6),
    ],
    "a link was cut": [
        *up(),
        sent(),
        run(2),
        fault(3, f"broker/{A}", "cut"),
        healed(4, f"broker/{A}"),
        run(6, run="r2"),
    ],
    "silent while it was paused": [*up(), fault(0.8, A, "paused"), asked(1), answered(6, "alpha"), healed(7, A)],
    "silent while the machine was starved": [
        *up(),
        fault(0.8, "machine"),
        healed(2, "machine"),
        asked(1),
        answered(6, "alpha"),
    ],
    "silent while it was starting": [e("up", 0, A), asked(1), answered(6, "alpha"), e("ready", 7, A)],
    "released by a shutdown": [
        *up(),
        *up(B),
        sent(),
        run(2),
        e("stopping", 3, A),
        e("stopped", 3.1, A, run="r1", task="t", state="shutdown"),
        e("ended", 3.2, A, run="r1", state="released"),
        run(4, by=B, run="r2"),
        recorded(5, "succeeded"),
    ],
    "it had finished, and its worker died before that was recorded": [
        *up(),
        *up(B),
        sent(),
        run(1.5),
        e("ended", 2, A, run="r1", state="succeeded"),
        e("down", 2.1, A),
        stored(3),
        cancelled(4, by=B),
    ],
    "a broker without persistence was killed": [
        *up(),
        sent(),
        fault(2, "broker", "emptied"),
        healed(3, "broker"),
        quiet(60),
    ],
    "a pool that is being filled again": [
        *up(),
        fault(2, A, "child killed"),
        e("pool", 2.5, A, value=(1, 2)),
        healed(3, A),
        e("pool", 9, A, value=(2, 2)),
    ],
    "a message that had expired": [*up(), sent(), cancelled(4, None, value="expired")],
    "pruned after its time": [
        stored(1, until=2),
        e("pruned", 9, "store", task="t", version=1),
        e("read", 10, "store", value={}),
    ],
    "two saves side by side": [stored(3, 5, began=1), stored(3.5, 4, task="u", began=2)],
}


@pytest.mark.parametrize("name", VIOLATING)
def test_the_checker_names_the_promise_that_a_history_violates(name: str) -> None:
    found = check(History(VIOLATING[name]))
    assert found is not None
    assert found.promise == name.split()[0], str(found)
    assert found.events
    assert all(event in VIOLATING[name] for event in found.events)


def test_every_promise_has_a_history_that_violates_it() -> None:
    assert {name.split()[0] for name in VIOLATING} == {f"G{number}" for number in (*range(1, 21), 26, 27, 29, 31)}


@pytest.mark.parametrize("name", CLEAN)
def test_the_checker_finds_nothing_where_every_promise_was_kept(name: str) -> None:
    assert [str(found) for found in violations(History(CLEAN[name]))] == []


def test_the_first_violation_is_the_one_that_became_evident_first() -> None:
    history = History([*VIOLATING["G11 swallowed"], e("unpickled", 9, A)])
    assert [found.promise for found in violations(history)] == ["G11", "G17"]


def test_times_of_two_clocks_are_not_compared_beyond_what_is_stated_of_them() -> None:
    def events() -> list[Event]:
        return [*up(), stored(1.0, clock="store"), applied(2.0), run(3.0, clock="child")]

    assert check(History(events())) is None  # nothing is known of these clocks
    near = Bounds(clocks={"world": (0, 0), "store": (-0.1, 0.1), "child": (-0.2, 0.2)})
    found = check(History(events(), near))
    assert found is not None
    assert found.promise == "G3"
    wide = Bounds(clocks={"world": (0, 0), "store": (-0.1, 0.1), "child": (-3600.0, 3600.0)})
    assert check(History(events(), wide)) is None


def test_a_pause_counts_neither_for_a_start_that_was_decided_before_it() -> None:
    decided = [*up(), sent(), fault(1.5, A, "paused"), stored(2), applied(2.5), healed(30, A), run(30.05)]
    bounds = Bounds(start_slack=0.1)
    assert check(History(decided, bounds)) is None
    later = [*decided[:-1], run(30.5)]
    found = check(History(later, bounds))
    assert found is not None
    assert found.promise == "G3"


def test_a_start_is_excused_by_a_connection_that_was_lost_right_before_it_and_no_earlier() -> None:
    def starts_after(seconds: float) -> History:
        lost = [fault(2, f"broker/{B}", "reset"), healed(2, f"broker/{B}")]
        events = [*up(), *up(B), sent(), *lost, run(2.1), run(2.0 + seconds, by=B, run="r2")]
        return History(events, Bounds(start_slack=0.5))

    assert check(starts_after(0.4)) is None
    found = check(starts_after(0.6))
    assert found is not None and found.promise == "G19"


def test_a_fault_has_effects_until_recovery_and_no_longer() -> None:
    def events(gap: float) -> list[Event]:
        return [*up(), fault(1, "broker"), healed(2, "broker"), asked(2 + gap), answered(7 + gap, "alpha")]

    assert check(History(events(1.0), Bounds(recovery=3.0))) is None
    found = check(History(events(4.0), Bounds(recovery=3.0)))
    assert found is not None
    assert found.promise == "G12"


def test_a_history_can_be_kept_as_lines_and_read_again() -> None:
    for events in [*VIOLATING.values(), *CLEAN.values()]:
        history = History(events)
        again = History.parsed(history.lines())
        assert list(again.lines()) == list(history.lines())
        assert [(found.promise, found.what) for found in violations(again)] == [
            (found.promise, found.what) for found in violations(history)
        ]


def test_logs_of_several_observers_are_merged_by_their_clocks() -> None:
    bounds = Bounds(clocks={"world": (0, 0), "ahead": (3600.0, 3600.1)})
    merged = History.merged([[e("up", 1, A), e("down", 9, A)], [e("ready", 3605, A, clock="ahead")]], bounds)
    assert [event.kind for event in merged] == ["up", "ready", "down"]
