"""How many places for handlers are in use, of how many, by mode: as ``stats``, ``ping`` and ``status`` show them."""

from __future__ import annotations

from collections.abc import Mapping

Slots = Mapping[str, Mapping[str, int]]
#: Columns of :func:`slot_cells`.
COLUMNS = ("INLINE", "ISOLATE")


def used_slots(slots: Slots) -> list[str]:
    """``INLINE 3/16`` for each mode."""
    return [f"{mode.upper()} {_used(states)}" for mode, states in sorted(slots.items())]


def slot_cells(slots: Slots | None, concurrency: int | None) -> tuple[str | None, str | None]:
    """``3/16`` for inline handlers and for isolates; ``None`` where the worker has no such slots. A worker that is too old to
    tell shows its ``concurrency`` for isolates."""
    if not slots:
        return None, None if concurrency is None else f"?/{concurrency}"
    return used_of("inline", slots), used_of("isolate", slots)


def used_of(mode: str, slots: Slots | None) -> str | None:
    """``3/16``: how many slots of that mode are in use, ``None`` where there are none of it."""
    return _used(states) if slots and (states := slots.get(mode)) else None


def _used(states: Mapping[str, int]) -> str:
    places = sum(states.values())
    return f"{places - states.get('idle', 0)}/{places}"
