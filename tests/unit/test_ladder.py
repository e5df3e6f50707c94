"""The ladder as a value: its spans, its text among the proofs, who may ask for it, and when a step is due (G27)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import product
from math import inf

import pytest

from stem_kombu.clock import epoch_us
from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.pool.climb import Climb
from stem_kombu.ladder import Ladder, LadderText, is_ladder, ladder_of
from stem_kombu.outcome import EndedHow, Ending, Outcome
from stem_kombu.revocation import Revocation, RevocationDraft, merge
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.ladders import with_ladder
from stem_kombu.signing.proofs import proven, signed_drafts
from tests.signing.keys import ring, shared

NOW = datetime(2026, 1, 31, tzinfo=timezone.utc)
REVOCATION = Revocation("stem", "t", 1, NOW, True)
SCOPES = "ops:read,operate;chief:read,operate,destroy;late:read,operate,destroy"


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ((2.0, 1.0), "longer than"),
        ((0.0, None), "more than zero"),
        ((None, -1.0), "more than zero"),
        ((None, None), "without a step"),
    ],
)
def test_spans_that_can_not_be_meant_are_refused(spans: tuple[float | None, float | None], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Ladder(*spans)


def test_a_text_comes_back_as_it_was_and_is_no_ones_proof() -> None:
    for term, kill, expires_us in product((None, 1.5), (None, 30.0), (None, 7)):
        text = LadderText(5, expires_us, term, kill, "ops", "hmac-sha256:ops:AAAA")
        assert LadderText.decoded(text.encoded()) == text
        assert is_ladder(text.encoded())
    for other in ("", "{}", '{"s":"hmac-sha256:ops:AAAA"}', '{"s":"ladder:x"}', '"s":"ladder:'):
        assert LadderText.decoded(other) is None


def merged(*drafts: RevocationDraft) -> Revocation:
    record: Revocation | None = None
    for version, draft in enumerate(drafts, 1):
        record = merge(record, draft, namespace="stem", version=version, now=NOW)
    assert record is not None
    return record


def asked(ladder: Ladder, keyring: Keyring | None = None, *, life: float | None = None) -> RevocationDraft:
    drafts = [RevocationDraft("t", True, expires_in=life)]
    if keyring is not None:
        drafts = signed_drafts(drafts, keyring, namespace="stem", now=NOW)
    return with_ladder(drafts, ladder, keyring, namespace="stem", now=NOW)[0]


def test_of_several_ladders_the_shorter_span_wins_and_one_that_has_ended_counts_no_more() -> None:
    record = merged(
        asked(Ladder(5, 60)), asked(Ladder(None, 30)), asked(Ladder(1, None), life=10), RevocationDraft("t")
    )

    assert ladder_of(record, NOW) == Ladder(1, 30)
    assert ladder_of(record, NOW + timedelta(seconds=11)) == Ladder(5, 30)
    assert ladder_of(merged(RevocationDraft("t", True)), NOW) is None


def test_with_keys_a_merged_record_stays_verifiable_and_sigkill_takes_the_scope_destroy() -> None:
    ops, chief = (
        ring(shared(name, "chief" if name == "ops" else "ops", key_scopes=SCOPES)) for name in ("ops", "chief")
    )
    with pytest.raises(Untrusted, match="'destroy'"):
        asked(Ladder(None, 30), ops)

    record = merged(asked(Ladder(5, None), ops), asked(Ladder(None, 30), chief))

    for keyring in (ops, chief):
        assert ladder_of(proven(record, keyring, NOW), NOW) == Ladder(5, 30)
        assert proven(record, keyring, NOW).terminate


def test_with_keys_a_ladder_that_no_one_signed_who_may_is_none() -> None:
    ops, chief = (
        ring(shared(name, "chief" if name == "ops" else "ops", key_scopes=SCOPES)) for name in ("ops", "chief")
    )
    honest = asked(Ladder(None, 30), chief)
    proof, text = honest.proofs
    signed = LadderText.decoded(text)
    assert signed is not None
    forged = [
        LadderText(1, None, 1.0, 2.0).encoded(),  # as in a fleet without keys
        replace(signed, kill_after=1.0).encoded(),
        replace(signed, expires_us=epoch_us(NOW) + 9).encoded(),
        replace(signed, key="ops").encoded(),
        replace(signed, signature=ops.sign(b"stem-ladder/1", signed.stated("stem", "t"))).encoded(),  # may not kill
        replace(signed, signature=chief.sign(b"stem-revocation/1", signed.stated("stem", "t"))).encoded(),
    ]
    for one in forged:
        record = merged(RevocationDraft("t", True, proofs=(proof, one)))
        assert ladder_of(proven(record, ops, NOW), NOW) is None, one
    of_another = signed_drafts([RevocationDraft("u", True)], chief, namespace="stem", now=NOW)[0]
    record = replace(merged(RevocationDraft("t", True, proofs=(*of_another.proofs, text))), task_id="u")
    assert ladder_of(proven(record, ops, NOW), NOW) is None


def test_g27_no_step_comes_before_its_time_and_each_comes_once() -> None:
    """All orders of two ladders and of looks at the clock."""
    spans = (None, 1.0, 2.0, 3.0)
    ladders = [
        Ladder(term, kill)
        for term, kill in product(spans, spans)
        if (term or kill) and not (term and kill and term > kill)
    ]
    for first, second, later, looks in product(
        ladders, ladders, (0.0, 0.5, 2.5), ((0.9, 1.0, 2.0, 3.0, 9.0), (9.0, 9.1))
    ):
        climb = Climb(7, REVOCATION)
        climb.add(REVOCATION, first, 0.0)
        taken: list[tuple[float, EndedHow]] = []
        added = False
        for now in looks:
            if not added and now >= later:
                climb.add(REVOCATION, second, later)
                added = True
            while (how := climb.step(now, NOW)) is not None:
                taken.append((now, how))
        hows = [how for _, how in taken]
        terms = [at for at in (first.term_after, second.term_after and later + second.term_after) if at is not None]
        kills = [at for at in (first.kill_after, second.kill_after and later + second.kill_after) if at is not None]
        assert hows.count(EndedHow.TERM) <= 1
        for at, how in taken:
            assert at >= min(terms if how is EndedHow.TERM else kills)
        assert (EndedHow.KILL in hows) == bool(kills)
        if EndedHow.KILL not in hows:
            assert EndedHow.TERM in hows
        assert climb.due == inf or climb.due > 9.0 or EndedHow.KILL in hows
        assert climb.told(Outcome(Ending.FAILED)).steps == climb.steps
        assert climb.killed() == Outcome(Ending.CANCELLED, revocation=REVOCATION, steps=climb.steps)


def test_g27_what_can_not_be_taken_now_is_looked_at_again_soon() -> None:
    climb = Climb(7, REVOCATION)
    climb.add(REVOCATION, Ladder(1.0, 2.0), 0.0)

    climb.put_off(1.5)

    assert climb.term_at == pytest.approx(1.55)
    assert climb.kill_at == 2.0
