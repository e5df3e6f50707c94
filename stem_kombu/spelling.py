"""Names that were meant, for error texts."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The one of the known names that looks most like this one, ``None`` where none is alike; ``cutoff`` as in
    :func:`difflib.get_close_matches`."""
    from difflib import get_close_matches  # for mistakes alone

    return next(iter(get_close_matches(name, known, 1, cutoff)), None)
