"""``stem metrics``: the fleet for Prometheus, once or over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import click

from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.protocol.messages import Stats
from stem_kombu.errors import StemError
from stem_kombu_cli import exit_codes
from stem_kombu_cli.commands.asking import tell
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.http_server import Answer, HttpServer, checked_address
from stem_kombu_cli.metrics_page import HINT, WITHOUT_EXTRA
from stem_kombu_cli.options import place_options, places_of, targets_of, timeout_option, worker_option
from stem_kombu_cli.render import emit, note

if TYPE_CHECKING:
    from stem_kombu.control.client.reports import Report
    from stem_kombu.metrics import Payloads


@click.command(epilog="Example:  stem metrics --listen 127.0.0.1:9808")
@click.option("--listen", metavar="HOST:PORT", help="Answer /metrics over HTTP there, until Ctrl-C.")
@click.option("--public", is_flag=True, help="--listen may be reached from other machines.")
@place_options
@worker_option
@timeout_option
@click.pass_context
def metrics(ctx: click.Context, /, listen: str | None, public: bool, **values: object) -> None:
    """Print metrics of all live workers, Celery's with Stem included, in Prometheus' text format.

    Each series names its worker. Each scrape asks the workers, so the next one no longer shows a worker that has ended.
    """
    try:
        from stem_kombu.metrics import StatsCollector, exposition
    except ImportError as error:
        raise Failure(WITHOUT_EXTRA, exit_codes.USAGE, hint=HINT) from error
    targets = targets_of(values)
    address = None if listen is None else checked_address(listen, public=public, option="-")
    with ControlClient(places_of(values).settings()) as client:
        if address is None:
            report = client.ask(Stats(measures=True), targets)
            _, body = exposition(StatsCollector(partial(_payloads, report), labelled=True))
            if report.replies or report.silent:
                emit(body.decode().rstrip("\n"))
            tell(report)
            ctx.exit(exit_codes.of_report(report))
        turn = threading.Lock()  # a client asks one question at a time

        def answer(accept: str) -> Answer:
            try:
                with turn:
                    found = _payloads(client.ask(Stats(measures=True), targets))
            except StemError as error:
                return 503, "text/plain; charset=utf-8", f"{error}\n".encode()
            return 200, *exposition(StatsCollector(lambda: found, labelled=True), accept)

        with HttpServer(address, {"/metrics": answer}, option="--listen") as server:
            note(f"metrics of the fleet: http://{address[0]}:{server.port}/metrics")
            threading.Event().wait()


def _payloads(report: Report) -> Payloads:
    """What each worker answered; nothing of those that were expected and did not."""
    found: dict[str | None, Mapping[str, object]] = {worker: {} for worker in report.silent}
    return found | {reply.worker: reply.payload for reply in report.replies}
