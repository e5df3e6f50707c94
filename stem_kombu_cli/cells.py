"""How wide text is on a terminal: a letter of Chinese, Japanese or Korean takes two cells, an accent of its own none."""

from __future__ import annotations


def width(text: str) -> int:
    """In how many cells the text stands. Control characters are not meant: see :func:`stem_kombu_cli.render.plain`."""
    return len(text) if text.isascii() else sum(map(_width_of, text))


def cropped(text: str, room: int) -> str:
    """The text, shortened to so many cells, with an ellipsis where something is left out."""
    if width(text) <= room:
        return text
    kept, used = [], 0
    for char in text:
        used += _width_of(char)
        if used > room - 1:
            break
        kept.append(char)
    return "".join(kept) + ("…" if room > 0 else "")


def padded(text: str, room: int, *, right: bool = False) -> str:
    """The text in exactly so many cells, shortened or filled with spaces; ``right``: the spaces come first."""
    text = cropped(text, room)
    spaces = " " * (room - width(text))
    return spaces + text if right else text + spaces


def _width_of(char: str) -> int:
    # Only where there is more than ASCII: --help pays nothing for it.
    from unicodedata import category, east_asian_width

    if category(char) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
