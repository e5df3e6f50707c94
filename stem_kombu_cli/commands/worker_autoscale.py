"""``stem worker autoscale``."""

from __future__ import annotations

import click

from stem_kombu.autoscale import Autoscale
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient
from stem_kombu.errors import ConfigurationError
from stem_kombu_cli import children, directing
from stem_kombu_cli.changing import change_of, changing_options, confirm, reason_of
from stem_kombu_cli.directing import author_of, warn_of_generated
from stem_kombu_cli.ending import ending_of, ending_options
from stem_kombu_cli.options import DURATION, control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import span, use_color


@click.command(
    epilog="Examples:  stem worker autoscale 1,8 --for 2h\n\n           stem worker autoscale -w mail-1 off",
)
@click.argument("children_range", metavar="MIN,MAX|off")
@click.option(
    "--backlog-per-child",
    metavar="N",
    type=int,
    default=1,
    show_default=True,
    help="More children when this many messages wait for each one.",
)
@click.option(
    "--up-after", metavar="DURATION", type=DURATION, default="5s", show_default=True, help="And do so for this long."
)
@click.option(
    "--down-after",
    metavar="DURATION",
    type=DURATION,
    default="30s",
    show_default=True,
    help="Fewer children when fewer would do for this long.",
)
@ending_options()
@changing_options
@control_options
@click.pass_context
def autoscale(
    ctx: click.Context,
    /,
    children_range: str,
    backlog_per_child: int,
    up_after: float,
    down_after: float,
    **values: object,
) -> None:
    """Have each worker run MIN to MAX isolate children, by the work that waits; without --worker it asks first.

    Each worker looks every 2 s. The messages that wait in a queue are shared equally by the live workers that consume it; where
    the broker can't count them, a worker starts a child when all are busy. Excess children end after their task: no task is
    stopped or delayed. `autoscale` replaces `scale`, and the reverse. `off` restores the number that each worker
    was started with. --max-concurrency of `worker start` limits MAX.

    Exit code 4: `off`, and no autoscale is in force there.
    """
    as_json, targets = wants_json(values), targets_of(values)
    ending = ending_of(values, SYSTEM.utcnow())
    change = change_of(values, as_json=as_json)
    wanted = _parsed(ctx, children_range, backlog_per_child, up_after, down_after)
    places = places_of(values)
    settings = places.settings()
    author = author_of(change, reason_of(change, settings))
    warn_of_generated(targets)
    on = targets or ["*"]
    said = f"{_words(wanted)} on workers {', '.join(on)}"
    if change.dry_run:
        stores = [{"workers": one, "value": None if wanted is None else wanted.value()} for one in on]
        said = f"would set isolate children: {said}"
        directing.show_plan(ctx, "autoscale", settings.namespace, stores, said, as_json=as_json)
    if targets is None:
        confirm(change, f"this sets the isolate children of every worker of namespace {settings.namespace!r}: {said}")
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        report = DirectiveClient(client).autoscale(
            wanted, workers=targets, ending=ending, author=author, timeout=places.timeout
        )
        hint = (
            "`stem directives list --kind concurrency` shows those in force; `stem worker scale default` ends a scale"
        )
        nothing = "no autoscale is in force there"
        directing.conclude(client, report, change, targets, places.timeout, nothing=nothing, hint=hint)
    children.show(report, author, as_json=as_json, color=use_color(ctx.obj.color))
    ctx.exit(directing.exit_code(report))


def _parsed(ctx: click.Context, text: str, backlog: int, up_after: float, down_after: float) -> Autoscale | None:
    """What is asked for, ``None`` for ``off``. Raises ``click.UsageError`` for what is no range."""
    try:
        if text == "off":
            return None
        return Autoscale.parse(text, backlog=backlog, up_after=up_after, down_after=down_after)
    except ConfigurationError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise click.UsageError(f"{error}{hint}", ctx) from None


def _words(wanted: Autoscale | None) -> str:
    if wanted is None:
        return "no autoscale"
    more = f"more above {wanted.backlog} waiting a child for {span(wanted.up_after)}"
    return f"{wanted} by the work that waits ({more}, fewer after {span(wanted.down_after)})"
