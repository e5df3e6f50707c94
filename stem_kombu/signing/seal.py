"""A signature around a message of JSON: the very bytes that travel are signed, not what a reader makes of them.

    {"v":1,"id":"…",…,"sig":"hmac-sha256:ops:…"}

Everything before the last member is signed, byte by byte; the member is appended in one spelling and nothing may follow.
So nothing has to be parsed before it is verified, two parsers can't differ about what was signed, and a process that has no
keys reads the message as if it were not there (docs/adr/0013-signing.md).
"""

from __future__ import annotations

import hashlib

from stem_kombu.signing.keyring import LONGEST_SIGNATURE, Key, Keyring, Untrusted

_MEMBER, _END = b',"sig":"', b'"}'

#: Domains: what is signed as one of these can't pass for another.
COMMAND, REPLY = b"stem-command/1", b"stem-reply/1"
#: Bytes that a seal may add.
SEAL_BYTES = len(_MEMBER) + LONGEST_SIGNATURE + len(_END)


def sealed(body: bytes, domain: bytes, keyring: Keyring) -> bytes:
    """The object of JSON with its signature as the last member; ``body`` has at least one member."""
    signed = body[:-1]
    return signed + _MEMBER + keyring.sign(domain, signed).encode() + _END


def unsealed(body: bytes, domain: bytes, keyring: Keyring) -> Key:
    """The key that signed the message; nothing of it was parsed. Raises :class:`Untrusted`."""
    signed, signature = _split(body)
    return keyring.verify(domain, signed, signature)


def signature_of(body: bytes) -> str | None:
    """The signature as it stands there, unchecked; ``None`` where there is none."""
    try:
        return _split(body)[1]
    except Untrusted:
        return None


def digest_of(body: bytes) -> str:
    """The SHA-256 of the very bytes of a message, in hexadecimal: by it an answer names the message that it answers."""
    return hashlib.sha256(body).hexdigest()


def _split(body: bytes) -> tuple[bytes, str]:
    at = body.rfind(_MEMBER, max(0, len(body) - SEAL_BYTES))
    if at < 0 or not body.endswith(_END):
        raise Untrusted("unsigned", "it is not signed")
    return body[:at], body[at + len(_MEMBER) : -len(_END)].decode("ascii", "replace")
