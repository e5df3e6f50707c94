"""Who asked for a revocation: each draft is signed by its author, and the record keeps those signatures as its proofs.

A record is the sum of several drafts, and version and times are the store's to give, so no author can sign the record.
The store keeps the signed drafts beside it instead, as texts that it doesn't understand beyond their retention
(:func:`stem_kombu.revocation.kept_proofs`), and a worker with keys computes from the verified ones alone what is in
force; it ignores the rest of the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter

from stem_kombu.bound import Bound, bound_text, is_bound, stamped
from stem_kombu.clock import epoch_us, from_epoch_us
from stem_kombu.fields import FieldError, any_text, flag, json_value, mapping, optional, whole
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.signing import ladders
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted

REVOCATION = b"stem-revocation/1"
#: What every proof has: the signed draft and its signature.
_FIELDS = frozenset("texrqs")


@dataclass(frozen=True, slots=True)
class _Proof:
    """A draft as it was signed. Times are microseconds since the epoch; ``fingerprint`` is empty in proofs of 0.1.0, which can't
    verify one with a ``bound``: it does not obey it, and says so."""

    signed_us: int
    expires_us: int | None
    terminate: bool
    reason: str | None
    requested_by: str | None
    fingerprint: str
    signature: str
    bound: Bound | None = None

    @classmethod
    def decoded(cls, encoded: str) -> _Proof:
        """The proof of its text; raises :class:`FieldError`, or ``OverflowError`` for a time beyond the calendar."""
        fields = mapping(json_value(encoded), "a proof")
        if not fields.keys() >= _FIELDS:
            raise FieldError("a proof lacks a field")
        if (expires_us := optional(whole, fields["e"], "e")) is not None:
            from_epoch_us(expires_us)
        return cls(
            signed_us=whole(fields["t"], "t"),
            expires_us=expires_us,
            terminate=flag(fields["x"], "x"),
            reason=optional(any_text, fields["r"], "r"),
            requested_by=optional(any_text, fields["q"], "q"),
            fingerprint=any_text(fields.get("f", ""), "f"),
            signature=any_text(fields["s"], "s"),
            bound=None if "b" not in fields else Bound.of_text(fields["b"]),
        )

    def stated(self) -> list[object]:
        """What is signed of it, beside namespace and task id."""
        said: list[object] = [self.signed_us, self.expires_us, self.terminate, self.reason, self.requested_by]
        return said if self.bound is None else [*said, self.bound.text]


def signed_drafts(
    drafts: Iterable[RevocationDraft], keyring: Keyring, *, namespace: str, now: datetime, bound: Bound | None = None
) -> list[RevocationDraft]:
    """The drafts, each with its proof by the active key and what it is bound to. ``now`` is the store's: expiry is judged by its
    clock."""
    keyring.active.require(Scope.OPERATE, "revoke")
    signed_us = epoch_us(now)
    found = []
    for draft in drafts:
        expires_us = None
        if draft.expires_in is not None:
            expires_us = signed_us + timedelta(seconds=draft.expires_in) // timedelta(microseconds=1)
        stated = [signed_us, expires_us, draft.terminate, draft.reason, draft.requested_by]
        proof = _signed(keyring, namespace, draft.task_id, stated, bound)
        found.append(replace(draft, proofs=(*draft.proofs, proof)))
    return found


def proof_of_end(
    keyring: Keyring,
    *,
    namespace: str,
    task_id: str,
    texts: tuple[str | None, str | None],
    now: datetime,
    ended: datetime,
) -> str:
    """A proof by the active key, of a revocation that had ended when it was signed; ``texts`` are reason and requester. Workers
    of 0.1.0 verify it as any other, and so lift what is undone."""
    keyring.active.require(Scope.OPERATE, "undo a revocation")
    return _signed(keyring, namespace, task_id, [epoch_us(now), epoch_us(ended), False, *texts])


def proven(record: Revocation, keyring: Keyring, now: datetime) -> Revocation:
    """What of the record was asked for by keys that may revoke: ``terminate`` where one of them asked for it, the
    longest life that one of them gave, the words of the newest. Version and time of issue are the store's.

    ``now`` is the store's. Where all that was signed has expired, so has the record that comes back. Raises
    :class:`Untrusted` with the reason when no proof holds.
    """
    trouble = Untrusted("unsigned", f"the revocation of task {record.task_id!r} is not signed")
    held: list[_Proof] = []
    for text in record.proofs:
        try:
            held.append(_verified(record, text, keyring))
        except Untrusted as error:
            trouble = error
    if not held:
        raise trouble
    now_us = epoch_us(now)
    live = [proof for proof in held if proof.expires_us is None or proof.expires_us > now_us]
    live = sorted(live or held, key=attrgetter("signed_us"))
    ends = [proof.expires_us for proof in live if proof.expires_us is not None]
    expires_at = from_epoch_us(max(ends)) if len(ends) == len(live) else None
    if record.expires_at is not None and (expires_at is None or record.expires_at < expires_at):
        expires_at = record.expires_at  # an earlier end in the record takes a right away, it gives none
    elif expires_at is not None and expires_at < record.issued_at:
        # A captured proof that had ended when it was put back: it counts for nothing, and is no undo (a day before) either.
        expires_at = record.issued_at - timedelta(microseconds=1)
    # Of what has expired no ladder counts either: it has the end of the draft that it came with.
    record = ladders.verified(record, keyring)
    proofs = [proof for proof in record.proofs if not is_bound(proof)]  # one without a key, which any writer can add
    bounds: dict[Bound | None, int | None] = {}
    for one in live:
        longest, end = bounds.get(one.bound, 0), one.expires_us
        bounds[one.bound] = None if longest is None or end is None else max(longest, end)
    if None not in bounds:
        issued_us = epoch_us(record.issued_at)
        texts = (bound_text(one, now_us=issued_us, expires_us=ends) for one, ends in bounds.items() if one is not None)
        proofs += stamped(texts, issued_us)
    return Revocation(
        record.namespace,
        record.task_id,
        record.version,
        record.issued_at,
        any(proof.terminate for proof in live),
        next((proof.reason for proof in reversed(live) if proof.reason is not None), None),
        next((proof.requested_by for proof in reversed(live) if proof.requested_by is not None), None),
        expires_at,
        tuple(proofs),
    )


def holds(record: Revocation, proof: str, keyring: Keyring) -> bool:
    """Whether that proof of the record was signed by a key of the keyring that may revoke."""
    try:
        _verified(record, proof, keyring)
    except Untrusted:
        return False
    return True


def _verified(record: Revocation, encoded: str, keyring: Keyring) -> _Proof:
    try:
        proof = _Proof.decoded(encoded)
    except (FieldError, OverflowError):
        raise Untrusted(
            "bad-signature", f"a proof of the revocation of task {record.task_id!r} can't be read"
        ) from None
    key = keyring.verify(REVOCATION, _message(record.namespace, record.task_id, proof.stated()), proof.signature)
    if proof.fingerprint not in ("", keyring.fingerprints[key.id]):  # proofs of 0.1.0 have none
        raise Untrusted("bad-signature", f"a proof of task {record.task_id!r} names another secret than signed it")
    key.require(Scope.OPERATE, "revoke")
    return proof


def _signed(
    keyring: Keyring, namespace: str, task_id: str, stated: Sequence[object], bound: Bound | None = None
) -> str:
    """The proof of what is stated."""
    bounds = {} if bound is None else {"b": bound.text}
    signature = keyring.sign(REVOCATION, _message(namespace, task_id, [*stated, *bounds.values()]))
    # By its fingerprint a store tells this secret from another one under the same id, and keeps the proofs of both.
    fingerprint = keyring.fingerprints[keyring.active.id]
    fields = dict(zip("texrqfs", [*stated, fingerprint, signature], strict=True)) | bounds
    return json.dumps(fields, separators=(",", ":"))


def _message(namespace: str, task_id: str, stated: Sequence[object]) -> bytes:
    """What is signed: a list of fixed length, in JSON, so that no field can run over into the next."""
    return json.dumps([namespace, task_id, *stated], separators=(",", ":")).encode()
