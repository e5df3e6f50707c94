"""What somebody tries who may write to the revoke store: nothing that nobody signed is in force, in any of the five."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from stem_kombu.clock import SYSTEM, epoch_us
from stem_kombu.revocation import RevocationDraft as Draft
from tests.signing.scene import EVE, FALSE_OPS, OPS, ROOT, VIEWER, Scene
from tests.waiting import eventually

_numbers = itertools.count()


@pytest.fixture(scope="module", params=["memory", "file", "sqlite", "redis", "postgres"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("stores")
    if request.param in ("redis", "postgres"):
        server = request.getfixturevalue(f"{request.param}_server")
        server.start()
        store = server.new_database()
    else:
        places = {"memory": f"stores-{next(_numbers)}", "file": f"{folder}/revokes", "sqlite": f"{folder}/revokes.db"}
        store = f"{request.param}://{places[request.param]}"
    scene = Scene(f"sqlite://{folder}/broker.db", f"sqlite://{folder}/state.db", store, folder)
    yield scene
    scene.close()


@dataclass(frozen=True)
class Attack:
    """Drafts, and the reason under which the record must be counted that comes of them."""

    name: str
    reason: str
    drafts: Callable[[Scene], Sequence[Draft]]


def _made_up(**changes: object) -> str:
    fields = {"t": 1, "e": None, "x": True, "r": None, "q": None, "s": "hmac-sha256:ops:AAAA"}
    return json.dumps({**fields, **changes})


def _altered(draft: Draft, **changes: object) -> Draft:
    return Draft("victim", True, proofs=(json.dumps({**json.loads(draft.proofs[0]), **changes}),))


ATTACKS = [
    Attack("a record that nobody signed", "unsigned", lambda s: [Draft("victim", True)]),
    # These come first: whatever looks like a proof is kept beside what comes after it.
    Attack("what is no proof at all", "unsigned", lambda s: [Draft("victim", True, proofs=("{}", "[", "null"))]),
    Attack("a record for ever", "unsigned", lambda s: [Draft("victim", True, "why", "root@bastion", None)]),
    Attack("a record that a viewer signed", "not-permitted", lambda s: [s.draft("victim", VIEWER)]),
    Attack("a record that a stranger signed", "unknown-key", lambda s: [s.draft("victim", EVE)]),
    Attack("a record by another key of a known name", "bad-signature", lambda s: [s.draft("victim", FALSE_OPS)]),
    Attack("another task's proof", "bad-signature", lambda s: [Draft("victim", True, proofs=s.draft("x", OPS).proofs)]),
    Attack(
        "another namespace's proof",
        "bad-signature",
        lambda s: [Draft("victim", True, proofs=s.draft("victim", OPS, namespace="other").proofs)],
    ),
    Attack(
        "a proof with terminate added",
        "bad-signature",
        lambda s: [_altered(s.draft("victim", OPS, terminate=False), x=True)],
    ),
    Attack("a proof with another reason", "bad-signature", lambda s: [_altered(s.draft("victim", OPS), r="because")]),
    Attack("a proof with another requester", "bad-signature", lambda s: [_altered(s.draft("victim", OPS), q="root")]),
    Attack("a proof with another time", "bad-signature", lambda s: [_altered(s.draft("victim", OPS), t=1)]),
    Attack(
        "a proof with a longer life",
        "bad-signature",
        lambda s: [_altered(s.draft("victim", OPS, expires_in=9.0), e=None)],
    ),
    Attack("a made-up proof", "bad-signature", lambda s: [Draft("victim", True, proofs=(_made_up(),))]),
    Attack(
        "a proof for no algorithm",
        "wrong-algorithm",
        lambda s: [Draft("victim", True, proofs=(_made_up(s="none:ops:AAAA"),))],
    ),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_g4_a_record_that_nobody_signed_is_counted_and_not_in_force(scene: Scene, attack: Attack) -> None:
    before, state = scene.dropped("revocations", attack.reason), scene.state()

    scene.store.save("stem", attack.drafts(scene))
    assert scene.worker.hydration.sync()

    assert scene.dropped("revocations", attack.reason) > before
    assert scene.state() == state


def test_g4_an_unsigned_draft_over_a_signed_record_changes_nothing_that_counts(scene: Scene) -> None:
    """The store's rule lets terminate stick and the longer life win; a worker with keys believes what was signed."""
    task = f"held-{next(_numbers)}"
    with scene.client() as client:
        client.revoke([task], reason="signed", requested_by="ann", expires_in=3600.0)
    held = scene.worker.cache.get(task)
    assert held is not None and held.expires_at is not None

    scene.store.save("stem", [Draft(task, True, "added", "eve", None)])
    assert scene.worker.hydration.sync()

    merged, after = scene.store.get("stem", task), scene.worker.cache.get(task)
    assert merged is not None and after is not None
    assert (merged.terminate, merged.expires_at, merged.reason) == (True, None, "added")
    assert (after.terminate, after.expires_at, after.reason, after.requested_by) == (
        False,
        held.expires_at,
        "signed",
        "ann",
    )


def test_g4_what_several_operators_signed_adds_up(scene: Scene) -> None:
    task = f"shared-{next(_numbers)}"
    scene.store.save("stem", [scene.draft(task, OPS, terminate=False, reason="first")])
    scene.store.save("stem", [scene.draft(task, ROOT, terminate=True, requested_by="bob", expires_in=60.0)])
    assert scene.worker.hydration.sync()

    held = scene.worker.cache.get(task)

    assert held is not None
    assert (held.terminate, held.reason, held.requested_by, held.expires_at) == (True, "first", "bob", None)


def test_g3_an_old_proof_is_worth_no_more_than_the_life_that_was_signed_with_it(scene: Scene) -> None:
    """A captured draft that is put back when it has expired, with a longer life beside it."""
    task = f"old-{next(_numbers)}"
    captured = scene.draft(task, OPS, expires_in=0.05)
    expires_us = json.loads(captured.proofs[0])["e"]
    eventually(lambda: epoch_us(SYSTEM.utcnow()) > expires_us + 1000)

    scene.store.save("stem", [Draft(task, True, proofs=captured.proofs)])
    assert scene.worker.hydration.sync()

    held = scene.store.get("stem", task)
    assert held is not None
    assert scene.worker.cache.get(task) is None
    # It is no undo that the store has lost: the worker reads nothing anew, and writes nothing.
    assert scene.worker.hydration.sync()
    assert scene.store.get("stem", task) == held


def test_g2_what_is_refused_does_not_hold_up_what_comes_after_it(scene: Scene) -> None:
    task = f"after-{next(_numbers)}"
    scene.store.save("stem", [Draft("victim", True), scene.draft(task, OPS), Draft("victim-2", True)])

    assert scene.worker.hydration.sync()

    assert task in scene.worker.cache
    assert scene.worker.cache.revision == scene.store.revision("stem")
