"""``stem worker call``: control commands of the application."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import click

from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import Report
from stem_kombu.control.protocol.codec import BUILT_IN
from stem_kombu_cli.changing import NOT_AUDITED, change_of, changing_options, reason_of
from stem_kombu_cli.commands.asking import ask
from stem_kombu_cli.options import TEXT, control_options, wants_json
from stem_kombu_cli.render import note, table


@click.command(epilog="""Example:  stem worker call reload-model --args '{"version": 3}'""")
@click.argument("name", type=TEXT)
@click.option("--args", "arguments", metavar="JSON", default="{}", help="The command's arguments, a JSON object.")
@partial(changing_options, wait=None)
@control_options
@click.pass_context
def call(ctx: click.Context, /, name: str, arguments: str, **values: object) -> None:
    """Call a control command that the application registered with @app.control_command.

    The audit has an entry of each call. While the revoke store is down the command is called all the same; then the exit code
    is 3, and JSON says "audited": false.
    """
    change = change_of(values, as_json=wants_json(dict(values)))
    try:
        decoded = json.loads(arguments)
    except ValueError as error:
        raise click.UsageError(f"--args: {arguments!r} is no JSON: {error}", ctx) from None
    if not isinstance(decoded, dict):
        raise click.UsageError(f"--args: {arguments!r} is no JSON object", ctx)
    if name in BUILT_IN:
        raise click.UsageError(f"{name!r} is a command of its own: stem worker {name}", ctx)

    def carry_out(client: ControlClient, workers: list[str] | None) -> Report:
        if change.dry_run:
            return client.ping(workers=workers)
        reason = reason_of(change, client.settings)
        report = client.call(name, decoded, reason=reason, requested_by=change.requester, workers=workers)
        if not report.audited:
            note(NOT_AUDITED)
        return report

    ask(ctx, values, carry_out, _would_call(name) if change.dry_run else text)


def _would_call(name: str) -> Callable[[Report, bool], str]:
    def text(report: Report, color: bool) -> str:
        return "\n".join(f"would call {name} on {reply.worker}" for reply in report.replies)

    return text


def text(report: Report, color: bool) -> str:
    rows = [(reply.worker, reply.status, json.dumps(dict(reply.payload))) for reply in report.replies]
    return table(("WORKER", "STATUS", "PAYLOAD"), rows, color=color)
