"""Text and JSON for people and scripts. stdout is data; what explains it goes to stderr.

Tables have capital headers, two spaces between columns, no lines, numbers on the right. Colour repeats what a word
already says, and nothing is cut when stdout is no terminal.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

import click

from stem_kombu_cli.cells import padded, width

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
_MEASURE = re.compile(r"-|-?\d+(?:\.\d+)?(?:ms|s|m|h|d|%| [kMG]?B)(?:\d\d[smh])?|[\d?]+/\d+")


#: Columns that a terminal which is too narrow does without, the first of these first. What is not named here always stays.
_SPARED = (
    "PROGRESS DATA", "LOST WORKERS", "VERIFIED", "HOST", "LOAD", "PID", "MODE", "ATTEMPT", "RSS", "SYNCED AGO", "REVISION",
    "STORE ERROR", "LAGGING", "ISSUED", "SENT BEFORE",
    "STARTED", "ARGS", "CHECKPOINT", "UPTIME", "RETIRING", "TERMINATE", "WORKERS", "EXPIRES",
    "IN FLIGHT", "QUEUES", "QUEUE", "STOP REQUESTED", "BY", "AGE", "AT", "WORKER",
)  # fmt: skip
#: Whether every column is wanted, however wide the terminal is (``-o wide``).
wide = False

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


def print_json(document: Mapping[str, object]) -> None:
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
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, color: bool = False, shrink: int | None = None
) -> str:
    """The rows as text. Numbers are right-aligned. On a terminal that is too narrow the columns that matter least are left out,
    unless all are wanted (:data:`wide`); where that is not enough, columns are shortened, ``shrink`` the first."""
    cells = [[shown(value) for value in row] for row in rows]
    widths = [max([len(header), *(width(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    kept = list(range(len(headers)))
    if not wide and (columns := terminal_columns()) is not None:
        kept = _fitting(headers, cells, widths, columns, shrink)
        _shorten(widths, kept, columns, headers, shrink)
    right = [_is_measured([row[i] for row in rows]) for i in range(len(headers))]
    lines = ["  ".join(padded(headers[i], widths[i], right=right[i]) for i in kept).rstrip()]
    for row in cells:
        line = "  ".join(_painted(padded(row[i], widths[i], right=right[i]), color) for i in kept)
        lines.append(line.rstrip())
    return "\n".join(lines)


def terminal_columns() -> int | None:
    """How many characters a line of the terminal has that stdout is; ``None`` where it is none."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None


#: Characters that a column which is shortened keeps, and columns that are shortened last: ids are copied.
_LEAST = 8
_WHOLE = ("TASK", "RULE", "STATE", "VERSION")


def _fitting(
    headers: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int], columns: int, shrink: int | None
) -> list[int]:
    """The columns that are shown in so many characters: of those that may go, the ones that say nothing go first."""
    kept, gone = list(range(len(headers))), []
    empty = {i for i in kept if cells and all(row[i] == "-" for row in cells)}
    spared = [headers.index(name) for name in _SPARED if name in headers[1:]]
    for i in sorted(spared, key=lambda i: i not in empty):
        over = _total(widths, kept) - columns
        room = max(0, widths[shrink] - _LEAST) if shrink is not None and shrink in kept and shrink != i else 0
        if over <= min(room, widths[shrink] // 2 if shrink is not None else 0):
            break
        kept.remove(i)
        gone.append(i)
    for i in reversed(gone):  # the least of what was left out may fit beside what stayed
        if _total(widths, [*kept, i]) <= columns:
            kept = sorted([*kept, i])
    return kept


def _shorten(widths: list[int], kept: Sequence[int], columns: int, headers: Sequence[str], shrink: int | None) -> None:
    """Make columns narrower until they fit: the one that may, then the widest of the others."""
    while (spare := _total(widths, kept) - columns) > 0:
        long = [i for i in kept if widths[i] > max(_LEAST, len(headers[i]) if i != shrink else _LEAST)]
        if not long:
            return
        others = [i for i in long if headers[i] not in _WHOLE] or long
        chosen = shrink if shrink is not None and shrink in long else max(others, key=widths.__getitem__)
        least = _LEAST if chosen == shrink else max(_LEAST, len(headers[chosen]))
        widths[chosen] = max(least, widths[chosen] - spare)


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[i] for i in kept) + 2 * (len(kept) - 1)


def shown(value: object) -> str:
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


def counted(count: int, what: str, plural: str | None = None) -> str:
    """``1 worker``, ``2,000 workers``: the number, and the noun in its form."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction * 100:.0f}%"


def _is_measured(values: Sequence[object]) -> bool:
    """Whether a column holds quantities, which are read from the right."""
    known = [value for value in values if value is not None and value != "-"]
    return (
        bool(known)
        and all(
            _MEASURE.fullmatch(value) if isinstance(value, str) else isinstance(value, (int, float)) for value in known
        )
        and not all(isinstance(value, bool) for value in known)
    )


def _painted(cell: str, color: bool) -> str:
    paint = COLORS.get(cell.strip())
    return click.style(cell, fg=paint) if color and paint is not None else cell
