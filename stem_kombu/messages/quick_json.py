"""JSON of messages, read and written without the price of what nearly none of them has.

Kombu reads dates and UUIDs in objects with ``__type__``: it calls a Python function for each object of a document, and makes a
decoder for each document. Nearly no message has a typed value, and which one can't have any is seen in its bytes. The standard
library makes its inner encoder anew for each value, which takes as long as a small value does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from json import JSONEncoder, encoder
from typing import Any

_NAME = "__type__"
#: How its letters could be written instead: as escapes of ASCII.
_ESCAPES = ("\\u005", "\\u006", "\\u007")
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined] # which typeshed leaves out
_NAME_BYTES, _ESCAPES_BYTES = _NAME.encode(), tuple(escape.encode() for escape in _ESCAPES)
#: Signs that JSON writes in another way, the frequent ones first; and how long a text is in which to look for each of them
#: takes a fraction of the time that the library takes from sign to sign.
_ESCAPED = ("\n", '"', "\\", *(chr(code) for code in range(32) if code != ord("\n")))
_LONG = 1024
#: How the standard library makes its inner encoder; other interpreters have none.
_make: Callable[..., Callable[[object, int], Iterable[str]]] | None = getattr(encoder, "c_make_encoder", None)


def quick_encoder(slow: JSONEncoder) -> Callable[[object], str]:
    """``slow.encode`` for one that makes no lines, with its inner encoder made once.

    That one does not look for values that hold themselves: it goes as deep as the stack allows. What it refuses is given to
    ``slow``, which says what is wrong in its own words.
    """
    if _make is None:
        return slow.encode
    text = encoder.encode_basestring_ascii if slow.ensure_ascii else encoder.encode_basestring
    try:
        inner = _make(
            None, slow.default, text, None, slow.key_separator, slow.item_separator, slow.sort_keys, slow.skipkeys,
            slow.allow_nan,
        )  # fmt: skip
        if "".join(inner(_EXAMPLE, 0)) != slow.encode(_EXAMPLE):
            return slow.encode
    except (TypeError, ValueError):  # a Python whose inner encoder takes something else
        return slow.encode

    is_plain = not slow.ensure_ascii

    def encode(value: object) -> str:
        try:
            if is_plain and type(value) is list and _has_long_text(value):
                return f"[{slow.item_separator.join(map(part, value))}]"
            return "".join(inner(value, 0))
        except (TypeError, ValueError, RecursionError):
            return slow.encode(value)

    def part(value: object) -> str:
        """The same of a list or mapping that may hold long texts, without a look at each of their signs."""
        if type(value) is list:
            return f"[{slow.item_separator.join(map(item, value))}]"
        if type(value) is dict:
            # A name as JSON writes it, with what is between it and its value.
            pairs = ("".join(inner({key: 0}, 0))[1:-2] + item(one) for key, one in value.items())
            return f"{{{slow.item_separator.join(pairs)}}}"
        return "".join(inner(value, 0))

    def item(value: object) -> str:
        if type(value) is str and len(value) >= _LONG and not any(map(value.__contains__, _ESCAPED)):
            return f'"{value}"'
        return "".join(inner(value, 0))

    return encode


def _has_long_text(value: list[object]) -> bool:
    """Whether one of the lists and mappings in it holds a long text."""
    for part in value:
        for one in part if isinstance(part, list) else part.values() if isinstance(part, dict) else ():
            if type(one) is str and len(one) >= _LONG:
                return True
    return False


_EXAMPLE: dict[str, object] = {"text": 'é"\n', "list": [1, 0.5, None, True, [], {}]}


def load_typed(text: bytes | str, *, plain: int = 0) -> Any:
    """What :func:`kombu.utils.json.loads` makes of the text, and raises for it. In its first ``plain`` signs it has no
    object that ends."""
    if _may_be_typed(text[plain:] if plain else text):
        from kombu.utils.json import loads

        return loads(text)
    plain_text = text if isinstance(text, str) else text.decode()
    try:
        # What json.loads() calls at last: around it are two searches for blanks, and three calls of Python.
        value, end = _scan(plain_text, 0)
    except StopIteration:
        end = -1
    return value if end == len(plain_text) else json.loads(plain_text)


def _may_be_typed(text: bytes | str) -> bool:
    # First for one sign, which takes a twentieth of the time of a search for several, and large texts often lack.
    if isinstance(text, str):
        return ("_" in text and _NAME in text) or ("\\" in text and any(escape in text for escape in _ESCAPES))
    return (b"_" in text and _NAME_BYTES in text) or (b"\\" in text and any(e in text for e in _ESCAPES_BYTES))
