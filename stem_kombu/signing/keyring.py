"""A process's keys: the one that it signs with, and those whose signatures it accepts, each with its permissions.

A signature travels as text, ``algorithm:key-id:base64``. What is signed is the domain (a command can't pass for a
reply), the algorithm and the key's id, and the message, so that none of them can be exchanged for another.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from stem_kombu.errors import ControlError
from stem_kombu.signing.algorithms import KeyMaterial

#: Ids of keys: what can stand in a comma list beside a colon, in a signature and in a log.
KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SIGNATURE = re.compile(r"([a-z0-9-]{1,32}):([A-Za-z0-9._-]{1,64}):([A-Za-z0-9+/]{1,256}={0,2})", re.ASCII)
#: Longest signature that is looked at, in characters.
LONGEST_SIGNATURE = 400


class Scope(str, Enum):
    """What a key may be used for."""

    READ = "read"  # ping, inspect, stats, status
    OPERATE = "operate"  # revoke, whatever else changes something, and an application's own commands
    DESTROY = "destroy"  # together with operate: end what can't be taken back, such as a handler in the middle
    READ_ARGS = "read-args"  # see the arguments of tasks
    WORK = "work"  # act as a worker: replies and heartbeats
    SEND = "send"  # enqueue tasks


#: What comes with a scope: an operator may run workers and send tasks; a worker sends the next attempt of a task. ``DESTROY``
#: comes with none: an operator's key that could stop tasks before a fleet was upgraded must not kill them afterwards.
_IMPLIED = {
    Scope.OPERATE: frozenset({Scope.WORK, Scope.SEND}),
    Scope.WORK: frozenset({Scope.SEND}),
}
EVERYTHING = frozenset(Scope)


def with_implied(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """The scopes, and those that come with them."""
    found = frozenset(scopes)
    return found.union(*(_IMPLIED.get(scope, frozenset()) for scope in found))


class Untrusted(ControlError):
    """A message, record or heartbeat that failed verification. ``reason`` is the word under which it is counted."""

    code = "refused"

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Key:
    """One key under its id."""

    id: str
    material: KeyMaterial = field(repr=False)
    scopes: frozenset[Scope] = EVERYTHING

    @property
    def algorithm(self) -> str:
        return self.material.algorithm

    def require(self, scope: Scope, what: str) -> None:
        """Raises :class:`Untrusted` (``not-permitted``) when the key may not be used for ``what``: ``destroy`` needs ``operate``
        too."""
        if scope is Scope.DESTROY:
            self.require(Scope.OPERATE, what)
        if scope not in self.scopes:
            raise Untrusted(
                "not-permitted",
                f"key {self.id!r} may not {what}: it lacks the scope {scope.value!r}",
                hint="use a key that may, or widen STEM_SIGNING_KEY_SCOPES everywhere",
            )


class Keyring:
    """Keys by id; ``active`` signs. Immutable; safe to use from several threads."""

    def __init__(self, keys: Iterable[Key], active: str, *, scoped: bool = False) -> None:
        self.keys: dict[str, Key] = {key.id: key for key in keys}
        self.active: Key = self.keys[active]
        #: Whether permissions were given; without, every key may do everything.
        self.scoped = scoped
        #: What tells the secrets of these keys apart, by key id.
        self.fingerprints: dict[str, str] = {key.id: key.material.fingerprint() for key in self.keys.values()}
        self._prefixes = {key.id: f"\0{key.algorithm}:{key.id}\0".encode() for key in self.keys.values()}

    def sign(self, domain: bytes, message: bytes) -> str:
        """The signature of the message in a domain, by the active key."""
        key = self.active
        signature = key.material.sign(domain + self._prefixes[key.id] + message)
        return f"{key.algorithm}:{key.id}:{binascii.b2a_base64(signature, newline=False).decode()}"

    def verify(self, domain: bytes, message: bytes, signature: str) -> Key:
        """The key that signed the message. Raises :class:`Untrusted`: ``bad-signature``, ``unknown-key`` or
        ``wrong-algorithm``."""
        match = _SIGNATURE.fullmatch(signature) if len(signature) <= LONGEST_SIGNATURE else None
        if match is None:
            raise Untrusted("bad-signature", "the signature can't be read")
        algorithm, key_id, encoded = match.groups()
        key = self.keys.get(key_id)
        if key is None:
            raise Untrusted("unknown-key", f"it is signed with key {key_id!r}, which is not known here")
        if algorithm != key.algorithm:
            # The key decides how it is used, never the message: else a public key would do as an HMAC secret.
            raise Untrusted("wrong-algorithm", f"key {key_id!r} is for {key.algorithm}, not for {algorithm}")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise Untrusted("bad-signature", "the signature can't be read") from None
        # One spelling only: unused bits at the end of base64 would make several of one signature.
        if binascii.b2a_base64(raw, newline=False).decode() != encoded:
            raise Untrusted("bad-signature", "the signature can't be read")
        if not key.material.verify(domain + self._prefixes[key_id] + message, raw):
            raise Untrusted("bad-signature", f"it was not signed with key {key_id!r}, or was changed since")
        return key
