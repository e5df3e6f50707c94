"""Who asked for a revocation: each draft is signed by its author, and the record keeps those signatures as its proofs.

A record is the sum of several drafts, and version and times are the store's to give, so no author can sign the record.
The store keeps the signed drafts beside it instead, as texts that it doesn't understand beyond their retention
(:func:`stem_kombu.revocation.kept_proofs`), and a worker with keys computes from the verified ones alone what is in
force: whatever else the record says was asked for by nobody who may.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from stem_kombu.clock import epoch_us, from_epoch_us
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted

REVOCATION = b"stem-revocation/1"


def signed_drafts(
    drafts: Iterable[RevocationDraft], keyring: Keyring, *, namespace: str, now: datetime
) -> list[RevocationDraft]:
    """The drafts, each with its proof by the active key. ``now`` is the store's: expiry is judged by its clock."""
    keyring.active.require(Scope.OPERATE, "revoke")
    signed_us = epoch_us(now)
    found = []
    for draft in drafts:
        expires_us = None
        if draft.expires_in is not None:
            expires_us = signed_us + timedelta(seconds=draft.expires_in) // timedelta(microseconds=1)
        stated = [signed_us, expires_us, draft.terminate, draft.reason, draft.requested_by]
        signature = keyring.sign(REVOCATION, _message(namespace, draft.task_id, stated))
        # By its fingerprint a store tells this secret from another one under the same id, and keeps the proofs of both.
        fingerprint = keyring.fingerprints[keyring.active.id]
        fields = dict(zip("texrqfs", [*stated, fingerprint, signature], strict=True))
        proof = json.dumps(fields, separators=(",", ":"))
        found.append(replace(draft, proofs=(*draft.proofs, proof)))
    return found


def proven(record: Revocation, keyring: Keyring, now: datetime) -> Revocation:
    """What of the record was asked for by keys that may revoke: ``terminate`` where one of them asked for it, the
    longest life that one of them gave, the words of the newest. Version and time of issue are the store's.

    ``now`` is the store's. Where all that was signed has expired, so has the record that comes back. Raises
    :class:`Untrusted` with the reason when no proof holds.
    """
    trouble = Untrusted("unsigned", f"the revocation of task {record.task_id!r} is not signed")
    held: list[dict[str, Any]] = []
    for text in record.proofs:
        try:
            held.append(_verified(record, text, keyring))
        except Untrusted as error:
            trouble = error
    if not held:
        raise trouble
    now_us = epoch_us(now)
    live = [proof for proof in held if proof["e"] is None or proof["e"] > now_us]
    live = sorted(live or held, key=lambda proof: int(proof["t"]))
    lives = [proof["e"] for proof in live]
    expires_at = None if None in lives else from_epoch_us(max(lives))
    if record.expires_at is not None and (expires_at is None or record.expires_at < expires_at):
        expires_at = record.expires_at  # an end that somebody put earlier takes a right away, it gives none
    return Revocation(
        record.namespace,
        record.task_id,
        record.version,
        record.issued_at,
        any(proof["x"] for proof in live),
        next((proof["r"] for proof in reversed(live) if proof["r"] is not None), None),
        next((proof["q"] for proof in reversed(live) if proof["q"] is not None), None),
        expires_at,
        record.proofs,
    )


def holds(record: Revocation, proof: str, keyring: Keyring) -> bool:
    """Whether that proof of the record was signed by a key of the keyring that may revoke."""
    try:
        _verified(record, proof, keyring)
    except Untrusted:
        return False
    return True


def _verified(record: Revocation, text: str, keyring: Keyring) -> dict[str, Any]:
    try:
        proof = json.loads(text)
        signed_us, expires_us, terminate, reason, requested_by, signature = (proof[name] for name in "texrqs")
        sound = (
            type(signed_us) is int
            and (expires_us is None or type(expires_us) is int)
            and type(terminate) is bool
            and isinstance(reason, (str, type(None)))
            and isinstance(requested_by, (str, type(None)))
            and isinstance(signature, str)
            and isinstance(proof.get("f", ""), str)
        )
        if not sound or (expires_us is not None and from_epoch_us(expires_us) is None):
            raise ValueError("a field is of another type")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Untrusted(
            "bad-signature", f"a proof of the revocation of task {record.task_id!r} can't be read"
        ) from None
    stated = [signed_us, expires_us, terminate, reason, requested_by]
    key = keyring.verify(REVOCATION, _message(record.namespace, record.task_id, stated), signature)
    if proof.get("f", "") not in ("", keyring.fingerprints[key.id]):  # proofs of 0.1.0 have none
        raise Untrusted("bad-signature", f"a proof of task {record.task_id!r} names another secret than signed it")
    key.require(Scope.OPERATE, "revoke")
    return dict(zip("texrq", stated, strict=True))


def _message(namespace: str, task_id: str, stated: Sequence[Any]) -> bytes:
    """What is signed: a list of fixed length, in JSON, so that no field can run over into the next."""
    return json.dumps([namespace, task_id, *stated], separators=(",", ":")).encode()
