"""The lines above and below the rows of ``stem top``, in the room that a terminal has for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from stem_kombu_cli.cells import cropped, width
from stem_kombu_cli.render import plain
from stem_kombu_cli.top.model import Snapshot

#: Keys that a narrow terminal does not name, the first of these first: the help names them all.
_SPARED = ("s sort", "x choose", "/ filter")


def head_line(found: Snapshot | None, *, is_read_only: bool, room: int) -> str:
    """Which fleet this is and when it was looked at. The broker comes last, since its URL is what may be cut."""
    parts = ["stem top", *(["read-only"] if is_read_only else [])]
    if found is None:
        parts.append("waiting for the fleet")
    else:
        parts += [f"namespace {found.namespace}", f"{found.taken_at[11:19]} UTC", f"broker {found.broker}"]
    return cropped(plain("  ".join(parts)), room)


def foot_line(actions: Sequence[str], room: int) -> str:
    """The keys, those that act among them, as many as fit."""
    keys = ["? help", "/ filter", "s sort", "x choose", *actions, "q leave"]
    for spared in _SPARED:
        if width("  ".join(keys)) <= room:
            break
        keys.remove(spared)
    return "  ".join(keys)
