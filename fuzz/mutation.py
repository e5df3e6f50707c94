"""Changes to an input that keep it near to something valid: one part of a JSON document is replaced, moved or repeated.

Bytes alone are seldom changed into another document, and a door that checks forty fields is never passed by chance.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

#: Values at which code that expects something else tends to break.
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**25, 10**400, 0.5, -0.0, 1e16, 1e300, -1e300,
    float("nan"), float("inf"), float("-inf"), "", " ", "a", "0", "-1", "1", "true", "null", "NaN", "\x00", "\n", "\x7f",
    "\ud800", "ä", "🐍", "a" * 300, "a" * 600, "x" * 5000, [], {}, [None], [[]], {"": None}, {"a": {}}, [1, 2], ["a"], "*",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z", "2026-01-31T12:00:00Z",
    "2026-01-31T12:00:00", "2026-01-31", "+1", "1_0", "١", "../..", "/", "%00", "~", "a,b", "a;b", "utf-16", "base64",
    "application/json", "application/x-python-serialize", "pickle", "stem", "worker-1",
)  # fmt: skip

Path = tuple[Any, ...]


def mutated(data: bytes, largest: int, rng: random.Random) -> bytes | None:
    """The document with one to three parts changed, ``None`` when it is no JSON or grew too large."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        document = _changed(document, rng)
    try:
        text = json.dumps(document, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return None
    return text if len(text) <= largest else None


def _changed(document: Any, rng: random.Random) -> Any:
    paths = list(_paths(document))
    path = rng.choice(paths)
    value = _at(document, path)
    kind = rng.random()
    if kind < 0.45:
        return _put(document, path, copy.deepcopy(rng.choice(ODD)))
    if kind < 0.6:
        return _put(document, path, copy.deepcopy(_at(document, rng.choice(paths))))
    if kind < 0.75 and path:
        return _without(document, path)
    if kind < 0.85:
        if isinstance(value, dict):
            value[str(rng.choice(ODD))] = copy.deepcopy(rng.choice(ODD))
        elif isinstance(value, list):
            value.insert(rng.randint(0, len(value)), copy.deepcopy(rng.choice(ODD)))
        return document
    return _put(document, path, _near(value, rng))


def _near(value: Any, rng: random.Random) -> Any:
    """A value a step away."""
    if isinstance(value, bool) or value is None:
        return rng.choice(ODD)
    if isinstance(value, (int, float)):
        return rng.choice((-value, value + 1, value * 2, value / 3 if abs(value) < 1e300 else 0, str(value), [value]))
    if isinstance(value, str):
        place = rng.randint(0, len(value))
        other = rng.choice(ODD)
        inserted = other if isinstance(other, str) else str(other)[:20]
        return rng.choice(
            (value[:place] + inserted + value[place:], value[:place], value[place:], value.upper(), [value])
        )
    if isinstance(value, list):
        return rng.choice((value * 2, value[::-1], dict.fromkeys(map(str, value)), value[:1] * 50))
    return rng.choice((list(map(list, value.items())), {key.upper(): one for key, one in value.items()}, str(value)))


def _paths(value: Any, path: Path = (), depth: int = 0) -> list[Path]:
    found = [path]
    if depth < 12:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            found += _paths(inner, (*path, key), depth + 1)
            if len(found) > 400:
                break
    return found


def _at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def _put(document: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    _at(document, path[:-1])[path[-1]] = value
    return document


def _without(document: Any, path: Path) -> Any:
    del _at(document, path[:-1])[path[-1]]
    return document
