"""Who asked for a directive, and that an old one can't be put back (operators.md, section 1)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from stem_kombu.agent.directive_loop import DirectiveLoop
from stem_kombu.agent.held_directives import HeldDirectives
from stem_kombu.control.server.worker_view import Obeyed, WorkerIdentity
from stem_kombu.control.verification import Verifier
from stem_kombu.directive import Directive, Kind
from stem_kombu.signing.directive_proofs import proof_of, proven_after
from stem_kombu.signing.keyring import Keyring, Untrusted
from tests.signing.keys import SCOPES, ring, shared

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
OPS = ring(shared("ops", "viewer", "fleet", "root", key_scopes=SCOPES))
VIEWER = ring(shared("viewer", "ops", "fleet", "root", key_scopes=SCOPES))
STRANGER = ring(shared("stranger", key_scopes="stranger:*"))
PAUSE = Directive("stem", Kind.PAUSE, "mail", "*", True, 12, NOW, NOW + timedelta(hours=1), "INC-42", "ada@ops")


def signed(directive: Directive = PAUSE, keyring: Keyring = OPS, after: int = 10) -> Directive:
    proof = proof_of(
        directive.body(), keyring, namespace=directive.namespace, expires_at=directive.expires_at, after=after
    )
    return replace(directive, proof=proof)


def test_a_signed_directive_is_proven_and_survives_its_json_form() -> None:
    one = signed()
    assert proven_after(one, OPS) == 10
    assert proven_after(Directive.from_record(one.to_record()), OPS) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "other"},
        {"subject": "video"},
        {"subject": None},
        {"workers": "alpha"},
        {"value": False},
        {"reason": "nothing"},
        {"requested_by": "bob"},
        {"cleared": True},
        {"expires_at": None},
        {"expires_at": NOW + timedelta(days=1)},
    ],
)
def test_a_changed_field_is_noticed(change: dict[str, Any]) -> None:
    with pytest.raises(Untrusted) as refused:
        proven_after(replace(signed(), **change), OPS)
    assert refused.value.reason == "bad-signature"


@pytest.mark.parametrize(
    ("directive", "reason"),
    [
        (PAUSE, "unsigned"),
        (replace(PAUSE, proof="{}"), "bad-signature"),
        (replace(PAUSE, proof="not json"), "bad-signature"),
        (signed(keyring=STRANGER), "unknown-key"),
        (replace(signed(), version=10), "replayed"),
    ],
)
def test_what_proves_nothing_has_its_reason(directive: Directive, reason: str) -> None:
    with pytest.raises(Untrusted) as refused:
        proven_after(directive, OPS)
    assert refused.value.reason == reason


def test_a_key_without_operate_gives_no_directives() -> None:
    with pytest.raises(Untrusted):
        signed(keyring=VIEWER)


def test_an_old_pause_that_is_put_back_under_a_new_version_is_refused() -> None:
    """By whoever can write to the store, or sends an old command's record again."""
    verifier = Verifier(OPS)
    pause, resume = signed(), signed(replace(PAUSE, version=20, cleared=True), after=15)
    again = replace(pause, version=30)
    assert verifier.proven_directives([pause], lambda _: 0) == ([pause], [])
    assert verifier.proven_directives([resume], lambda _: 12) == ([resume], [])
    assert verifier.proven_directives([again], lambda _: 20) == ([], [again])
    assert verifier.directives.dropped == {"replayed": 1}
    # What is known already is neither obeyed again nor counted.
    assert verifier.proven_directives([pause], lambda _: 12) == ([], [])


def test_g24_what_a_store_has_lost_and_was_given_back_counts_under_its_new_version() -> None:
    held = HeldDirectives(WorkerIdentity("stem", "alpha", "b", "host", 1, "0.2", NOW), ["mail"], lambda: NOW)
    loop = DirectiveLoop(held, Verifier(OPS), lambda: Obeyed(held.version))
    pause = signed()
    loop.obey([pause])
    assert loop.obey([replace(pause, version=30, issued_at=NOW + timedelta(minutes=1))]).refused == ()
    held.update()
    assert held.paused["mail"].version == 30
    # Not so what was cleared meanwhile
    loop.obey([signed(replace(PAUSE, version=40, cleared=True), after=35)])
    assert len(loop.obey([replace(pause, version=50)]).refused) == 1


def test_without_keys_everything_is_obeyed() -> None:
    assert Verifier(None).proven_directives([PAUSE], lambda _: 99) == ([PAUSE], [])
