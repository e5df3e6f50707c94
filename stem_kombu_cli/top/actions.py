"""The keys of ``stem top`` that change something: what each would do to the rows that were chosen, and how it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from stem_kombu import timeouts
from stem_kombu_cli.changing import MOST_BY_ONE_KEY
from stem_kombu_cli.render import counted
from stem_kombu_cli.top.fleet import Fleet
from stem_kombu_cli.top.model import Facts, Tab

#: Does it, for a reason (``None``: none was given) and a number where one was asked for; says what came of it.
Act: TypeAlias = Callable[[Fleet, str | None, int], str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a key would do. ``says`` is shown before; ``count`` is how many tasks it strikes: above
    :data:`~stem_kombu_cli.changing.MOST_BY_ONE_KEY` that number has to be typed. ``asks``: a number that it needs."""

    says: str
    act: Act
    count: int = 0
    asks: str | None = None

    @property
    def must_be_typed(self) -> bool:
        return self.count > MOST_BY_ONE_KEY


@dataclass(frozen=True, slots=True)
class Action:
    """A key and what it is for."""

    key: str
    word: str
    plan: Callable[[Sequence[Facts]], Plan]


def _ids(rows: Sequence[Facts]) -> list[str]:
    return list(dict.fromkeys(str(row["id"]) for row in rows))


def _workers(rows: Sequence[Facts]) -> list[str]:
    return [str(row["worker"]) for row in rows]


def _queues(rows: Sequence[Facts]) -> list[str]:
    return [str(row["name"]) for row in rows]


def _running(rows: Sequence[Facts]) -> int:
    return sum(int(row.get("in_flight") or 0) for row in rows)


def _named(names: Sequence[str], what: str) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{what} {shown}" if len(names) == 1 else f"{len(names)} {what}s ({shown})"


def _revoke(rows: Sequence[Facts]) -> Plan:
    ids = _ids(rows)
    says = f"This revokes {_named(ids, 'task')}, and stops running tasks at their next checkpoint."
    return Plan(says, lambda fleet, reason, _: fleet.revoke(ids, reason), len(ids))


def _ladder(rows: Sequence[Facts]) -> Plan:
    ids = _ids(rows)
    says = (
        f"This revokes {_named(ids, 'task')}. What does not stop at a checkpoint gets SIGTERM after "
        f"{timeouts.TOP_TERM_AFTER:g} s and SIGKILL after {timeouts.TOP_KILL_AFTER:g} s, with the programs that it has started."
    )
    return Plan(says, lambda fleet, reason, _: fleet.revoke(ids, reason, ladder=True), len(ids))


def _pause_queues(rows: Sequence[Facts]) -> Plan:
    names = _queues(rows)
    says = f"This pauses {_named(names, 'queue')} on every worker, without an end. Running tasks finish."
    return Plan(says, lambda fleet, reason, _: fleet.pause_queues(names, reason))


_UNKNOWN = "Waiting messages: unknown."


def _resume_queues(rows: Sequence[Facts]) -> Plan:
    names, depths = _queues(rows), [row.get("depth") for row in rows]
    waiting = sum(int(depth) for depth in depths if depth is not None)
    how_many = f"Waiting messages: {waiting:,}."
    if None in depths:
        how_many = f"Waiting messages: {waiting:,} or more." if waiting else _UNKNOWN
    says = f"This resumes {_named(names, 'queue')}. {how_many}"
    return Plan(says, lambda fleet, reason, _: fleet.resume_queues(names, reason), waiting)


def _pause_workers(rows: Sequence[Facts]) -> Plan:
    names = _workers(rows)
    says = f"This pauses all queues on {_named(names, 'worker')}, without an end. Running tasks finish."
    return Plan(says, lambda fleet, reason, _: fleet.pause_workers(names, reason))


def _resume_workers(rows: Sequence[Facts]) -> Plan:
    names = _workers(rows)
    return Plan(
        f"This resumes {_named(names, 'worker')}.", lambda fleet, reason, _: fleet.resume_workers(names, reason)
    )


def _scale(rows: Sequence[Facts]) -> Plan:
    names = _workers(rows)
    says = f"This sets the isolate children of {_named(names, 'worker')}, without an end. No task is stopped."
    return Plan(says, lambda fleet, reason, count: fleet.scale(names, count, reason), asks="isolate children of each")


def _shut_down(rows: Sequence[Facts]) -> Plan:
    names, running = _workers(rows), _running(rows)
    tasks = counted(running, "task")
    says = f"This stops {_named(names, 'worker')}. What runs there ({tasks}) ends first, and no new task starts."
    return Plan(says, lambda fleet, reason, _: fleet.shut_down(names, reason), running)


def _clear(rows: Sequence[Facts]) -> Plan:
    versions = [int(row["version"]) for row in rows]
    words = [f"{row['kind']} of {row['subject']} on workers {row['workers']}" for row in rows]
    says = f"This ends {_named(words, 'directive')}: workers return to their own values."
    return Plan(says, lambda fleet, reason, _: fleet.clear(versions, reason))


#: What can be done in each tab.
ACTIONS: dict[Tab, Sequence[Action]] = {
    Tab.WORKERS: (
        Action("P", "pause", _pause_workers),
        Action("U", "resume", _resume_workers),
        Action("C", "scale", _scale),
        Action("S", "shutdown", _shut_down),
    ),
    Tab.TASKS: (Action("R", "revoke", _revoke), Action("K", "ladder", _ladder)),
    Tab.QUEUES: (Action("P", "pause", _pause_queues), Action("U", "resume", _resume_queues)),
    Tab.DIRECTIVES: (Action("D", "end", _clear),),
}
