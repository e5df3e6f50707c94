"""From the variables to the keyring. Whatever is incomplete is an error that names the variable: half a protection looks
like a whole one."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import SigningSettings
from stem_kombu.signing.algorithms import ALGORITHMS, ED25519, HMAC_SHA256, Ed25519Key, HmacKey, KeyMaterial
from stem_kombu.signing.keyring import EVERYTHING, KEY_ID, Key, Keyring, Scope, with_implied

ALGORITHM, KEYS, ACTIVE = "STEM_SIGNING_ALGORITHM", "STEM_SIGNING_KEYS", "STEM_SIGNING_ACTIVE_KEY"
PUBLIC, PRIVATE, SCOPES = "STEM_SIGNING_PUBLIC_KEYS", "STEM_SIGNING_PRIVATE_KEYS", "STEM_SIGNING_KEY_SCOPES"
TASKS = "STEM_SIGNING_TASKS"
#: Whether tasks are signed, and whether unsigned ones are refused.
OFF, SIGN, REQUIRE = "off", "sign", "require"
TASKS_V1 = "STEM_SIGNING_TASKS_V1"
#: Whether tasks are signed as 0.1.0 signs them as well, and whether such signatures alone are accepted.
SEND, ACCEPT = "send", "accept"

#: Characters of a file of keys; one that goes on and on is none.
_LONGEST_FILE = 1_000_000
_GENERATE = "stem keys generate prints a whole set"


def open_keyring(settings: SigningSettings) -> Keyring | None:
    """The keys of these settings, ``None`` when no variable is set.

    Raises :class:`ConfigurationError` naming the variable that is missing or invalid; no message shows a key.
    """
    task_signing(settings)
    task_signing_v1(settings)
    if not settings:
        return None
    algorithm = settings.algorithm or HMAC_SHA256
    if algorithm not in ALGORITHMS:
        raise ConfigurationError(
            f"{ALGORITHM}: {algorithm!r} is not an algorithm", hint=f"write {' or '.join(ALGORITHMS)}"
        )
    material = _material(settings)
    wanted = KEYS if algorithm == HMAC_SHA256 else PRIVATE
    if not any(one.algorithm == algorithm and one.can_sign for one in material.values()):
        raise ConfigurationError(
            f"{wanted}: signing with {algorithm} is required, but there is no key to sign with", hint=_GENERATE
        )
    active = settings.active_key
    if active is None:
        raise ConfigurationError(
            f"{ACTIVE}: not set, so that no key is chosen to sign with", hint=f"name one of {', '.join(material)}"
        )
    chosen = material.get(active)
    if chosen is None:
        raise ConfigurationError(
            f"{ACTIVE}: {active!r} is not the id of a key here", hint=f"name one of {', '.join(material)}"
        )
    if chosen.algorithm != algorithm:
        raise ConfigurationError(
            f"{ACTIVE}: {active!r} is a key for {chosen.algorithm}, but {ALGORITHM} is {algorithm}"
            + ("" if settings.algorithm else " (the default)"),
            hint=f"set {ALGORITHM}={chosen.algorithm}, or choose another key",
        )
    if not chosen.can_sign:
        raise ConfigurationError(
            f"{PRIVATE}: the private half of the active key {active!r} is missing", hint=f"list it in {PRIVATE}"
        )
    scopes = None if settings.key_scopes is None else _scopes(settings.key_scopes)
    keys = [
        Key(key_id, one, EVERYTHING if scopes is None else scopes.get(key_id, frozenset()))
        for key_id, one in material.items()
    ]
    return Keyring(keys, active, scoped=scopes is not None)


def task_signing(settings: SigningSettings) -> str:
    """``off``, ``sign`` or ``require``. Raises :class:`ConfigurationError`."""
    asked = (settings.tasks or OFF).lower()
    if asked not in (OFF, SIGN, REQUIRE):
        raise ConfigurationError(
            f"{TASKS}: {settings.tasks!r} is not a way to sign tasks", hint="write off, sign or require"
        )
    return asked


def task_signing_v1(settings: SigningSettings) -> str:
    """``send`` (the default), ``accept`` or ``off``. Raises :class:`ConfigurationError`."""
    asked = (settings.tasks_v1 or SEND).lower()
    if asked not in (SEND, ACCEPT, OFF):
        raise ConfigurationError(
            f"{TASKS_V1}: {settings.tasks_v1!r} is not a way to treat signatures of 0.1.0",
            hint="write send, accept or off",
        )
    return asked


def _material(settings: SigningSettings) -> dict[str, KeyMaterial]:
    secrets = _listed(settings.keys, KEYS)
    publics, privates = _listed(settings.public_keys, PUBLIC), _listed(settings.private_keys, PRIVATE)
    found: dict[str, KeyMaterial] = {}
    for key_id, secret in secrets.items():
        found[key_id] = _made(KEYS, key_id, partial(HmacKey, secret))
    for key_id in dict.fromkeys([*publics, *privates]):
        if key_id in secrets:
            raise ConfigurationError(
                f"{KEYS}: key {key_id!r} is an ed25519 key as well; a key has one algorithm", hint="rename one of them"
            )
        public, private = publics.get(key_id), privates.get(key_id)
        found[key_id] = _made(
            PUBLIC if private is None else PRIVATE,
            key_id,
            partial(Ed25519Key, public=public, private=private),
        )
    known = [one.public for one in found.values() if isinstance(one, Ed25519Key)]
    for key_id, one in found.items():
        if isinstance(one, HmacKey) and any(one.holds(public) for public in known):
            raise ConfigurationError(
                f"{KEYS}: the secret of key {key_id!r} is a public key, which is not secret", hint=_GENERATE
            )
    return found


def _made(variable: str, key_id: str, make: Callable[[], KeyMaterial]) -> KeyMaterial:
    try:
        return make()
    except ValueError as error:
        raise ConfigurationError(f"{variable}: key {key_id!r}: {error}", hint=_GENERATE) from None


def _listed(text: str | None, variable: str) -> Mapping[str, bytes]:
    """``id:base64,id:base64`` as bytes by id; no error repeats what may be a secret."""
    keys: dict[str, bytes] = {}
    entries = [] if text is None else re.split(r"[,\s]+", _contents(text, variable).strip(", \t\r\n"))
    for number, entry in enumerate(entries, 1):
        key_id, colon, encoded = entry.partition(":")
        where = f"{variable}: entry {number}"
        if not colon or not encoded or not KEY_ID.fullmatch(key_id):
            raise ConfigurationError(f"{where} is not key-id:base64", hint=f"write id:base64,id:base64; {_GENERATE}")
        if key_id in keys:
            raise ConfigurationError(f"{where}: key {key_id!r} is listed twice", hint="ids must differ")
        try:
            keys[key_id] = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise ConfigurationError(f"{where}: key {key_id!r} is not base64", hint=_GENERATE) from None
    return keys


def _contents(text: str, variable: str) -> str:
    """The text itself, or the content of the file that ``@path`` names: then no secret is in a process's arguments or
    environment."""
    if not text.startswith("@"):
        return text
    if text == "@":
        raise ConfigurationError(f"{variable}: '@' names no file", hint="write @/path/to/the/file")
    path = Path(text[1:]).expanduser()
    try:
        with path.open(encoding="ascii") as file:
            content = file.read(_LONGEST_FILE)
        if len(content) < _LONGEST_FILE:
            return content
        raise ValueError
    except OSError as error:
        raise ConfigurationError(f"{variable}: can't read {path}: {error.strerror}") from error
    except ValueError:
        raise ConfigurationError(f"{variable}: {path} has text that is not a key") from None


def _scopes(text: str) -> dict[str, frozenset[Scope]]:
    """``viewer:read;ops:read,operate;root:*``; ids that this process has no key of may be listed as well."""
    found: dict[str, frozenset[Scope]] = {}
    for entry in (part.strip() for part in text.split(";")):
        if not entry:
            continue
        key_id, colon, listed = (part.strip() for part in entry.partition(":"))
        if not colon or not KEY_ID.fullmatch(key_id):
            raise ConfigurationError(
                f"{SCOPES}: {entry!r} is not key-id:scope,scope", hint="viewer:read;ops:read,operate"
            )
        if key_id in found:
            raise ConfigurationError(f"{SCOPES}: key {key_id!r} is listed twice", hint="list all its scopes at once")
        names = [name.strip() for name in listed.split(",")]
        if names == ["*"]:
            found[key_id] = EVERYTHING
            continue
        known = {scope.value: scope for scope in Scope}
        for name in names:
            if name not in known:
                raise ConfigurationError(
                    f"{SCOPES}: key {key_id!r}: {name!r} is no scope", hint=f"one of {', '.join(known)}, or * alone"
                )
        found[key_id] = with_implied(known[name] for name in names)
    if not found:
        raise ConfigurationError(f"{SCOPES}: {text!r} names no key", hint="viewer:read;ops:read,operate")
    return found


__all__ = [
    "ACCEPT", "ED25519", "HMAC_SHA256", "OFF", "REQUIRE", "SEND", "SIGN", "open_keyring", "task_signing", "task_signing_v1",
]  # fmt: skip
