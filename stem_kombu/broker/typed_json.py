"""JSON as Kombu reads it, dates and UUIDs in objects with ``__type__`` included, without its price for all other JSON.

Kombu calls a Python function for each object of a document, and makes a decoder for each document. Nearly no message
has a typed value, and which one can't have any is seen in its bytes.
"""

from __future__ import annotations

import json
from typing import Any

#: The name that a typed value has, and how its letters could be written instead: as escapes of ASCII.
_MARKS = ("__type__", "\\u005", "\\u006", "\\u007")
_BYTES = tuple(mark.encode() for mark in _MARKS)


def load_typed(text: bytes | str) -> Any:
    """What :func:`kombu.utils.json.loads` makes of the text, and raises for it."""
    if any(mark in text for mark in _MARKS) if isinstance(text, str) else any(mark in text for mark in _BYTES):
        from kombu.utils.json import loads

        return loads(text)
    return json.loads(text if isinstance(text, str) else text.decode())
