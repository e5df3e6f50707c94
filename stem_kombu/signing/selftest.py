"""A self-test of a keyring: each key that can sign signs, and what was changed is refused."""

from __future__ import annotations

from stem_kombu.errors import ConfigurationError
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.seal import COMMAND, REPLY, sealed, unsealed

_MESSAGE = b'{"v":1,"id":"self-test"}'


def self_test(ring: Keyring) -> list[str]:
    """The ids of the keys that signed and were verified. Raises :class:`ConfigurationError` when one of them can't."""
    passed = []
    for key in ring.keys.values():
        if not key.material.can_sign:
            continue
        alone = Keyring([key], key.id)
        message = sealed(_MESSAGE, COMMAND, alone)
        if unsealed(message, COMMAND, ring) is not ring.keys[key.id]:
            raise ConfigurationError(f"key {key.id!r} verified as another one")
        for wrong, domain in ((message.replace(b"self", b"text"), COMMAND), (message, REPLY)):
            try:
                unsealed(wrong, domain, ring)
            except Untrusted:
                continue
            raise ConfigurationError(f"key {key.id!r} verifies what it did not sign")
        passed.append(key.id)
    return passed
