"""What is in a signature of Celery's canvas: of a group, a chain or a chord each part, however deep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def members(element: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The element itself and, of a group, a chain or a chord, what is in it."""
    yield element
    inside = dict(element.get("kwargs") or {})
    kind = str(element.get("task") or "")
    if kind in ("celery.group", "celery.chain"):
        parts = inside.get("tasks")
    elif kind == "celery.chord":
        parts = [inside.get("header"), inside.get("body")]
    else:
        return
    for part in _listed(parts):
        yield from members(part)


def _listed(parts: object) -> Iterator[Mapping[str, object]]:
    for part in parts if isinstance(parts, (list, tuple)) else [parts]:
        if isinstance(part, Mapping):
            yield part
        elif isinstance(part, (list, tuple)):  # a chord's header
            yield from _listed(part)
