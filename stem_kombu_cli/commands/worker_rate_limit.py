"""``stem worker rate-limit``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient, DirectiveReport
from stem_kombu.directive import ALL_WORKERS, QUEUE, TASK, Directive, Kind, Value
from stem_kombu.rate import RateLimit
from stem_kombu_cli import completion, directing
from stem_kombu_cli.changing import change_of, changing_options, confirm, reason_of
from stem_kombu_cli.directing import author_of, rate_of, spoken, until, warn_of_generated
from stem_kombu_cli.ending import ending_of, ending_options
from stem_kombu_cli.options import control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import note, table, use_color


@click.command(
    "rate-limit",
    epilog="Examples:  stem worker rate-limit -q mail 100/m --for 2h\n\n"
    "           stem worker rate-limit --name mail.send 5/s --each -w 'mail-*'",
)
@click.argument("rate", metavar="RATE|default")
@click.option(
    "-q",
    "--queue",
    metavar="QUEUE",
    help="The tasks of this queue; a glob: of each of these queues.",
    shell_complete=completion.queues,
)
@click.option(
    "--name",
    "task",
    metavar="TASK",
    help="The tasks of this name; a glob: of each of these names.",
    shell_complete=completion.task_names,
)
@click.option("--each", is_flag=True, help="RATE is that of each worker (default: of all workers together).")
@ending_options()
@changing_options
@control_options
@click.pass_context
def rate_limit(
    ctx: click.Context, /, rate: str, queue: str | None, task: str | None, each: bool, **values: object
) -> None:
    """Start at most RATE tasks of a queue or of a task name: 10/s, 100/m, 5000/h; without --worker it asks first.

    The limit is the fleet's: the live workers that consume the queue have equal shares of it. With --worker those workers share
    it. Other tasks stay in the queue, or workers hold them like tasks with an eta; no running task is stopped. `default`
    ends the limit.

    Exit code 4: no directive about that limit is in force there.
    """
    as_json, targets = wants_json(values), targets_of(values)
    ending = ending_of(values, SYSTEM.utcnow())
    change = change_of(values, as_json=as_json)
    subject, value = _subject(ctx, queue, task), _value(ctx, rate, each)
    places = places_of(values)
    settings = places.settings()
    author = author_of(change, reason_of(change, settings))
    warn_of_generated(targets)
    wanted = dict.fromkeys(targets or [ALL_WORKERS], value)
    said = f"{spoken(subject)}: {_words(value)} on workers {', '.join(wanted)}"
    if change.dry_run:
        stores = [{"workers": on, "subject": subject, "value": value} for on in wanted]
        directing.show_plan(ctx, "rate-limit", settings.namespace, stores, f"would limit {said}", as_json=as_json)
    if targets is None:
        confirm(change, f"this limits the whole fleet of namespace {settings.namespace!r}: {said}")
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        report = DirectiveClient(client).set(
            Kind.RATE_LIMIT, wanted, subject=subject, ending=ending, author=author, timeout=places.timeout
        )
        nothing = f"no directive about a rate limit of {spoken(subject)} is in force there"
        hint = "`stem directives list --kind rate-limit` shows those in force"
        directing.conclude(client, report, change, targets, places.timeout, nothing=nothing, hint=hint)
    color = use_color(ctx.obj.color)
    answers = text(report, color) if any(map(_limits, report.replies)) else ""
    lines = map(_line, report.stored)
    directing.show(report, author, as_json=as_json, color=color, answers=answers, lines=lines)
    if value is not None and report.replies and not report.unknown and not any(map(_limits, report.replies)):
        has = "knows" if subject.startswith(TASK) else "consumes"
        note(
            f"hint: no worker that answered {has} {spoken(subject)}; the directive applies to workers that start later"
        )
    ctx.exit(directing.exit_code(report))


def _subject(ctx: click.Context, queue: str | None, task: str | None) -> str:
    if (queue is None) == (task is None):
        raise click.UsageError("give either --queue or --name", ctx)
    option, prefix, name = ("--queue", QUEUE, queue) if task is None else ("--name", TASK, task)
    if not (name or "").strip():
        raise click.UsageError(f"{option} is blank; give '*' to mean each of them", ctx)
    return f"{prefix}{name}"


def _value(ctx: click.Context, text: str, each: bool) -> Value | None:
    rate = None if text == "default" else rate_of(ctx, text)
    return None if rate is None else RateLimit(rate, each).value()


def _words(value: Value | None) -> str:
    return str(RateLimit.of_value(value)) if isinstance(value, Mapping) else "no limit"


def _limits(reply: Any) -> Mapping[str, Any]:
    found: Mapping[str, object] = reply.payload.get("settings", {}).get(Kind.RATE_LIMIT.value, {})
    return found


def text(report: DirectiveReport, color: bool) -> str:
    rows: list[Sequence[object]] = []
    for reply in report.replies:
        for subject, one in sorted(_limits(reply).items()):
            value = one["value"]
            share = None if value["share_per_s"] is None else f"{value['share_per_s']:g}/s"
            rows.append((reply.worker, spoken(subject), value["rate"], share, value["workers"], value["held"]))
    return table(("WORKER", "LIMIT OF", "RATE", "SHARE", "SHARED BY", "HELD"), rows, color=color)


def _line(one: Directive) -> str:
    what = f"{spoken(one.subject)} on workers {one.workers}"
    if one.cleared:
        return f"cleared: rate limit of {what}, version {one.version}"
    return f"limited: {what} to {_words(one.value)}, version {one.version}, {until(one)}"
