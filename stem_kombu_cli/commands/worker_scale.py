"""``stem worker scale``."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

from stem_kombu.autoscale import MOST_CHILDREN
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient, DirectiveReport
from stem_kombu.directive import ALL_WORKERS, Kind, Value
from stem_kombu_cli import children, directing, exit_codes
from stem_kombu_cli.changing import change_of, changing_options, confirm, reason_of
from stem_kombu_cli.directing import author_of, warn_of_generated
from stem_kombu_cli.ending import ending_of, ending_options
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import use_color

_COUNT = re.compile(r"([+-]?)(\d{1,4})", re.ASCII)


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Examples:  stem worker scale 8 --for 2h\n\n           stem worker scale -w mail-1 default",
)
@click.argument("count", metavar="N|+N|-N|default")
@ending_options()
@changing_options
@control_options
@click.pass_context
def scale(ctx: click.Context, /, count: str, **values: object) -> None:
    """Have each worker run N isolate children, until further notice; without --worker it asks first.

    New children start at once; excess children end after their task. No task is stopped or delayed. +N and -N are
    counted from what each worker has now, and stored as what that makes. `default` goes back to what each worker was started
    with. --max-concurrency of `worker start` limits N.

    Exit code 4: nothing is to be changed, or no worker has isolate children.
    """
    as_json, targets = wants_json(values), targets_of(values)
    ending = ending_of(values, SYSTEM.utcnow())
    change = change_of(values, as_json=as_json)
    sign, number = _parsed(count)
    places = places_of(values)
    settings = places.settings()
    author = author_of(change, reason_of(change, settings))
    warn_of_generated(targets)
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        directives = DirectiveClient(client)
        if sign:
            delta = number if sign == "+" else -number
            wanted = _counted(directives.ask(workers=targets, timeout=places.timeout), delta)
        else:
            wanted = dict.fromkeys(targets or [ALL_WORKERS], number or None)
        said = ", ".join(f"{'its default' if value is None else value} on workers {on}" for on, value in wanted.items())
        if change.dry_run:
            stores = [{"workers": on, "value": value} for on, value in wanted.items()]
            said = f"would set isolate children: {said}"
            directing.show_plan(ctx, "scale", settings.namespace, stores, said, as_json=as_json)
        if targets is None:
            confirm(
                change, f"this sets the isolate children of every worker of namespace {settings.namespace!r}: {said}"
            )
        report = directives.set(Kind.CONCURRENCY, wanted, ending=ending, author=author, timeout=places.timeout)
        nothing = "no directive about isolate children is in force there"
        hint = "`stem directives list --kind concurrency` shows those in force"
        directing.conclude(client, report, change, targets, places.timeout, nothing=nothing, hint=hint)
    children.show(report, author, as_json=as_json, color=use_color(ctx.obj.color))
    ctx.exit(directing.exit_code(report))


def _parsed(count: str) -> tuple[str, int]:
    """Sign and number; ``default`` is 0 without a sign."""
    if count == "default":
        return "", 0
    match = _COUNT.fullmatch(count)
    if match is None or not 1 <= int(match[2]) <= MOST_CHILDREN:
        context = click.get_current_context(True)
        hint = (
            "to stop the work itself: stem worker pause" if count in ("0", "+0", "-0") else f"from 1 to {MOST_CHILDREN}"
        )
        raise click.UsageError(f"{count!r} is no number of children; give N, +N, -N or default ({hint})", context)
    return match[1], int(match[2])


def _counted(report: DirectiveReport, delta: int) -> Mapping[str, Value | None]:
    """What each worker has now, and ``delta`` more."""
    found: dict[str, Value | None] = {}
    for reply in report.replies:
        if (setting := children.setting_of(reply.payload)) is not None:
            found[reply.worker] = min(MOST_CHILDREN, max(1, children.count_of(setting) + delta))
    if not found:
        raise Failure(
            "no worker with isolate children answered; nothing was stored",
            exit_codes.NOTHING_MATCHED,
            hint="stem worker stats shows workers with children; a number without + or - applies to workers that start later",
        )
    return found
