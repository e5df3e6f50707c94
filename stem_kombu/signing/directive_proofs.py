"""Who asked for a directive: its author signs all of it, and the version after which it was written.

Version and time are the store's to give. So the proof says after which version of the store its author wrote: an old record
that is put back under a new version says an older one, and a worker that has seen what came between refuses it. No clock
decides.
"""

from __future__ import annotations

import json
from datetime import datetime

from stem_kombu.clock import epoch_us
from stem_kombu.directive import Directive
from stem_kombu.fields import FieldError, any_text, json_value, mapping, whole
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted

DIRECTIVE = b"stem-directive/1"


def proof_of(
    body: dict[str, object], keyring: Keyring, *, namespace: str, expires_at: datetime | None, after: int
) -> str:
    """The proof of a directive's ``body`` by the active key; ``after`` is the store's revision at which it was planned.
    Raises :class:`Untrusted` for a key without the scope ``operate``."""
    keyring.active.require(Scope.OPERATE, "give directives")
    signature = keyring.sign(DIRECTIVE, _message(namespace, body, expires_at, after))
    # By its fingerprint this secret is told from another one under the same id.
    fingerprint = keyring.fingerprints[keyring.active.id]
    return json.dumps({"a": after, "f": fingerprint, "s": signature}, separators=(",", ":"))


def proven_after(directive: Directive, keyring: Keyring) -> int:
    """After which version the directive was written, by a key that may give directives. Raises :class:`Untrusted` with the
    reason."""
    named = f"the directive {directive.kind.value} of {directive.subject or 'all'} for workers {directive.workers}"
    if directive.proof is None:
        raise Untrusted("unsigned", f"{named} is not signed")
    try:
        fields = mapping(json_value(directive.proof), "a proof")
        after = whole(fields.get("a"), "a")
        fingerprint, signature = any_text(fields.get("f"), "f"), any_text(fields.get("s"), "s")
    except FieldError:
        raise Untrusted("bad-signature", f"the proof of {named} can't be read") from None
    body = directive.body()
    body.pop("proof", None)
    key = keyring.verify(DIRECTIVE, _message(directive.namespace, body, directive.expires_at, after), signature)
    if fingerprint != keyring.fingerprints[key.id]:
        raise Untrusted("bad-signature", f"the proof of {named} names another secret than signed it")
    key.require(Scope.OPERATE, "give directives")
    if directive.version <= after:
        raise Untrusted("replayed", f"{named} has version {directive.version}, and was written after {after}")
    return after


def _message(namespace: str, body: dict[str, object], expires_at: datetime | None, after: int) -> bytes:
    """What is signed, in JSON, so that no field can run over into the next."""
    end = None if expires_at is None else epoch_us(expires_at)
    return json.dumps([namespace, body, end, after], separators=(",", ":"), sort_keys=True).encode()
