"""``stem worker log-level``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient, DirectiveReport
from stem_kombu.directive import ALL_WORKERS, Directive, Kind
from stem_kombu_cli import directing
from stem_kombu_cli.changing import change_of, changing_options, reason_of
from stem_kombu_cli.directing import author_of, until, warn_of_generated
from stem_kombu_cli.ending import ending_of, ending_options
from stem_kombu_cli.options import control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import table, use_color

LEVELS = ("debug", "info", "warning", "error", "critical")


@click.command(epilog="Example:  stem worker log-level debug -w mail-1 --for 10m")
@click.argument("level", type=click.Choice([*LEVELS, "default"], case_sensitive=False))
@click.option("--logger", metavar="NAME", help="Only this logger and those below it (default: all).")
@ending_options("1h")
@changing_options
@control_options
@click.pass_context
def log_level(ctx: click.Context, /, level: str, logger: str | None, **values: object) -> None:
    """Have workers and their children log from LEVEL on, for an hour unless --for or --until says otherwise.

    `default` goes back to what each worker was started with. Workers that start later obey too. A worker inside another
    program does not change that program's logging: only its children obey.

    Exit code 4: no directive about log levels is in force there.
    """
    as_json, targets = wants_json(values), targets_of(values)
    ending = ending_of(values, SYSTEM.utcnow(), default=timeouts.CLI_LOG_LEVEL)
    if logger is not None and not logger.strip():
        raise click.UsageError("--logger is blank; leave it out to mean all loggers", ctx)
    change = change_of(values, as_json=as_json)
    places = places_of(values)
    settings = places.settings()
    author = author_of(change, reason_of(change, settings))
    warn_of_generated(targets)
    wanted = dict.fromkeys(targets or [ALL_WORKERS], None if level == "default" else level.lower())
    if change.dry_run:
        stores = [{"workers": on, "subject": logger, "value": value} for on, value in wanted.items()]
        said = f"would set {logger or 'all loggers'} to {level} on workers {', '.join(wanted)}"
        directing.show_plan(ctx, "log-level", settings.namespace, stores, said, as_json=as_json)
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        report = DirectiveClient(client).set(
            Kind.LOG_LEVEL, wanted, subject=logger, ending=ending, author=author, timeout=places.timeout
        )
        nothing = "no directive about log levels is in force there"
        hint = "`stem directives list --kind log-level` shows those in force"
        directing.conclude(client, report, change, targets, places.timeout, nothing=nothing, hint=hint)
    color = use_color(ctx.obj.color)
    answers, lines = text(report, color), map(_line, report.stored)
    directing.show(report, author, as_json=as_json, color=color, answers=answers, lines=lines)
    ctx.exit(directing.exit_code(report))


def text(report: DirectiveReport, color: bool) -> str:
    rows: list[Sequence[object]] = []
    for reply in report.replies:
        for name, one in sorted(reply.payload.get("settings", {}).get(Kind.LOG_LEVEL.value, {}).items()):
            rows.append((reply.worker, name or "all", one["value"], one["base"], one["source"]))
    return table(("WORKER", "LOGGER", "LEVEL", "OWN", "BY"), rows, color=color)


def _line(one: Directive) -> str:
    what = f"{one.subject or 'all loggers'} on workers {one.workers}"
    if one.cleared:
        return f"cleared: {what}, version {one.version}"
    return f"set to {one.value}: {what}, version {one.version}, {until(one)}"
