"""``stem worker stats``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import Report, WorkerReply
from stem_kombu_cli.commands.asking import ask
from stem_kombu_cli.directing import limit_in_words
from stem_kombu_cli.options import control_options
from stem_kombu_cli.render import counted, size, span, table
from stem_kombu_cli.slots import used_slots
from stem_kombu_cli.watching import watch_option


@click.command(epilog="Example:  stem worker stats --worker worker-a --json")
@watch_option
@control_options
@click.pass_context
def stats(ctx: click.Context, /, watch: float | None, **values: object) -> None:
    """Counters, queue depths, pool and metadata per worker."""
    ask(ctx, values, ControlClient.stats, text, watch=watch)


def text(report: Report, color: bool) -> str:
    parts = [_worker(reply, color) for reply in report.replies]
    return "\n\n".join([*parts, _fleet(report)] if len(parts) > 1 else parts)


def _fleet(report: Report) -> str:
    """All workers that answered, in a line: slots by mode, and the sums of their totals."""
    payloads = [reply.payload for reply in report.replies if reply.payload]
    slots: dict[str, Counter[str]] = {}
    for payload in payloads:
        for mode, states in payload.get("slots", {}).items():
            slots.setdefault(mode, Counter()).update(states)
    totals = sum((Counter(payload["totals"]) for payload in payloads), Counter())
    parts = [counted(len(report.replies), "worker"), *used_slots(slots)]
    parts += [f"{totals[name]} {name}" for name in ("received", "succeeded", "failed", "cancelled")]
    return f"{'fleet':<12} {', '.join(parts)}"


def _worker(reply: WorkerReply, color: bool) -> str:
    facts = reply.payload
    if not facts:
        return f"{reply.worker}  {reply.status}"
    load = "" if facts["load_avg"] is None else f", load {facts['load_avg']:.2f}"
    tasks = f"{facts['in_flight']} in flight, {facts['reserved']} reserved"
    heads = [
        ("worker", reply.worker),
        ("state", f"{facts['state']}, up {span(facts['uptime_s'])}, version {facts['version']}"),
        ("process", f"{facts['hostname']}, {facts['pid']}, {size(facts['rss_bytes'])}{load}"),
        ("tasks", f"{tasks}; {counted(facts['concurrency'], 'isolate')}, prefetch {facts['prefetch']}"),
        *((("slots", "  ".join(used_slots(slots))),) if (slots := facts.get("slots")) else ()),
        ("totals", ", ".join(f"{count} {name}" for name, count in facts["totals"].items())),
        ("settling", _settling(facts.get("settling"))),
        *((f"trouble: {part}", said) for part, said in facts.get("troubles", {}).items()),
        ("dropped", _dropped(facts.get("dropped", {}))),
        ("broker", f"{facts['broker']} ({facts['transport']})"),
        ("control", f"through the {facts.get('control_link', 'broker')}"),
        ("backend", facts["backend"] or "none"),
        ("revocations", f"{facts['revoked_count']} held{_set_aside(facts)}; {facts['revoke_store']}"),
        ("bounds", ", ".join(f"{_spoken(name)} {span(value)}" for name, value in facts.get("bounds", {}).items())),
    ]
    heads += [("limit", limit_in_words(*one)) for one in facts.get("settings", {}).get("rate-limit", {}).items()]
    if restarts := facts.get("restarts"):
        heads.append(("restarts", ", ".join(f"{count} of {name}" for name, count in restarts.items())))
    lines = [f"{name:<12} {value}" for name, value in heads]
    lines += ["", _queues(facts["queues"], color)]
    if facts["pool"]:
        lines += ["", _pool(facts["pool"], color)]
    return "\n".join(lines)


def _settling(facts: Mapping[str, Any] | None) -> str:
    """Tasks that have ended and whose outcome is not carried out yet; an older worker does not report them."""
    if facts is None:
        return "-"
    waiting = [f"{count} can't {_STEPS.get(step, step)}" for step, count in facts["waiting"].items()]
    said = f"; for {span(facts['oldest_s'])}, the oldest because: {facts['error']}" if waiting else ""
    lost = f"; {facts['not_storable']} could not be stored" if facts["not_storable"] else ""
    return ", ".join([str(facts["count"]), *waiting]) + said + lost


_STEPS = {"publish": "be published again", "record": "be recorded", "result": "be written for Celery"}


def _dropped(sources: Mapping[str, Mapping[str, int]]) -> str:
    """Messages that were not obeyed, by source and reason."""
    parts = [f"{count} {source} ({reason})" for source, found in sources.items() for reason, count in found.items()]
    return ", ".join(parts) or "nothing"


def _set_aside(facts: Mapping[str, Any]) -> str:
    count = facts.get("set_aside", {}).get("revoke_store", 0)
    return f", {count} can't be read and are set aside" if count else ""


def _spoken(name: str) -> str:
    return name.removesuffix("_s").replace("_", " ")


def _queues(queues: Mapping[str, Mapping[str, object]], color: bool) -> str:
    rows = [(name, queue["depth"], queue["consuming"]) for name, queue in queues.items()]
    return table(("QUEUE", "DEPTH", "CONSUMING"), rows, color=color)


def _pool(pool: list[Mapping[str, Any]], color: bool) -> str:
    rows = [
        (slot["slot"], slot["pid"], slot["state"], slot["tasks_done"], size(slot["rss_bytes"]), slot["task_id"])
        for slot in pool
    ]
    return table(("SLOT", "PID", "STATE", "DONE", "RSS", "TASK"), rows, color=color)
