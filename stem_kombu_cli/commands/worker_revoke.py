"""``stem worker revoke``: durable, then visible."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import click

from stem_kombu.control.client import ControlClient
from stem_kombu.control.reports import RevokeReport
from stem_kombu.errors import ConfigurationError, StoreError
from stem_kombu.revocation import Revocation
from stem_kombu.settings import Settings
from stem_kombu_cli import exit_codes
from stem_kombu_cli.commands.asking import show, tell
from stem_kombu_cli.options import DURATION, control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import note, print_json, shown, table, use_color


@click.command(
    epilog="Examples:  stem worker revoke --task 1761057 --terminate --reason INC-42\n\n"
    "\b\n           cat ids.txt | stem worker revoke --task - --expires-in 7d"
)
@click.option(
    "-t",
    "--task",
    "tasks",
    metavar="ID",
    multiple=True,
    required=True,
    help="Task id; repeat it, or - to read ids from stdin.",
)
@click.option("--terminate", is_flag=True, help="Stop what runs at its next checkpoint as well.")
@click.option("--reason", metavar="TEXT", help="Why; recorded with the task.")
@click.option("--requester", metavar="TEXT", help="By whom (default: user@host).")
@click.option("--expires-in", type=DURATION, help="Forget the revocation after this long (default: never).")
@control_options
@click.pass_context
def revoke(
    ctx: click.Context,
    /,
    tasks: Sequence[str],
    terminate: bool,
    reason: str | None,
    requester: str | None,
    expires_in: float | None,
    **values: Any,
) -> None:
    """Persist revocations, then broadcast them.

    A revoked task never starts, wherever it is delivered, until the revocation expires. With --terminate a task that runs
    is told to stop and raises TaskRevoked at its next checkpoint.
    """
    as_json, targets = wants_json(values), targets_of(values)
    settings = places_of(values).settings()
    ids = task_ids(tasks, sys.stdin.buffer)
    stored: list[Revocation] = []
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        try:
            report = client.revoke(
                ids,
                terminate=terminate,
                reason=reason,
                requested_by=requester,
                expires_in=expires_in,
                workers=targets,
                progress=progress.steps,
                on_stored=stored.extend,
            )
        except StoreError as error:
            raise StoreError(f"{error}; nothing was broadcast", hint=error.hint) from error
        except KeyboardInterrupt:
            if stored:
                note(f"{_counted(len(stored))} stored for good; {_who_obeys(settings)} honour them at their next sync")
            raise
    if as_json:
        print_json(report.to_dict())
    elif report.replies:
        show(report, text, use_color(ctx.obj.color))
    _tell(report, settings)
    ctx.exit(exit_codes.of_report(report))


def task_ids(given: Sequence[str], standard_input: BinaryIO) -> list[str]:
    """The ids, those from standard input where one of them is ``-``; blank lines are passed over, duplicates folded.

    Raises :class:`ConfigurationError` for a line that is not UTF-8.
    """
    ids: list[str] = []
    for one in given:
        ids += _lines(standard_input) if one == "-" else [one]
    if not ids:
        raise ConfigurationError("there is no task id on standard input", hint="write one id a line")
    return list(dict.fromkeys(ids))


def _lines(standard_input: BinaryIO) -> Iterator[str]:
    # Split at line feeds only: str.splitlines would make two ids of one that holds a control character.
    for number, line in enumerate(standard_input.read().split(b"\n"), 1):
        try:
            text = line.decode().strip(" \t\r\ufeff")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"line {number} of standard input is not UTF-8: {line[:40]!r}: {error}") from None
        if text:
            yield text


def text(report: RevokeReport, color: bool) -> str:
    names = ("applied", "stale", "expired", "in_flight", "terminated", "pending", "finished")
    rows = [(reply.worker, *(len(reply.payload.get(name, ())) for name in names)) for reply in report.replies]
    lines: list[str] = []
    for reply in report.replies:
        lines += [f"terminated: {task} on {reply.worker}" for task in reply.payload.get("terminated", ())]
        lines += [
            f"finished first: {end['id']} on {reply.worker}, {end['state']}"
            for end in reply.payload.get("finished", ())
        ]
        lines += [f"pending: {task} on {reply.worker}, no checkpoint yet" for task in reply.payload.get("pending", ())]
    headers = ("WORKER", *(name.replace("_", " ").upper() for name in names))
    return "\n".join([table(headers, rows, color=color), *(shown(line) for line in lines)])


def _who_obeys(settings: Settings) -> str:
    """What is promised where no worker has answered: a fleet with keys obeys what is signed with one that it lists."""
    key = settings.signing.active_key
    return f"workers that accept key {key!r}" if key else "workers without signing keys"


def _tell(report: RevokeReport, settings: Settings) -> None:
    versions = [revocation.version for revocation in report.stored]
    count = len(versions)
    note(f"stored: {_counted(count)}, version {max(versions)}")
    if not report.broadcast:
        note(f"error: stored, but not broadcast: {report.broker_error}")
        note(f"hint: {_who_obeys(settings)} honour it at their next sync, at the latest when they reconnect")
        return
    tell(report)
    if not report.replies:
        note(f"{_who_obeys(settings)} honour it when they start, or at their next sync")


def _counted(count: int) -> str:
    return f"{count} revocation{'s' if count != 1 else ''}"
