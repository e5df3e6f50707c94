"""Keys for tests: three operators', a fleet's, and a stranger's."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from stem_kombu.settings import SigningSettings
from stem_kombu.signing.algorithms import Ed25519Key
from stem_kombu.signing.configuration import open_keyring
from stem_kombu.signing.keyring import Keyring

SCOPES = "viewer:read;ops:read,operate;fleet:work;root:*"


def secret(name: str) -> bytes:
    """Thirty-two bytes that are always the same for a name."""
    return hashlib.sha256(f"test key {name}".encode()).digest()


def hmac_keys(*names: str) -> str:
    return ",".join(f"{name}:{base64.b64encode(secret(name)).decode()}" for name in names)


def private_keys(*names: str) -> str:
    return hmac_keys(*names)


def public_keys(*names: str) -> str:
    return ",".join(f"{name}:{base64.b64encode(Ed25519Key(private=secret(name)).public).decode()}" for name in names)


def shared(active: str, *others: str, **more: Any) -> SigningSettings:
    """HMAC keys, as everyone in a fleet may hold them."""
    return SigningSettings(keys=hmac_keys(active, *others), active_key=active, **more)


def pairs(active: str, *others: str, **more: Any) -> SigningSettings:
    """An ed25519 pair, and the public halves of others."""
    return SigningSettings(
        algorithm="ed25519",
        private_keys=private_keys(active),
        public_keys=public_keys(active, *others),
        active_key=active,
        **more,
    )


def ring(settings: SigningSettings) -> Keyring:
    opened = open_keyring(settings)
    assert opened is not None
    return opened
