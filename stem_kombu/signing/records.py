"""Who wrote a control record: its body is signed together with where it stands, so that it can't stand for another one.

A body names the version that it replaces, as the writer gave it to the store (``RecordDraft.replaces``): what a store held before
can't be put back under a new version. A reader compares that for itself where it matters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from stem_kombu.signing.keyring import Keyring, Scope, Untrusted

#: What is signed as this can't pass for a command or a proof.
_DOMAIN = b"stem-record/1"
_SIGNATURE = "signature"


def signed_body(
    body: Mapping[str, object], keyring: Keyring, *, namespace: str, place: str, key: str
) -> dict[str, object]:
    """The body with its signature by the active key. Raises :class:`Untrusted` where that key may not change anything."""
    keyring.active.require(Scope.OPERATE, f"write a record of {place}")
    return {**body, _SIGNATURE: keyring.sign(_DOMAIN, _message(body, namespace, place, key))}


def verify_body(
    body: Mapping[str, object],
    keyring: Keyring,
    *,
    namespace: str,
    place: str,
    key: str,
    scope: Scope = Scope.OPERATE,
) -> None:
    """Return when a key with the scope signed the body for this place and key; raises :class:`Untrusted`."""
    signature = body.get(_SIGNATURE)
    if not isinstance(signature, str):
        raise Untrusted("unsigned", f"the record {key!r} of {place} is not signed")
    rest = {name: value for name, value in body.items() if name != _SIGNATURE}
    keyring.verify(_DOMAIN, _message(rest, namespace, place, key), signature).require(
        scope, f"write a record of {place}"
    )


def _message(body: Mapping[str, object], namespace: str, place: str, key: str) -> bytes:
    """What is signed: JSON in one spelling."""
    return json.dumps([namespace, place, key, dict(body)], separators=(",", ":"), sort_keys=True).encode()
