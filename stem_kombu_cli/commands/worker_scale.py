"""``stem worker scale``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient, DirectiveReport
from stem_kombu.directive import ALL_WORKERS, Directive, Kind, Value
from stem_kombu_cli import directing, exit_codes
from stem_kombu_cli.changing import change_of, changing_options, confirm, reason_of
from stem_kombu_cli.directing import author_of, await_applied, until, warn_of_generated
from stem_kombu_cli.ending import ending_of, ending_options
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import emit, note, print_json, table, use_color

#: Children that a worker may have.
_MOST = 1024
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
def scale(ctx: click.Context, /, count: str, **values: Any) -> None:
    """Have each worker run N isolate children, until further notice; without --worker it asks first.

    New children appear at once; those that are too many go after their task. No task is stopped or delayed. +N and -N are
    counted from what each worker has now, and stored as what that makes. `default` goes back to what each worker was started
    with. --max-concurrency of `worker start` is a limit that no N passes.

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
            if as_json:
                document = {"stores": [{"workers": on, "value": value} for on, value in wanted.items()]}
                print_json(directing.plan_document("scale", settings.namespace, document))
            else:
                emit(f"would set isolate children: {said}")
            ctx.exit(exit_codes.OK)
        if targets is None:
            confirm(
                change, f"this sets the isolate children of every worker of namespace {settings.namespace!r}: {said}"
            )
        report = directives.set(Kind.CONCURRENCY, wanted, ending=ending, author=author, timeout=places.timeout)
        if not report.stored:
            raise Failure(
                "no directive about isolate children holds there; nothing was stored", exit_codes.NOTHING_MATCHED
            )
        if change.wait and report.broadcast:
            await_applied(client, report, targets, places.timeout)
    color = use_color(ctx.obj.color)
    answers, lines = text(report, color), map(_line, report.stored)
    directing.show(report, author, as_json=as_json, color=color, answers=answers, lines=lines)
    for reply in report.replies:
        setting = _setting(reply.payload)
        if reply.error is None and setting is None:
            note(f"note: worker {reply.worker} runs no isolate tasks: there is nothing to scale")
        elif setting is not None and setting["clamped"]:
            note(f"note: worker {reply.worker} was started with --max-concurrency {setting['value']}")
    ctx.exit(directing.exit_code(report))


def _parsed(count: str) -> tuple[str, int]:
    """Sign and number; ``default`` is 0 without a sign."""
    if count == "default":
        return "", 0
    match = _COUNT.fullmatch(count)
    if match is None or not 1 <= int(match[2]) <= _MOST:
        context = click.get_current_context(True)
        hint = "to stop the work itself: stem worker pause" if count in ("0", "+0", "-0") else f"from 1 to {_MOST}"
        raise click.UsageError(f"{count!r} is no number of children; give N, +N, -N or default ({hint})", context)
    return match[1], int(match[2])


def _counted(report: DirectiveReport, delta: int) -> Mapping[str, Value | None]:
    """What each worker has now, and ``delta`` more."""
    found: dict[str, Value | None] = {}
    for reply in report.replies:
        if (setting := _setting(reply.payload)) is not None:
            found[reply.worker] = min(_MOST, max(1, int(setting["value"]) + delta))
    if not found:
        raise Failure("no worker with isolate children answered; nothing was stored", exit_codes.NOTHING_MATCHED)
    return found


def _setting(payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = payload.get("settings", {}).get(Kind.CONCURRENCY.value, {}).get("")
    return found


def text(report: DirectiveReport, color: bool) -> str:
    rows: list[Sequence[Any]] = []
    for reply in report.replies:
        setting = _setting(reply.payload) or {}
        value, base, source = setting.get("value"), setting.get("base"), setting.get("source")
        rows.append((reply.worker, value, base, source, reply.payload.get("retiring")))
    return table(("WORKER", "CHILDREN", "OWN", "BY", "RETIRING"), rows, color=color)


def _line(one: Directive) -> str:
    if one.cleared:
        return f"cleared: isolate children on workers {one.workers}, version {one.version}"
    return f"scaled: {one.value} isolate children on workers {one.workers}, version {one.version}, {until(one)}"
