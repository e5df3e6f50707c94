"""JSON as Kombu reads it, dates and UUIDs in objects with ``__type__`` included, without its price for all other JSON.

Kombu calls a Python function for each object of a document, and makes a decoder for each document. Nearly no message
has a typed value, and which one can't have any is seen in its bytes.
"""

from __future__ import annotations

import json
from typing import Any

_NAME = "__type__"
#: How its letters could be written instead: as escapes of ASCII.
_ESCAPES = ("\\u005", "\\u006", "\\u007")
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined] # which typeshed leaves out
_NAME_BYTES, _ESCAPES_BYTES = _NAME.encode(), tuple(escape.encode() for escape in _ESCAPES)


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
