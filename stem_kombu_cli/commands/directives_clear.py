"""``stem directives clear``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import click

from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient
from stem_kombu.directive import Directive, Kind
from stem_kombu_cli import directing, exit_codes
from stem_kombu_cli.changing import change_of, changing_options, confirm, reason_of
from stem_kombu_cli.directing import author_of, await_applied, subject_of
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import output_options, place_options, places_of, timeout_option, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import emit, print_json
from stem_kombu_cli.time_left import TimeLeft


@click.command(epilog="Example:  stem directives clear --kind pause")
@click.argument("versions", metavar="[VERSION]...", type=click.IntRange(1), nargs=-1)
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Every directive of this kind.")
@click.option("--all", "everything", is_flag=True, help="Every directive.")
@changing_options
@place_options
@timeout_option
@output_options
@click.pass_context
def clear(
    ctx: click.Context, /, versions: Collection[int], kind: str | None, everything: bool, **values: object
) -> None:
    """End directives: those of these VERSIONs, of a kind, or all. Workers return to their own values; asks first.

    Exit code 4: none of them is in force.
    """
    if sum((bool(versions), kind is not None, everything)) != 1:
        raise click.UsageError("give VERSIONs, --kind or --all", ctx)
    as_json = wants_json(values)
    change = change_of(values, as_json=as_json)
    places = places_of(values)
    settings = places.settings()
    author = author_of(change, reason_of(change, settings))
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        directives = DirectiveClient(client)
        left = TimeLeft(settings.control_timeout)
        held, now = directives.held(left())
        live = {one.version for one in held if one.is_live(now)}
        wanted = {one.version for one in held if everything or one.kind.value == kind or one.version in versions} & live
        found = [one for one in held if one.version in wanted]
        missing = sorted(set(versions) - live)
        if missing or not found:
            named = f"no live directive has version {missing[0]}" if missing else "no such directive is in force"
            hint = "`stem directives list` shows the directives in force"
            raise Failure(f"{named}; nothing was stored", exit_codes.NOTHING_MATCHED, hint=hint)
        if change.dry_run:
            if as_json:
                document = {"stores": [], "clears": [one.to_record() for one in found]}
                print_json(directing.plan_document("clear", settings.namespace, document))
            for one in () if as_json else found:
                emit(f"would clear: {_words(one)}")
            ctx.exit(exit_codes.OK)
        if confirm(change, f"this ends {', '.join(map(_words, found))}"):
            left.renew()
        report = directives.clear(lambda one: one.version in wanted, author=author, timeout=left())
        report = replace(report, timeout=left.seconds)
        if change.wait and report.broadcast:
            await_applied(client, report, None, places.timeout)
    lines = (f"cleared: {_words(one)}" for one in report.stored)
    directing.show(report, author, as_json=as_json, color=False, answers="", lines=lines)
    ctx.exit(directing.exit_code(report))


def _words(one: Directive) -> str:
    return f"{one.kind.value} of {subject_of(one)} on workers {one.workers} (version {one.version})"
