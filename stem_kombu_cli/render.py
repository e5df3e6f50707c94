"""Text and JSON for people and scripts. stdout is data; what explains it goes to stderr.

Tables have capital headers, two spaces between columns, no lines, numbers on the right. Colour repeats what a word
already says, and nothing is cut when stdout is no terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

COLORS = {
    "ok": "green",
    "live": "green",
    "succeeded": "green",
    "running": "green",
    "draining": "yellow",
    "stale": "yellow",
    "retrying": "yellow",
    "skipped": "yellow",
    "silent": "red",
    "error": "red",
    "dead": "red",
    "failed": "red",
    "cancelled": "magenta",
}


def print_json(document: Mapping[str, Any]) -> None:
    """One document, one line where it is a stream, on stdout."""
    click.echo(json.dumps(document, ensure_ascii=False))


def note(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def use_color(choice: str) -> bool:
    """Whether stdout gets colour: the flag, then NO_COLOR and FORCE_COLOR, then whether it is a terminal."""
    from stem_kombu.settings import terminal_color

    if choice != "auto":
        return choice == "always"
    wished = terminal_color()
    return sys.stdout.isatty() if wished is None else wished


def table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], *, color: bool = False, shrink: int | None = None
) -> str:
    """The rows as text. Numbers are right-aligned; ``shrink`` is the column that is shortened to fit a terminal."""
    cells = [[shown(value) for value in row] for row in rows]
    widths = [max([len(header), *(len(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    if shrink is not None and sys.stdout.isatty():
        spare = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
        if spare > 0:
            widths[shrink] = max(8, widths[shrink] - spare)
    right = [
        bool(rows) and all(isinstance(row[i], (int, float)) or row[i] is None for row in rows)
        for i in range(len(headers))
    ]
    lines = ["  ".join(_padded(header, widths[i], right[i]) for i, header in enumerate(headers)).rstrip()]
    for row in cells:
        line = "  ".join(_painted(_padded(cell, widths[i], right[i]), color) for i, cell in enumerate(row))
        lines.append(line.rstrip())
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as a table shows it; nothing is a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)


def span(seconds: float | None) -> str:
    """Seconds as people read them."""
    from stem_kombu.durations import format_duration

    return "-" if seconds is None else format_duration(seconds)


def size(count: float | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction * 100:.0f}%"


def is_interactive() -> bool:
    """Whether progress may be shown: stderr is a terminal that can."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 20


def _padded(text: str, width: int, right: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.rjust(width) if right else text.ljust(width)


def _painted(cell: str, color: bool) -> str:
    paint = COLORS.get(cell.strip())
    return click.style(cell, fg=paint) if color and paint is not None else cell
