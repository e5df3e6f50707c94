"""The only source of chance in the library: jitter, and names that no other process draws. So that a seed can decide about all
of it, as :mod:`stem_kombu.clock` lets another clock decide about time. Most names are Python's own.
"""

from __future__ import annotations

from os import urandom
from random import random, uniform

__all__ = ["random", "token_hex", "uniform", "uuid_text"]

#: The sign of a random UUID that tells its variant.
_VARIANTS = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


def token_hex(length: int) -> str:
    """So many random bytes as text. As :func:`secrets.token_hex`, which loads OpenSSL: a megabyte in each child."""
    return urandom(length).hex()


def uuid_text() -> str:
    """``str(uuid4())`` in a third of the time: each task that is sent has one."""
    text = token_hex(16)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:]}"
