"""``stem worker ping``."""

from __future__ import annotations

import click

from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import Report
from stem_kombu_cli.commands.asking import ask
from stem_kombu_cli.options import control_options
from stem_kombu_cli.plain_celery import celery_option
from stem_kombu_cli.render import span, table
from stem_kombu_cli.slots import COLUMNS, slot_cells


@click.command(epilog="Example:  stem worker ping --worker worker-a --worker 'render-*'")
@celery_option
@control_options
@click.pass_context
def ping(ctx: click.Context, /, **values: object) -> None:
    """Broadcast a ping and aggregate the answers."""
    ask(ctx, values, ControlClient.ping, text, lists_celery=True)


def text(report: Report, color: bool) -> str:
    rows = []
    for reply in report.replies:
        facts = reply.payload
        rows.append(
            (
                reply.worker,
                reply.status,
                facts.get("state"),
                span(reply.rtt),
                facts.get("in_flight"),
                *slot_cells(facts.get("slots"), facts.get("concurrency")),
                span(facts.get("uptime_s")),
                ",".join(facts.get("queues", ())),
            )
        )
    return table(("WORKER", "STATUS", "STATE", "RTT", "IN FLIGHT", *COLUMNS, "UPTIME", "QUEUES"), rows, color=color)
