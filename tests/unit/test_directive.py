"""Directives: their JSON form, their end, and which of them counts (G23, G24)."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stem_kombu.directive import Directive, Kind, latest, next_end, record_key, winner
from stem_kombu.fields import FieldError

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
PAUSE = Directive("stem", Kind.PAUSE, "mail", "*", True, 7, NOW, None, "INC-42", "ada@ops")

WORKERS = ["alpha", "bravo-1", "bravo-2"]
QUEUES = ["mail", "mail-bulk", "video"]


def directives() -> st.SearchStrategy[list[Directive]]:
    one = st.builds(
        replace,
        st.just(PAUSE),
        subject=st.sampled_from([*QUEUES, "mail*", "*", None]),
        workers=st.sampled_from([*WORKERS, "bravo-*", "*"]),
        value=st.booleans(),
        cleared=st.booleans(),
        expires_at=st.sampled_from([None, NOW, NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)]),
    )
    # As a store does it: each has a version of its own.
    return st.lists(one, max_size=12).map(lambda all_: [replace(one, version=at + 1) for at, one in enumerate(all_)])


@given(directives(), st.sampled_from(WORKERS), st.sampled_from(QUEUES), st.randoms(use_true_random=False))
def test_g24_every_worker_computes_the_same_winner_from_the_same_records(
    records: list[Directive], worker: str, queue: str, order: random.Random
) -> None:
    held = latest(records)
    again = [*records, *records[::2]]
    order.shuffle(again)
    assert latest(again) == held
    won = winner(held.values(), Kind.PAUSE, worker, queue, NOW)
    shuffled = list(held.values())
    order.shuffle(shuffled)
    assert winner(shuffled, Kind.PAUSE, worker, queue, NOW) == won
    # The rule in other words: the first list that is not empty, and in it the highest version.
    live = [one for one in held.values() if one.is_live(NOW) and one.is_for(worker) and one.is_about(queue)]
    for workers in ((worker,), ("bravo-*",), ("*",)):
        for subjects in ((queue,), ("mail*", "*"), (None,)):
            if found := [one for one in live if one.workers in workers and one.subject in subjects]:
                assert won == max(found, key=lambda one: one.version)
                return
    assert won is None


@given(directives(), st.sampled_from(WORKERS), st.sampled_from(QUEUES))
def test_g23_what_has_ended_or_was_cleared_counts_no_more(records: list[Directive], worker: str, queue: str) -> None:
    won = winner(records, Kind.PAUSE, worker, queue, NOW)
    assert won is None or (not won.cleared and (won.expires_at is None or won.expires_at > NOW))
    end = next_end(records, NOW)
    if end is not None:
        just_before = end - timedelta(microseconds=1)
        assert winner(records, Kind.PAUSE, worker, queue, just_before) == won


@given(directives())
def test_a_directive_survives_its_json_form(records: list[Directive]) -> None:
    for one in records:
        assert Directive.from_record(one.to_record()) == one
        assert (
            Directive.from_body(
                one.body(),
                namespace=one.namespace,
                version=one.version,
                issued_at=one.issued_at,
                expires_at=one.expires_at,
            )
            == one
        )


def test_an_exemption_beats_the_pause_of_all_queues() -> None:
    everything = replace(PAUSE, subject=None, version=9)
    exempt = replace(PAUSE, value=False, version=3)
    won = winner([everything, exempt], Kind.PAUSE, "alpha", "mail", NOW)
    assert won == exempt
    assert winner([everything, exempt], Kind.PAUSE, "alpha", "video", NOW) == everything


def test_a_name_that_only_looks_like_a_glob_matches_itself_first() -> None:
    odd = replace(PAUSE, subject="mail[1]", version=1)
    assert winner([odd], Kind.PAUSE, "alpha", "mail[1]", NOW) == odd
    assert winner([odd], Kind.PAUSE, "alpha", "mail1", NOW) == odd


def test_keys_differ_in_each_part() -> None:
    others = [
        replace(PAUSE, subject=None),
        replace(PAUSE, workers="alpha"),
        replace(PAUSE, kind=Kind.LOG_LEVEL, value="info"),
    ]
    assert len({record_key(one.key) for one in [PAUSE, *others]}) == 4
    assert record_key(PAUSE.key) == record_key(replace(PAUSE, version=9, value=False).key)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "sing"}, "kind 'sing' is not known"),
        ({"value": 1}, "value 1 is not true or false"),
        ({"value": None}, "value None is not true or false"),
        ({"workers": ""}, "workers is empty"),
        ({"version": -1}, "version -1"),
        ({"issued_at": "yesterday"}, "issued_at 'yesterday'"),
        ({"cleared": 1}, "cleared 1"),
        ({"kind": "concurrency", "value": "many"}, "value 'many'"),
        ({"kind": "log-level", "value": 3}, "value 3 is not text"),
        ({"kind": "rate-limit", "value": 3}, "value is int, not an object"),
    ],
)
def test_a_field_that_no_directive_has_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(FieldError, match=said.replace("(", r"\(")):
        Directive.from_record({**PAUSE.to_record(), **change})
