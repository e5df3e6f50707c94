"""``"5s"`` to seconds and back: one grammar for flags, variables and keywords."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from numbers import Real

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown

ACCEPTED = "250ms, 5s, 1.5m, 2h, 7d, or a bare number of seconds"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|d|)", re.ASCII)

#: Longer spans are typing errors, and dates past the year 9999 can't be stored.
LONGEST = 100 * 365 * 86400.0


def parse_duration(text: str, *, name: str = "duration", allow_zero: bool = False) -> float:
    """Seconds for ``250ms``, ``5s``, ``1.5m``, ``2h``, ``7d`` or a bare number.

    ``name`` is the flag or variable that the text came from; an error names it. Zero is refused unless ``allow_zero``.
    Raises :class:`ConfigurationError`; there is no silent default.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ConfigurationError(f"{name}: {text!r} is not a duration", hint=f"accepted: {ACCEPTED}")
    seconds = float(match[1]) * _UNITS[match[2]]
    return checked_duration(seconds, name=name, text=text, allow_zero=allow_zero)


def checked_duration(value: object, *, name: str, text: str | None = None, allow_zero: bool = False) -> float:
    """The same seconds; raises :class:`ConfigurationError` for no number, and for less than zero, zero, and over a century."""
    seconds = _number(value, name)
    if not math.isfinite(seconds) or seconds > LONGEST:
        wrong = "is longer than a century"
    elif seconds < 0 or (seconds == 0 and not allow_zero):
        wrong = "must be more than zero"
    else:
        return seconds
    given = shown(value) if text is None else repr(text)
    raise ConfigurationError(f"{name}: {given} {wrong}", hint=f"accepted: {ACCEPTED}")


def checked_seconds(value: object, *, name: str, least: float = 0.0) -> float:
    """A number of seconds that a program gave, as a float.

    Raises :class:`ConfigurationError` naming ``name`` for text, a ``timedelta``, a truth value, what is not finite, less
    than ``least``, or longer than a century in either direction.
    """
    seconds = _number(value, name)
    if not math.isfinite(seconds) or abs(seconds) > LONGEST:
        raise ConfigurationError(f"{name}: {shown(value)} seconds are longer than a century", hint="give less")
    if seconds < least:
        limit = "must not be negative" if least == 0 else f"must be at least {least:g} seconds"
        raise ConfigurationError(f"{name}: {shown(value)} {limit}")
    return seconds


def _number(value: object, name: str) -> float:
    """The number as a float, infinite where it is too large for one; raises :class:`ConfigurationError` for what is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        spelled = isinstance(value, timedelta)
        hint = "give its total_seconds()" if spelled else "give seconds as a number, for example 300 or 0.5"
        raise ConfigurationError(f"{name}: {shown(value)} ({type(value).__name__}) is no number of seconds", hint=hint)
    try:
        return float(value)
    except (OverflowError, ValueError, TypeError):
        return math.inf


def format_duration(seconds: float) -> str:
    """A short form for people: ``250ms``, ``4.2s``, ``3m20s``, ``2h05m``, ``7d03h``."""
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    minutes, s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{s:02d}s" if s else f"{minutes}m"
    hours, m = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{m:02d}m" if m else f"{hours}h"
    days, h = divmod(hours, 24)
    return f"{days}d{h:02d}h" if h else f"{days}d"
