"""What people may see of a secret: URLs without their passwords, arguments without what their names say is secret."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

MASK = "***"
#: Shorter texts stand in too many other words to be taken out of a text.
_SHORTEST_SECRET = 6
_ARGUMENTS_COLUMNS = 60
#: Characters of a text that are searched for a URL to mask, and of which the beginning and the end are shown.
_LONGEST_LOOKED_AT = 4096

_SECRET_WORDS = ("password", "passwd", "passphrase", "pwd", "secret", "token", "api_key", "apikey", "credential")
#: Options that hold secrets among other things.
_OF_SECRETS = ("sentinel_kwargs",)
_USER_AND_PASSWORD = re.compile(r"(?<=://)([^:\s]*):(.*)@(?=[^@]*$)", re.MULTILINE)
_SECRET_OPTION = re.compile(
    rf"(?i)((?:^|[?&;\s])[a-z_-]*(?:{'|'.join((*_SECRET_WORDS, *_OF_SECRETS))})[a-z_-]*\s?=\s?)('(?:[^'\\]|\\.)*'|[^&;#\s]*)"
)


def mask_url(url: str) -> str:
    """The URL with its password (and any password in its query) replaced by ``***``; text that is no URL comes back as it is.

    Works on the text, not on a parsed URL, so that a malformed URL can't leak its password through an error message.
    """
    masked = _USER_AND_PASSWORD.sub(rf"\1:{MASK}@", url)
    return _SECRET_OPTION.sub(rf"\1{MASK}", masked)


def passwords_of(url: str) -> set[str]:
    """The passwords in a URL, as they stand there and as they are sent."""
    found = {match[2] for match in _USER_AND_PASSWORD.finditer(url)}
    found |= {match[2].strip("'") for match in _SECRET_OPTION.finditer(url)}
    return {form for text in found for form in (text, unquote(text)) if form}


def is_misread(url: str) -> bool:
    """Whether a URL of a server has a user or password with a sign that ends them for every parser, so that the rest of
    the password would be taken for a port, a path or an option, and shown as such."""
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    path, _, fragment = path.partition("#")
    query, _, more = query.partition("#")
    user, at, _ = authority.rpartition("@")
    # Brackets are those of an address. To libpq a user and password end at the first @, to all others at the last.
    if at and ("[" in user or "]" in user or ("@" in user and url.startswith("postgres"))):
        return True
    # An @ after the authority stands behind a password that was cut off, or in the value of an option.
    return "@" in path or "@" in fragment or "@" in more or "@" in query.partition("=")[0]


def without(text: str, secrets: Iterable[str]) -> str:
    """The text without those secrets, whatever they are surrounded by; longest first, as one may be part of another."""
    for secret in sorted({one for one in secrets if len(one) >= _SHORTEST_SECRET}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def is_secret_name(name: object) -> bool:
    """Whether the value of that name is secret."""
    lowered = str(name).lower()
    return any(word in lowered for word in (*_SECRET_WORDS, *_OF_SECRETS))


class ShortRepr(reprlib.Repr):
    """A short repr in which the values of secret names are masked, at every depth."""

    def __init__(self, *, text: int = 24, items: int = 4) -> None:
        super().__init__()
        self.maxstring = self.maxother = text
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = items

    def repr_str(self, x: str, level: int) -> str:
        if len(x) > _LONGEST_LOOKED_AT:  # of which a few signs are shown, whatever the rest is
            x = x[:_LONGEST_LOOKED_AT]
        return super().repr_str(mask_url(x) if "://" in x else x, level)

    def repr_dict(self, x: Mapping[object, object], level: int) -> str:
        hidden = {key: _MASKED if is_secret_name(key) else value for key, value in x.items()}
        return super().repr_dict(hidden, level)


def redacted_arguments(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """A task's arguments as people may see them: at most 60 columns, long values shortened, passwords in URLs masked, and
    nothing at all of keywords and keys whose names say that they are secret."""
    parts = [_SHORT.repr(value) for value in args[:8]]
    parts += [f"{name}={MASK if is_secret_name(name) else _SHORT.repr(value)}" for name, value in kwargs.items()]
    text = ", ".join(parts)
    return text if len(text) <= _ARGUMENTS_COLUMNS else text[: _ARGUMENTS_COLUMNS - 1] + "…"


class _Masked:
    def __repr__(self) -> str:
        return MASK


_MASKED = _Masked()
_SHORT = ShortRepr()
