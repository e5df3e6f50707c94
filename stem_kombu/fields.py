"""Fields of messages and records that another process wrote: each reader returns the checked value.

JSON from a broker, a store or a monitor is decoded once, with these readers, by the module that receives it. They raise
:class:`FieldError` with the field's name and at most 80 characters of its value. A bound is part of each reader, so that no
field can be larger than what stores, logs and terminals take.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sized
from datetime import datetime, timezone
from functools import lru_cache
from typing import Concatenate, NoReturn, ParamSpec, TypeGuard, TypeVar

from stem_kombu.clock import parse_isoformat

T = TypeVar("T")
P = ParamSpec("P")

#: Characters of a name or an address, and members of a list or an object, unless the reader is told another limit.
LONGEST_TEXT = 512
MOST_ITEMS = 10_000
UNLIMITED = sys.maxsize

#: Halves of a surrogate pair: what JSON can escape and what Python makes of arguments that are not UTF-8, but no text.
SURROGATE = re.compile("[\ud800-\udfff]")
#: What some store can't hold: PostgreSQL refuses NUL.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
#: What no name and no id has.
CONTROL_CHARACTER = re.compile("[\0-\x1f\x7f\ud800-\udfff]")


class FieldError(ValueError):
    """A field is missing, of another type, or out of range."""


def is_text(
    value: object, *, least: int = 1, most: int = LONGEST_TEXT, without: re.Pattern[str] | None = SURROGATE
) -> TypeGuard[str]:
    """Whether the value is text of ``least`` to ``most`` characters, none of them in ``without`` (``None`` allows all)."""
    if not isinstance(value, str) or not least <= len(value) <= most:
        return False
    return without is None or without.search(value) is None


def text(
    value: object, name: str, *, least: int = 1, most: int = LONGEST_TEXT, without: re.Pattern[str] | None = SURROGATE
) -> str:
    """The text; see :func:`is_text`."""
    # As is_text(), without the call: a command brings hundreds of them.
    if isinstance(value, str) and least <= len(value) <= most and (without is None or without.search(value) is None):
        return value
    length = len(any_text(value, name))
    if least <= length <= most:
        raise FieldError(f"{name} {shown(value)} holds an invalid character")
    raise FieldError(
        f"{name} {shown(value)} has {length} characters, more than {most}" if length else f"{name} is empty"
    )


def texts(record: Mapping[str, object], *names: str) -> list[str]:
    """The texts of those fields of an object, in one pass; see :func:`text`."""
    found = []
    for name in names:
        value = record.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TEXT or SURROGATE.search(value) is not None:
            value = text(value, name)  # which raises, and says why
        found.append(value)
    return found


def any_text(value: object, name: str) -> str:
    """The text, of any length and with any characters: for what is only handed on."""
    if not isinstance(value, str):
        raise FieldError(f"{name} {shown(value)} is not text")
    return value


def whole(value: object, name: str, *, below: int = 2**63) -> int:
    """The whole number from 0 to ``below - 1``."""
    if type(value) is not int or not 0 <= value < below:
        raise FieldError(f"{name} {shown(value)} is not a whole number from 0 to {below - 1}")
    return value


def number(value: object, name: str, *, most: float = 1e15) -> float:
    """The number from 0 to ``most``; never NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise FieldError(f"{name} {shown(value)} is not a number from 0 to {most:g}")
    return float(value)


def flag(value: object, name: str) -> bool:
    """``True`` or ``False``; no number stands for either."""
    if type(value) is not bool:
        raise FieldError(f"{name} {shown(value)} is not true or false")
    return value


def mapping(value: object, name: str, *, most: int = UNLIMITED) -> dict[str, object]:
    """The JSON object, of at most ``most`` members."""
    if not isinstance(value, dict):
        raise FieldError(f"{name} is {type(value).__name__}, not an object")
    if len(value) > most:
        raise _too_many(value, name, most)
    return value


def items(value: object, name: str, *, most: int = MOST_ITEMS) -> list[object]:
    """The JSON array, of at most ``most`` members."""
    if not isinstance(value, list):
        raise FieldError(f"{name} is {type(value).__name__}, not a list")
    if len(value) > most:
        raise _too_many(value, name, most)
    return value


def moment(value: object, name: str, *, zone: timezone | None = None) -> datetime:
    """The aware UTC time of ISO 8601 text; without an offset it is in ``zone``, and refused where there is none."""
    if not isinstance(value, str):
        raise FieldError(f"{name} {shown(value)} is not text")
    try:
        return parse_isoformat(value, zone=zone)
    except ValueError:
        offset = " with an offset from UTC" if zone is None else ""
        raise FieldError(f"{name} {shown(value)} is not an ISO 8601 time{offset}") from None


def repeated_moment(value: object, name: str) -> datetime:
    """The same for times that repeat, as all revocations of a batch have the same two: each is read once."""
    return _moment_again(value, name) if type(value) is str else moment(value, name)


_moment_again = lru_cache(maxsize=64)(moment)


def optional(
    reader: Callable[Concatenate[object, str, P], T], value: object, name: str, *args: P.args, **limits: P.kwargs
) -> T | None:
    """What the reader returns, or ``None`` for ``null`` and for a field that is not there."""
    return None if value is None else reader(value, name, *args, **limits)


def json_value(encoded: str | bytes) -> object:
    """The value of a JSON document, without the numbers that JSON has not and Python would read (``NaN``, ``1e999``).

    Raises :class:`FieldError` for anything else: bytes that are no UTF-8, levels too deep, numbers too long.
    """
    try:
        if not isinstance(encoded, str):
            # An object in UTF-8, as nearly all are, is seen at its begin.
            encoding = "utf-8" if encoded.startswith(b'{"') else json.detect_encoding(encoded)
            encoded = encoded.decode(encoding, "surrogatepass")
        value: object = _JSON.decode(encoded)
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, FieldError) else FieldError(f"it is no JSON: {error}") from None
    return value


def shown(value: object) -> str:
    """The value as error messages show it, in at most 80 characters; raises nothing."""
    try:
        spelled = repr(value)
    except Exception:  # noqa: BLE001 - an object of the application may raise anything, a large number ValueError
        return f"a {type(value).__name__}"
    return spelled if len(spelled) <= 80 else f"{spelled[:79]}…"


def _too_many(members: Sized, name: str, most: int) -> FieldError:
    return FieldError(f"{name} has {len(members)} members, more than {most}")


def _finite(digits: str) -> float:
    found = float(digits)
    return found if math.isfinite(found) else _refuse(digits)


def _refuse(constant: str) -> NoReturn:
    raise FieldError(f"{constant[:40]} is no number that JSON can hold")


#: Made once: json.loads() would make one for each document.
_JSON = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
