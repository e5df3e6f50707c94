"""What may come out of a door: an answer that holds, or an exception that the door documents. All else is a finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Finding(AssertionError):
    """A door let something through that does not hold."""


class Refused(Exception):
    """The door refused, as it may; the target has nothing more to look at."""


def asked(
    documented: type[Exception] | tuple[type[Exception], ...], call: Callable[..., T], *args: Any, **kw: Any
) -> T:
    """What the call returns. A documented exception ends the target (:class:`Refused`), any other is a finding."""
    try:
        return call(*args, **kw)
    except documented as refusal:
        told = str(refusal)
        if len(told) > 20_000:
            raise Finding(f"a refusal of {len(told)} characters: {told[:200]!r}…") from refusal
        raise Refused from refusal


def holds(condition: object, message: str, *shown: object) -> None:
    """Raise :class:`Finding` unless the condition is true."""
    if not condition:
        raise Finding(f"{message}: {', '.join(repr(value)[:500] for value in shown)}")


def same(first: object, second: object, what: str) -> None:
    """Raise :class:`Finding` unless the two are equal, and equal in the type of every part that JSON knows."""
    holds(first == second and repr(first) == repr(second), f"{what} comes back as something else", first, second)


def is_json(value: object, what: str) -> None:
    """Raise :class:`Finding` unless that is JSON which any reader takes; no NaN, above all."""
    try:
        json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Finding(f"{what} is no JSON: {error}: {value!r:.500}") from error
