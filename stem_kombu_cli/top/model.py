"""What ``stem top`` shows: a snapshot of the fleet, its tabs and columns, and which rows stand in which order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

from stem_kombu_cli import exit_codes
from stem_kombu_cli.cells import padded
from stem_kombu_cli.render import percent, shown, size, span
from stem_kombu_cli.slots import Slots, used_of

#: What is known of one worker, task, queue or directive.
Facts: TypeAlias = Mapping[str, Any]


class Tab(str, Enum):
    """The tabs, in their order."""

    WORKERS = "Workers"
    TASKS = "Tasks"
    QUEUES = "Queues"
    DIRECTIVES = "Directives"


@dataclass(frozen=True, slots=True)
class Column:
    """``name`` is a key of the facts; ``text`` is how a value is shown. ``width`` is in cells of the terminal."""

    title: str
    name: str
    width: int
    text: Callable[[Any], str] = shown
    right: bool = False

    def cell(self, facts: Facts) -> str:
        """The value in exactly the column's width."""
        return padded(self.text(facts.get(self.name)), self.width, right=self.right)


def _names(values: Sequence[str] | None) -> str:
    return shown(",".join(values or ()))


def _used(mode: str, slots: Slots | None) -> str:
    return shown(used_of(mode, slots))


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)


#: The columns of each tab, the most important first: a narrow terminal shows as many as fit.
COLUMNS: Mapping[Tab, Sequence[Column]] = {
    Tab.WORKERS: (
        Column("WORKER", "worker", 32),
        Column("STATE", "state", 8),
        Column("INLINE", "slots", 7, partial(_used, "inline"), right=True),
        Column("ISOLATE", "slots", 7, partial(_used, "isolate"), right=True),
        Column("PAUSED", "paused", 12, _names),
        Column("IN FLIGHT", "in_flight", 9, right=True),
        Column("AGE", "age_s", 7, span, right=True),
        Column("RSS", "rss_bytes", 8, size, right=True),
        Column("QUEUES", "queues", 20, _names),
        Column("HOST", "hostname", 20),
        Column("PID", "pid", 8, right=True),
        Column("VERSION", "version", 10),
    ),
    Tab.TASKS: (
        Column("TASK", "id", 36),
        Column("NAME", "name", 24),
        Column("RUNTIME", "runtime_s", 8, span, right=True),
        Column("WORKER", "worker", 32),
        Column("QUEUE", "queue", 12),
        Column("PROGRESS", "progress", 8, _percent, right=True),
        Column("STOP ASKED", "terminate_requested_s_ago", 10, span, right=True),
        Column("CHECKPOINT", "checkpoint_s_ago", 10, span, right=True),
        Column("MODE", "mode", 7),
        Column("ATTEMPT", "attempt", 7, right=True),
        Column("ARGS", "args", 40),
    ),
    Tab.QUEUES: (
        Column("QUEUE", "name", 30),
        Column("DEPTH", "depth", 8, right=True),
        Column("OLDEST", "oldest_s", 8, span, right=True),
        Column("CONSUMERS", "count", 9, right=True),
        Column("PAUSED", "paused", 15),
        Column("WORKERS", "consumers", 60, _names),
    ),
    Tab.DIRECTIVES: (
        Column("KIND", "kind", 11),
        Column("SUBJECT", "subject", 20),
        Column("WORKERS", "workers", 16),
        Column("VALUE", "value", 10),
        Column("AGE", "age_s", 7, span, right=True),
        Column("ENDS IN", "ends_in_s", 8, span, right=True),
        Column("BY", "requested_by", 20),
        Column("REASON", "reason", 40),
        Column("VERSION", "version", 16, right=True),
    ),
}


def _text_of(name: str) -> Callable[[Facts], str]:
    def text(facts: Facts) -> str:
        return str(facts[name])

    return text


def _of_task(facts: Facts) -> str:
    return f"{facts['worker']}\n{facts['id']}"


#: What a row is known by, from one look to the next.
KEYS: Mapping[Tab, Callable[[Facts], str]] = {
    Tab.WORKERS: _text_of("worker"),
    Tab.TASKS: _of_task,
    Tab.QUEUES: _text_of("name"),
    Tab.DIRECTIVES: _text_of("version"),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet as one look found it. ``notes`` say what could not be seen."""

    namespace: str
    broker: str
    taken_at: str = ""
    facts: Mapping[Tab, Sequence[Facts]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    #: As a command that asks the same would exit.
    code: int = exit_codes.OK

    def to_dict(self) -> dict[str, object]:
        """As ``--record`` writes it, a line each."""
        return {
            "schema": "stem.top/1",
            "namespace": self.namespace,
            "broker": self.broker,
            "timestamp": self.taken_at,
            **{tab.value.lower(): list(self.facts.get(tab, ())) for tab in Tab},
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Order:
    """Which rows of a tab are shown, and how they are sorted: by the column of that number."""

    wanted: str = ""
    column: int = 0
    descending: bool = False


def rows_of(snapshot: Snapshot, tab: Tab, order: Order) -> list[Facts]:
    """The rows that hold the wanted text in any column, upper or lower case alike, sorted; what has no value comes last."""
    rows = list(snapshot.facts.get(tab, ()))
    columns = COLUMNS[tab]
    if wanted := order.wanted.lower():
        rows = [row for row in rows if any(wanted in _searched(row.get(column.name)) for column in columns)]
    name = columns[order.column].name
    known = [row for row in rows if row.get(name) is not None]
    try:
        known.sort(key=itemgetter(name), reverse=order.descending)
    except TypeError:  # values of several kinds
        known.sort(key=lambda row: str(row[name]), reverse=order.descending)
    return known + [row for row in rows if row.get(name) is None]


def _searched(value: object) -> str:
    return value.lower() if isinstance(value, str) else str(value).lower()


def fitting(tab: Tab, width: int) -> list[Column]:
    """As many columns as fit into so many characters, two between each; the first always."""
    columns, used = [COLUMNS[tab][0]], COLUMNS[tab][0].width
    for column in COLUMNS[tab][1:]:
        used += 2 + column.width
        if used > width:
            break
        columns.append(column)
    return columns


def line(columns: Sequence[Column], facts: Facts) -> str:
    """A row as text."""
    return "  ".join(column.cell(facts) for column in columns)


def head(columns: Sequence[Column], order: Order, tab: Tab) -> str:
    """The titles; the column by which rows are sorted is marked."""
    by = COLUMNS[tab][order.column]
    parts = []
    for column in columns:
        title = f"{column.title}{'▼' if order.descending else '▲'}" if column is by else column.title
        title = title[: column.width]
        parts.append(title.rjust(column.width) if column.right else title.ljust(column.width))
    return "  ".join(parts)
