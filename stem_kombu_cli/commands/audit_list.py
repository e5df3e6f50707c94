"""``stem audit list``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta

import click

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.control.audit import Entry
from stem_kombu.control.client.audit_log import MOST_FOUND, SCHEMA, AuditClient, AuditFilter
from stem_kombu_cli import exit_codes, render
from stem_kombu_cli.directing import spoken
from stem_kombu_cli.options import DURATION, TEXT, place_options, places_of
from stem_kombu_cli.render import emit, note, print_json, table, use_color

#: Characters of a target in a table.
_TARGET = 60


@click.command("list", epilog="Example:  stem audit list --action 'revoke' --since 24h -o jsonl")
@click.option("--since", type=DURATION, help="Only entries written within this long.")
@click.option("--action", type=TEXT, metavar="GLOB", help="Actions: revoke, undo, pause, …")
@click.option("--requester", type=TEXT, metavar="GLOB", help="By whom.")
@click.option("--task", type=TEXT, metavar="ID", help="Only entries that name this task.")
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_FOUND),
    default=1000,
    show_default=True,
    help="At most this many, the newest first.",
)
@click.option("--follow", is_flag=True, help="Then print new entries, until Ctrl-C.")
@place_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; the same as -o json.")
@click.option(
    "-o",
    "output",
    type=click.Choice(["text", "json", "jsonl"]),
    default="text",
    show_default=True,
    help="Output; jsonl is a line an entry.",
)
@click.pass_context
def list_entries(
    ctx: click.Context,
    /,
    since: float | None,
    action: str | None,
    requester: str | None,
    task: str | None,
    limit: int,
    follow: bool,
    as_json: bool,
    output: str,
    **values: object,
) -> None:
    """List who changed what, and why, in the order in which it happened. All conditions have to hold.

    An entry names the tasks of a change, or as many as it has room for: --task finds those. With --follow JSON is a line an
    entry. Exit code 4: no entry matches.
    """
    output = "json" if as_json else output
    wanted = AuditFilter(action, requester, task, None if since is None else timedelta(seconds=since))
    with AuditClient(places_of(values).settings()) as client:
        entries = client.find(wanted, limit=limit)
        if output == "json" and not follow:
            print_json({"schema": SCHEMA, "entries": [entry.to_dict() for entry in entries]})
        else:
            _show(entries, output, use_color(ctx.obj.color))
        if not entries and not follow:
            note("no entry matches")
        render.streams = follow and output != "text"
        version = entries[-1].version if entries else 0
        while follow:
            SYSTEM.sleep(timeouts.CLI_FOLLOW)
            for entry in client.since(version, wanted):
                _show([entry], output, use_color(ctx.obj.color), head=False)
                version = entry.version
    ctx.exit(exit_codes.OK if entries else exit_codes.NOTHING_MATCHED)


def _show(entries: Sequence[Entry], output: str, color: bool, *, head: bool = True) -> None:
    if output != "text":
        for entry in entries:
            emit(json.dumps(entry.to_dict()))
    elif entries:
        lines = text(entries, color).splitlines()
        emit("\n".join(lines if head else lines[1:]), color=color)


def text(entries: Sequence[Entry], color: bool) -> str:
    rows = [
        (
            entry.seq,
            isoformat(entry.at),
            entry.note.action,
            entry.note.requester,
            entry.host,
            {True: "yes", False: "NO", None: None}[entry.verified],
            _target(entry),
            entry.note.reason,
        )
        for entry in entries
    ]
    return table(("SEQ", "AT", "ACTION", "BY", "HOST", "VERIFIED", "TARGET", "REASON"), rows, color=color, shrink=7)


def _target(entry: Entry) -> str:
    """What the change is about; of the second entry, what came of it."""
    target = dict(entry.note.target)
    directives = target.pop("directives", None)
    parts = []
    if isinstance(directives, list):
        parts = [", ".join(map(_directive, directives))]
        if target.get("count") == len(directives):
            del target["count"]
    parts += [f"{name}={_short(value)}" for name, value in target.items()]
    outcome = entry.note.after.get("outcome") if isinstance(entry.note.after, dict) else None
    if isinstance(outcome, dict):
        parts += ["outcome:", *(f"{name}={_short(value)}" for name, value in outcome.items() if value)]
    said = " ".join(parts)
    return said if len(said) <= _TARGET else f"{said[: _TARGET - 1]}…"


def _directive(one: object) -> str:
    """``pause of default on *``."""
    if not isinstance(one, dict):
        return str(one)
    return f"{one.get('kind')} of {spoken(one.get('subject'))} on {one.get('workers')}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
