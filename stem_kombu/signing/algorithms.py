"""The two algorithms, each with its keys: what signs, what verifies, and what a key may look like.

A key belongs to one algorithm for its whole life; nothing in a message can change that. Ed25519 comes from the
package ``cryptography``, which is loaded when the first such key is made.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Protocol

from stem_kombu.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HMAC_SHA256 = "hmac-sha256"
ED25519 = "ed25519"
ALGORITHMS = (HMAC_SHA256, ED25519)

#: Fewest bytes of a shared secret: 112 bits, below which NIST SP 800-131A calls an HMAC key insecure. Ours have 32 bytes.
SHORTEST_SECRET = 14
GENERATED_BYTES = 32
_ED25519_BYTES = 32


class KeyMaterial(Protocol):
    """What an algorithm does with one key. Safe to use from several threads; its ``repr`` shows no secret."""

    algorithm: str

    @property
    def can_sign(self) -> bool:
        """Whether the secret half is here."""

    def sign(self, message: bytes) -> bytes:
        """The signature of the message; only where :attr:`can_sign`."""

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether that is the message's signature by this key; takes equally long for every wrong one of a length."""

    def fingerprint(self) -> str:
        """A few digits by which people tell keys apart; they do not give the secret away."""


class HmacKey:
    """A shared secret: a process that can verify with it can sign with it."""

    algorithm = HMAC_SHA256
    can_sign = True

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"a secret of {len(secret)} bytes is too short, at least {SHORTEST_SECRET} are accepted")
        self._secret = secret

    def sign(self, message: bytes) -> bytes:
        return hmac.digest(self._secret, message, "sha256")

    def verify(self, message: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self.sign(message), signature)

    def fingerprint(self) -> str:
        return self.sign(b"stem-fingerprint\0")[:6].hex()

    def holds(self, secret: bytes) -> bool:
        """Whether that is the secret."""
        return hmac.compare_digest(self._secret, secret)


class Ed25519Key:
    """A key pair, or its public half alone; raw bytes as RFC 8032 has them."""

    algorithm = ED25519

    def __init__(self, *, public: bytes | None = None, private: bytes | None = None) -> None:
        for half in (public, private):
            if half is not None and len(half) != _ED25519_BYTES:
                raise ValueError(f"an ed25519 key has {_ED25519_BYTES} bytes, not {len(half)}")
        library = _ed25519()
        self._private: Any = None
        if private is not None:
            self._private = library.Ed25519PrivateKey.from_private_bytes(private)
            derived = self._private.public_key().public_bytes_raw()
            if public is not None and public != derived:
                raise ValueError("the private key is not the other half of the public one")
            public = derived
        if public is None:
            raise ValueError("neither half of the key is given")
        #: The raw public key.
        self.public = public
        self._public: Ed25519PublicKey = library.Ed25519PublicKey.from_public_bytes(public)

    @property
    def can_sign(self) -> bool:
        return self._private is not None

    def sign(self, message: bytes) -> bytes:
        signature: bytes = self._private.sign(message)
        return signature

    def verify(self, message: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def fingerprint(self) -> str:
        import hashlib

        return hashlib.sha256(b"stem-fingerprint\0" + self.public).digest()[:6].hex()


def generated_pair() -> tuple[bytes, bytes]:
    """A new Ed25519 pair as raw bytes: private, public."""
    private = _ed25519().Ed25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ConfigurationError(
            "ed25519 needs the package 'cryptography', which is not installed",
            hint="pip install 'stem-kombu[signing]'",
        ) from error
    return ed25519
