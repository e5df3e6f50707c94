"""Text and JSON for people and scripts. stdout is data; what explains it goes to stderr.

Tables have capital headers, two spaces between columns, no lines, numbers on the right. Colour repeats what a word
already says, and nothing is cut when stdout is no terminal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

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


#: Spans, sizes and percentages as :func:`span`, :func:`size` and :func:`percent` write them, and their absence.
_MEASURE = re.compile(r"-|-?\d+(?:\.\d+)?(?:ms|s|m|h|d|%| [kMG]?B)(?:\d\d[smh])?")


#: JSON documents that this run of the program has printed, and whether they are a stream (``--follow``), a line each.
documents = 0
streams = False


class ReaderGone(Exception):
    """The reader of stdout has gone; nothing more is written."""


class StdoutBroken(ReaderGone):
    """What stdout leads to takes no more: a full disk. The message is the system's."""


def emit(text: str, *, color: bool = False) -> None:
    """The text and a line end on stdout. Raises :class:`ReaderGone` when no process reads it, or :class:`StdoutBroken`."""
    try:
        click.echo(text, color=color)
    except BrokenPipeError:
        abandon(sys.stdout)
        raise ReaderGone from None
    except OSError as error:
        abandon(sys.stdout)
        raise StdoutBroken(error.strerror) from None


def abandon(stream: TextIO) -> None:
    """Send what is left to nowhere: Python would complain once more when it flushes the stream at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_json(document: Mapping[str, Any]) -> None:
    """One document, in one line, on stdout. ASCII alone, so that no terminal's encoding can refuse it."""
    import json

    global documents
    emit(json.dumps(document))
    documents += 1


def note(text: str) -> None:
    """A line for people, on stderr. Where that takes none, the exit code has to do."""
    try:
        click.echo(plain(text), err=True)
    except OSError:
        abandon(sys.stderr)


def plain(text: str) -> str:
    """The text with what could steer a terminal written out: names and messages come from other machines."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


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
        spare = sum(widths) + 2 * (len(widths) - 1) - os.get_terminal_size(sys.stdout.fileno()).columns
        if spare > 0:
            widths[shrink] = max(8, widths[shrink] - spare)
    right = [_is_measured([row[i] for row in rows]) for i in range(len(headers))]
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
    return plain(" ".join(value.split())) if isinstance(value, str) else str(value)


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


def _is_measured(values: Sequence[Any]) -> bool:
    """Whether a column holds quantities, which are read from the right."""
    known = [value for value in values if value is not None and value != "-"]
    return (
        bool(known)
        and all(
            _MEASURE.fullmatch(value) if isinstance(value, str) else isinstance(value, (int, float)) for value in known
        )
        and not all(isinstance(value, bool) for value in known)
    )


def _padded(text: str, width: int, right: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.rjust(width) if right else text.ljust(width)


def _painted(cell: str, color: bool) -> str:
    paint = COLORS.get(cell.strip())
    return click.style(cell, fg=paint) if color and paint is not None else cell
