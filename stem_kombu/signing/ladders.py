"""Who asked for a ladder: its author signs the spans and the task; SIGKILL takes the scope ``destroy``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from stem_kombu.clock import epoch_us
from stem_kombu.ladder import Ladder, LadderText, is_ladder
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted

LADDER = b"stem-ladder/1"


def require(keyring: Keyring | None, ladder: Ladder) -> None:
    """Raise :class:`Untrusted` where the active key may not ask for that ladder."""
    if keyring is not None and ladder.kill_after is not None:
        keyring.active.require(Scope.DESTROY, "kill tasks")


def with_ladder(
    drafts: Iterable[RevocationDraft], ladder: Ladder, keyring: Keyring | None, *, namespace: str, now: datetime
) -> list[RevocationDraft]:
    """The drafts, each with the ladder, signed by the active key where there are keys. ``now`` is the store's."""
    require(keyring, ladder)
    signed_us = epoch_us(now)
    found = []
    for draft in drafts:
        life = draft.expires_in
        expires_us = None if life is None else signed_us + timedelta(seconds=life) // timedelta(microseconds=1)
        text = LadderText(signed_us, expires_us, ladder.term_after, ladder.kill_after)
        if keyring is not None:
            text = replace(text, key=keyring.active.id)
            text = replace(text, signature=keyring.sign(LADDER, text.stated(namespace, draft.task_id)))
        found.append(replace(draft, proofs=(*draft.proofs, text.encoded())))
    return found


def verified(record: Revocation, keyring: Keyring) -> Revocation:
    """The record without the ladders that no key has signed which may ask for them."""
    if not any(map(is_ladder, record.proofs)):
        return record
    return replace(
        record,
        proofs=tuple(p for p in record.proofs if not is_ladder(p) or _holds(record, LadderText.decoded(p), keyring)),
    )


def _holds(record: Revocation, text: LadderText | None, keyring: Keyring) -> bool:
    if text is None:
        return False
    try:
        key = keyring.verify(LADDER, text.stated(record.namespace, record.task_id), text.signature)
        key.require(Scope.OPERATE, "revoke")
        if text.kill_after is not None:
            key.require(Scope.DESTROY, "kill tasks")
    except Untrusted:
        return False
    return key.id == text.key
