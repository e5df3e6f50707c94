"""Which revocations a worker with keys believes, and how much of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from stem_kombu.revocation import MOST_PROOFS, Revocation, kept_proofs, merge
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.proofs import proven, signed_drafts
from stem_kombu.undone import is_undo
from tests.signing.keys import SCOPES, hmac_keys, ring, shared

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
OPS, ROOT = ring(shared("ops", key_scopes=SCOPES)), ring(shared("root", key_scopes=SCOPES))
WORKER = ring(shared("fleet", "ops", "root", "viewer", key_scopes=SCOPES))


def after(*drafts: tuple[Keyring | None, Draft], now: datetime = NOW) -> Revocation:
    """The record after these drafts, each signed with those keys or not at all."""
    record: Revocation | None = None
    for version, (keys, draft) in enumerate(drafts, 1):
        signed = draft if keys is None else signed_drafts([draft], keys, namespace="stem", now=now)[0]
        record = merge(record, signed, namespace="stem", version=version, now=now)
    assert record is not None
    return record


def test_what_was_signed_is_in_force_as_it_was_asked_for() -> None:
    record = after((OPS, Draft("t", True, "bad deploy", "ann@host", 60.0)))

    assert proven(record, WORKER, NOW) == record


def test_what_was_merged_from_several_is_the_sum_of_the_signed() -> None:
    record = after(
        (OPS, Draft("t", True, "first", "ann", 60.0)),
        (ROOT, Draft("t", False, None, "bob", 600.0)),
    )

    assert proven(record, WORKER, NOW) == record
    assert (record.terminate, record.reason, record.requested_by) == (True, "first", "bob")


def test_what_nobody_signed_adds_nothing_and_destroys_nothing() -> None:
    record = after((OPS, Draft("t", False, "signed", "ann", 60.0)), (None, Draft("t", True, "forged", "eve", None)))

    found = proven(record, WORKER, NOW)

    assert (record.terminate, record.expires_at, record.reason) == (True, None, "forged")
    assert (found.terminate, found.expires_at) == (False, NOW + timedelta(seconds=60))
    assert (found.reason, found.requested_by, found.version) == ("signed", "ann", 2)


@pytest.mark.parametrize("ago", [timedelta(seconds=1), timedelta(days=30)])
def test_g31_a_captured_proof_that_has_ended_counts_for_nothing_and_is_no_undo(ago: timedelta) -> None:
    signed = signed_drafts([Draft("t", True, None, "ann", 60.0)], OPS, namespace="stem", now=NOW - ago - MINUTE)[0]
    put_back = merge(None, replace(signed, expires_in=None), namespace="stem", version=7, now=NOW)

    found = proven(put_back, WORKER, NOW)

    assert found.is_expired(NOW - timedelta(days=60)), "whatever the time is taken to be"
    assert not is_undo(found)


def test_a_life_that_somebody_prolonged_ends_when_it_was_signed_to_end() -> None:
    record = after((OPS, Draft("t", True, None, None, 60.0)), (None, Draft("t")))

    assert proven(record, WORKER, NOW + timedelta(seconds=61)).is_expired(NOW + timedelta(seconds=61))


def test_a_terminate_ends_with_the_life_that_was_signed_with_it_though_another_draft_lives_on() -> None:
    record = after((OPS, Draft("t", True, None, None, 60.0)), (ROOT, Draft("t", False, None, None, 600.0)))

    assert proven(record, WORKER, NOW + timedelta(seconds=59)).terminate
    assert not proven(record, WORKER, NOW + timedelta(seconds=61)).terminate


def test_an_end_that_somebody_put_earlier_counts() -> None:
    record = replace(after((OPS, Draft("t", True))), expires_at=NOW)

    assert proven(record, WORKER, NOW).is_expired(NOW)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"proofs": ()}, "unsigned"),
        ({"task_id": "other"}, "bad-signature"),
        ({"namespace": "other"}, "bad-signature"),
        ({"proofs": ("{}",)}, "bad-signature"),
        ({"proofs": ("[" * 5000,)}, "bad-signature"),
        ({"proofs": ('{"t":1,"e":true,"x":false,"r":null,"q":null,"s":"hmac-sha256:ops:AA=="}',)}, "bad-signature"),
        ({"proofs": ('{"t":1,"e":1e999,"x":false,"r":null,"q":null,"s":"hmac-sha256:ops:AA=="}',)}, "bad-signature"),
    ],
)
def test_a_proof_is_good_for_its_own_record_alone(change: dict[str, object], reason: str) -> None:
    record = replace(after((OPS, Draft("t"))), **change)  # type: ignore[arg-type]

    with pytest.raises(Untrusted) as refused:
        proven(record, WORKER, NOW)

    assert refused.value.reason == reason


@pytest.mark.parametrize("field", list("texrq"))
def test_each_field_of_a_proof_is_signed(field: str) -> None:
    record = after((OPS, Draft("t", False, "why", "ann", 60.0)))
    proof = json.loads(record.proofs[0])
    proof[field] = {"t": proof["t"] + 1, "e": None, "x": True, "r": "other", "q": None}[field]

    with pytest.raises(Untrusted):
        proven(replace(record, proofs=(json.dumps(proof),)), WORKER, NOW)


def test_a_key_that_may_not_revoke_signs_no_draft_and_proves_nothing() -> None:
    viewer = ring(shared("viewer", key_scopes=SCOPES))
    with pytest.raises(Untrusted) as refused:
        signed_drafts([Draft("t")], viewer, namespace="stem", now=NOW)
    assert refused.value.reason == "not-permitted"

    hacked = ring(shared("viewer"))  # who changed the variable on his own machine
    with pytest.raises(Untrusted) as refused:
        proven(after((hacked, Draft("t", True))), WORKER, NOW)
    assert refused.value.reason == "not-permitted"


def test_g3_a_proof_by_another_secret_under_the_same_key_id_replaces_nothing() -> None:
    other = ring(SigningSettings(keys=f"ops:{hmac_keys('eve').partition(':')[2]}", active_key="ops"))
    record = after((OPS, Draft("t", True, "genuine")), (other, Draft("t", True, "from a laptop")))

    assert len(record.proofs) == 2
    assert (record.reason, proven(record, WORKER, NOW).reason) == ("from a laptop", "genuine")


def test_a_proof_of_0_1_0_which_names_no_fingerprint_is_verified_all_the_same() -> None:
    record = after((OPS, Draft("t", True, "genuine")))
    fields = json.loads(record.proofs[0])
    del fields["f"]

    assert proven(replace(record, proofs=(json.dumps(fields),)), WORKER, NOW).terminate
    with pytest.raises(Untrusted):
        proven(replace(record, proofs=(json.dumps({**fields, "f": "0" * 12}),)), WORKER, NOW)


def test_proofs_that_add_nothing_are_not_kept_and_a_stranger_pushes_out_nobody() -> None:
    record = after(*[(OPS, Draft("t", True, f"take {take}")) for take in range(5)])
    assert len(record.proofs) == 1

    strangers = [ring(shared(f"stranger-{number}")) for number in range(MOST_PROOFS - 1)]
    record = after((OPS, Draft("t", True)), *[(stranger, Draft("t")) for stranger in strangers])

    assert len(record.proofs) == MOST_PROOFS
    assert proven(record, WORKER, NOW).terminate
    assert kept_proofs(record.proofs, record.proofs, NOW) == record.proofs
