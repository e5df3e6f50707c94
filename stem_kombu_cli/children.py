"""What ``scale`` and ``autoscale`` show of each worker's isolate children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.autoscale import Autoscale
from stem_kombu_cli import directing
from stem_kombu_cli.directing import until
from stem_kombu_cli.render import note, table

if TYPE_CHECKING:
    from stem_kombu.control.client.directives import DirectiveReport
    from stem_kombu.control.directive_writer import Author
    from stem_kombu.directive import Directive


def setting_of(payload: Mapping[str, Any]) -> Mapping[str, object] | None:
    """What counts for the children of a worker that answered, ``None`` where it runs no isolates."""
    found: Mapping[str, object] | None = payload.get("settings", {}).get("concurrency", {}).get("")
    return found


def count_of(setting: Mapping[str, Any]) -> int:
    """How many children there are to be now."""
    value = setting["value"]
    return int(value["children"] if isinstance(value, Mapping) else value)


def range_of(setting: Mapping[str, object]) -> str | None:
    """``1 to 8`` under autoscale, else ``None``."""
    value = setting["value"]
    return f"{value['min']} to {value['max']}" if isinstance(value, Mapping) else None


def show(report: DirectiveReport, author: Author, *, as_json: bool, color: bool) -> None:
    """What was stored and a row for each worker, or both as JSON; on stderr, who has nothing to scale."""
    directing.show(
        report, author, as_json=as_json, color=color, answers=_table(report, color), lines=map(line, report.stored)
    )
    _tell(report)


def _table(report: DirectiveReport, color: bool) -> str:
    """A row for each worker."""
    rows: list[Sequence[object]] = []
    for reply in report.replies:
        setting = setting_of(reply.payload)
        has = (None,) * 4 if setting is None else (
            count_of(setting), range_of(setting), setting.get("base"), setting.get("source")
        )  # fmt: skip
        rows.append((reply.worker, *has, reply.payload.get("retiring")))
    return table(("WORKER", "CHILDREN", "AUTOSCALE", "OWN", "BY", "RETIRING"), rows, color=color)


def line(one: Directive) -> str:
    """What was stored, as a sentence."""
    if one.cleared:
        what = "autoscale" if isinstance(one.value, Mapping) else "isolate children"
        return f"cleared: {what} on workers {one.workers}, version {one.version}"
    if isinstance(one.value, Mapping):
        asked = Autoscale.of_value(one.value)
        return f"autoscaled: {asked} isolate children on workers {one.workers}, version {one.version}, {until(one)}"
    return f"scaled: {one.value} isolate children on workers {one.workers}, version {one.version}, {until(one)}"


def _tell(report: DirectiveReport) -> None:
    """On stderr: who has nothing to scale, and who was started with a limit."""
    for reply in report.replies:
        setting = setting_of(reply.payload)
        if reply.error is None and setting is None:
            note(f"note: worker {reply.worker} runs no isolate tasks: there is nothing to scale")
        elif setting is not None and setting["clamped"]:
            limit = "" if range_of(setting) else f" {count_of(setting)}"
            note(f"note: worker {reply.worker} was started with --max-concurrency{limit}, which is a limit")
