"""``stem worker call``: control commands of the application."""

from __future__ import annotations

import json
from typing import Any

import click

from stem_kombu.control.client.reports import Report
from stem_kombu.control.protocol.codec import BUILT_IN
from stem_kombu_cli.commands.asking import ask
from stem_kombu_cli.options import control_options
from stem_kombu_cli.render import table


@click.command(epilog="""Example:  stem worker call reload-model --args '{"version": 3}'""")
@click.argument("name")
@click.option("--args", "arguments", metavar="JSON", default="{}", help="The command's arguments, a JSON object.")
@control_options
@click.pass_context
def call(ctx: click.Context, /, name: str, arguments: str, **values: Any) -> None:
    """Call a control command that the application registered with @app.control_command."""
    try:
        decoded = json.loads(arguments)
    except ValueError as error:
        raise click.UsageError(f"--args: {arguments!r} is no JSON: {error}", ctx) from None
    if not isinstance(decoded, dict):
        raise click.UsageError(f"--args: {arguments!r} is no JSON object", ctx)
    if name in BUILT_IN:
        raise click.UsageError(f"{name!r} is a command of its own: stem worker {name}", ctx)
    ask(ctx, values, lambda client, workers: client.call(name, decoded, workers=workers), text)


def text(report: Report, color: bool) -> str:
    rows = [(reply.worker, reply.status, json.dumps(dict(reply.payload))) for reply in report.replies]
    return table(("WORKER", "STATUS", "PAYLOAD"), rows, color=color)
