"""``stem worker revoke``: durable, then visible."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from stem_kombu.control.client import ControlClient
from stem_kombu.control.reports import RevokeReport
from stem_kombu.errors import StoreError
from stem_kombu.revocation import Revocation
from stem_kombu_cli import exit_codes
from stem_kombu_cli.commands.asking import tell
from stem_kombu_cli.options import DURATION, control_options, places_of, targets_of, wants_json
from stem_kombu_cli.render import is_interactive, note, print_json, table, use_color


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
    ids = task_ids(tasks)
    stored: list[Revocation] = []
    with ControlClient(settings) as client:
        try:
            report = client.revoke(
                ids,
                terminate=terminate,
                reason=reason,
                requested_by=requester,
                expires_in=expires_in,
                workers=targets,
                progress=_progress(),
                on_stored=stored.extend,
            )
        except StoreError as error:
            raise StoreError(f"{error}; nothing was stored and nothing was broadcast", hint=error.hint) from error
        except KeyboardInterrupt:
            if stored:
                note(f"{len(stored)} revocations are stored and stay so; workers honour them at their next sync")
            raise
    if as_json:
        print_json(report.to_dict())
    elif report.replies:
        click.echo(text(report, use_color(ctx.obj.color)))
    _tell(report)
    ctx.exit(exit_codes.of_report(report))


def task_ids(given: Sequence[str]) -> list[str]:
    """The ids, those from standard input where one of them is ``-``; blank lines are passed over, duplicates folded."""
    ids: list[str] = []
    for one in given:
        if one == "-":
            lines = sys.stdin.read().splitlines()
            ids += [line.strip() for line in lines if line.strip()]
        else:
            ids.append(one)
    if not ids:
        raise click.UsageError("there is no task id on standard input")
    return list(dict.fromkeys(ids))


def text(report: RevokeReport, color: bool) -> str:
    names = ("applied", "stale", "expired", "in_flight", "terminated", "pending", "finished")
    rows = [(reply.worker, *(len(reply.payload.get(name, ())) for name in names)) for reply in report.replies]
    lines = [table(("WORKER", *(name.replace("_", " ").upper() for name in names)), rows, color=color)]
    for reply in report.replies:
        lines += [f"terminated: {task} on {reply.worker}" for task in reply.payload.get("terminated", ())]
        lines += [
            f"finished first: {end['id']} on {reply.worker}, {end['state']}"
            for end in reply.payload.get("finished", ())
        ]
        lines += [f"pending: {task} on {reply.worker}, no checkpoint yet" for task in reply.payload.get("pending", ())]
    return "\n".join(lines)


def _tell(report: RevokeReport) -> None:
    versions = [revocation.version for revocation in report.stored]
    count = len(versions)
    note(f"stored: {count} revocation{'s' if count != 1 else ''}, version {max(versions)}")
    if not report.broadcast:
        note(f"error: stored, but not broadcast: {report.broker_error}")
        note("hint: workers will honour it at their next sync, at the latest when they reconnect")
        return
    tell(report)
    if not report.replies:
        note("every worker will honour it when it starts, or at its next sync")


def _progress() -> Callable[[int, int], None] | None:
    """A bar for orders that take several messages, on a terminal only."""
    if not is_interactive():
        return None
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    tasks: list[Any] = []

    def show(sent: int, of: int) -> None:
        if of < 2:
            return
        if not tasks:
            bar.start()
            tasks.append(bar.add_task("broadcasting", total=of))
        bar.update(tasks[0], completed=sent)
        if sent == of:
            bar.stop()

    return show
