"""How a worker's life is judged by its last beat, and the JSON form of one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from stem_kombu import timeouts
from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.backends.processes import Process
from stem_kombu.fields import FieldError

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
BEAT = Heartbeat(
    namespace="stem",
    worker="w1",
    boot="b1",
    inbox="stem.inbox.w1",
    interval=10.0,
    hostname="h1",
    pid=7,
    version="1.0",
    concurrency=4,
    in_flight=2,
    queues=("default", "high"),
    rss_bytes=2**33,
    load_avg=0.5,
    uptime=99.5,
    totals={"received": 3},
    timestamp=NOW,
)


@pytest.mark.parametrize(
    ("seconds", "liveness"),
    [
        (-5.0, Liveness.LIVE),  # the roster's clock was set back
        (0.0, Liveness.LIVE),
        (10.5, Liveness.LIVE),  # a beat that is a little late is no reason to worry
        (30.0, Liveness.LIVE),
        (30.1, Liveness.STALE),
        (60.0, Liveness.STALE),
        (60.1, Liveness.DEAD),
        (86_400.0, Liveness.DEAD),
    ],
)
def test_a_worker_is_stale_after_three_intervals_and_dead_after_six(seconds: float, liveness: Liveness) -> None:
    assert BEAT.liveness(NOW + timedelta(seconds=seconds)) is liveness


def test_each_worker_is_judged_by_its_own_interval() -> None:
    later = NOW + timedelta(seconds=45)

    assert replace(BEAT, interval=1.0).liveness(later) is Liveness.DEAD
    assert replace(BEAT, interval=10.0).liveness(later) is Liveness.STALE
    assert replace(BEAT, interval=60.0).liveness(later) is Liveness.LIVE


def test_a_draining_worker_is_shown_as_draining_until_it_goes_stale() -> None:
    draining = replace(BEAT, state="draining")

    assert draining.liveness(NOW) is Liveness.DRAINING
    assert draining.liveness(NOW + timedelta(seconds=31)) is Liveness.STALE


@pytest.mark.parametrize(("seconds", "holds"), [(0, True), (30, True), (31, False), (61, False)])
@pytest.mark.parametrize("state", ["running", "draining"])
def test_an_id_is_held_until_its_worker_is_stale(seconds: int, holds: bool, state: str) -> None:
    assert replace(BEAT, state=state).holds_its_id(NOW + timedelta(seconds=seconds)) is holds


def test_the_age_is_never_negative_and_that_of_a_beat_without_a_time_is_nothing() -> None:
    assert BEAT.age(NOW + timedelta(seconds=1.5)) == 1.5
    assert BEAT.age(NOW - timedelta(seconds=1)) == 0.0
    assert replace(BEAT, timestamp=None).age(NOW) == 0.0


def test_an_entry_outlives_its_worker_so_that_operators_can_see_it_die() -> None:
    assert BEAT.lifetime == 10.0 * timeouts.DEAD_INTERVALS + timeouts.ROSTER_ENTRY_MARGIN
    assert BEAT.liveness(NOW + timedelta(seconds=BEAT.lifetime)) is Liveness.DEAD


@pytest.mark.parametrize(
    "beat", [BEAT, replace(BEAT, rss_bytes=None, load_avg=None, timestamp=None, queues=(), totals={})]
)
def test_a_beat_survives_its_json_form(beat: Heartbeat) -> None:
    assert Heartbeat.from_record(json.loads(json.dumps(beat.to_record()))) == beat


def test_what_a_later_version_adds_is_read_by_this_one_and_passed_over_by_the_first() -> None:
    process = Process("b5e5…", 4026531836, 7, 4711)
    beat = replace(BEAT, process=process, conflict="host h2, process 1")
    record = json.loads(json.dumps(beat.to_record()))

    assert Heartbeat.from_record(record) == beat
    assert Heartbeat.from_record({**record, "process": {"boot_id": 7}, "and": "more"}).process is None
    assert {name for name in record if name not in BEAT.to_record()} == {"process", "conflict"}


@pytest.mark.parametrize(
    "broken",
    [
        {"interval_s": 0},
        {"interval_s": -1},
        {"interval_s": float("nan")},
        {"interval_s": "often"},
        {"pid": None},
        {"queues": None},
        {"totals": [1]},
        {"timestamp": "noon"},
    ],
    ids=repr,
)
def test_a_form_that_is_no_beat_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(FieldError):
        Heartbeat.from_record({**BEAT.to_record(), **broken})


@pytest.mark.parametrize("missing", ["namespace", "worker", "boot", "inbox", "interval_s", "totals"])
def test_a_form_without_what_every_beat_has_is_refused(missing: str) -> None:
    form = BEAT.to_record()
    del form[missing]

    with pytest.raises(FieldError, match=missing):
        Heartbeat.from_record(form)
