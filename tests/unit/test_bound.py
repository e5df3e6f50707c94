"""What a revocation of an id is bound to, and what becomes of it when revocations are merged (G3)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from stem_kombu.bound import Bound, bound_text, bounds_of, spares
from stem_kombu.clock import epoch_us
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError
from stem_kombu.revocation import Revocation, RevocationDraft, merge
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.proofs import proven, signed_drafts
from tests.signing.keys import ring as ring_of
from tests.signing.keys import shared

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
EARLIER, LATER = NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)


def draft(bound: Bound | None = None, **given: object) -> RevocationDraft:
    proofs = () if bound is None else (bound_text(bound, now_us=epoch_us(NOW), expires_us=None),)
    return RevocationDraft("t", proofs=proofs, **given)  # type: ignore[arg-type]


def stored(*drafts: RevocationDraft) -> Revocation:
    held: Revocation | None = None
    for number, one in enumerate(drafts, 1):
        held = merge(held, one, namespace="n", version=number, now=NOW + timedelta(seconds=number))
    assert held is not None
    return held


def test_a_bound_strikes_its_attempt_and_what_was_sent_before() -> None:
    assert Bound(2).strikes(2, None) and not Bound(2).strikes(1, None) and not Bound(2).strikes(3, None)
    assert Bound(before=NOW).strikes(1, EARLIER) and not Bound(before=NOW).strikes(1, LATER)
    assert not Bound(before=NOW).strikes(1, None), "a sender that wrote no time is not known to be one of before"
    assert Bound(2, NOW).strikes(2, EARLIER) and not Bound(2, NOW).strikes(2, LATER)


def test_g3_what_no_bound_names_is_spared_and_what_one_names_is_not() -> None:
    record = stored(draft(Bound(1)), draft(Bound(3)))
    assert [spares(record, attempt, None) for attempt in (1, 2, 3)] == [False, True, False]
    assert not spares(stored(draft()), 1, None)


@pytest.mark.parametrize("drafts", [(draft(), draft(Bound(1))), (draft(Bound(1)), draft())])
def test_g3_a_bound_and_an_unbound_revocation_of_one_id_revoke_the_id(drafts: tuple[RevocationDraft, ...]) -> None:
    assert bounds_of(stored(*drafts)) == () and not spares(stored(*drafts), 7, None)


def test_g3_a_later_revocation_by_a_client_of_0_1_0_which_knows_no_bounds_revokes_the_id() -> None:
    """It keeps the text as it was, and issues the record anew."""
    bound = stored(draft(Bound(1)))
    merged = replace(bound, version=9, issued_at=bound.issued_at + timedelta(seconds=5))
    assert bounds_of(merged) == ()
    again = merge(merged, draft(Bound(1)), namespace="n", version=10, now=LATER)
    assert bounds_of(again) == ()


def test_g3_an_expired_revocation_binds_and_widens_nothing() -> None:
    held = merge(None, draft(expires_in=1.0), namespace="n", version=1, now=NOW)
    record = merge(held, draft(Bound(1)), namespace="n", version=2, now=LATER)
    assert bounds_of(record) == (Bound(1),)


def test_g3_a_store_that_lost_it_is_given_it_back_bound() -> None:
    record = stored(draft(Bound(1)))
    again = merge(None, RevocationDraft.again(record, LATER), namespace="n", version=1, now=LATER)
    assert bounds_of(again) == (Bound(1),)


@pytest.mark.parametrize("text", ["", "1", "/", "0/", "x/", "1/x", "-1/", "1/2/3", "1/" + "9" * 60, 5, None])
def test_g17_a_text_that_is_no_bound_is_refused(text: object) -> None:
    with pytest.raises((FieldError, OverflowError)):
        Bound.of_text(text)


@pytest.mark.parametrize("given", [{}, {"attempt": 0}, {"attempt": -1}, {"before": NOW.replace(tzinfo=None)}])
def test_a_bound_that_means_nothing_is_refused_with_the_next_step(given: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Bound(**given)  # type: ignore[arg-type]
    assert refused.value.hint


def signed(ring: Keyring, bound: Bound | None = None) -> RevocationDraft:
    return signed_drafts([RevocationDraft("t")], ring, namespace="n", now=NOW, bound=bound)[0]


def test_g3_a_bound_is_part_of_what_its_author_signed() -> None:
    ring = ring_of(shared("ops"))
    record = stored(signed(ring, Bound(2)))
    assert bounds_of(proven(record, ring, LATER)) == (Bound(2),)
    widened = replace(record, proofs=tuple(proof.replace('"b":"2/"', '"b":"3/"') for proof in record.proofs))
    assert widened != record
    with pytest.raises(Untrusted, match="was not signed"):
        proven(widened, ring, LATER)


def test_g3_no_writer_of_the_store_binds_what_a_key_has_revoked_without_a_bound() -> None:
    ring = ring_of(shared("ops"))
    record = stored(signed(ring))
    text = bound_text(Bound(9), now_us=epoch_us(NOW), expires_us=None)
    forged = replace(record, proofs=(*record.proofs, f'{text[:-1]},"i":{epoch_us(record.issued_at)}}}'))
    assert bounds_of(forged) == (Bound(9),), "what an unsigned fleet would make of it"
    assert bounds_of(proven(forged, ring, LATER)) == ()


def test_g3_with_keys_a_bound_and_an_unbound_proof_of_one_key_revoke_the_id() -> None:
    ring = ring_of(shared("ops"))
    for drafts in ((signed(ring), signed(ring, Bound(2))), (signed(ring, Bound(2)), signed(ring))):
        assert bounds_of(proven(stored(*drafts), ring, LATER)) == ()
    both = stored(signed(ring, Bound(2)), signed(ring, Bound(before=NOW)))
    assert set(bounds_of(proven(both, ring, LATER))) == {Bound(2), Bound(before=NOW)}
