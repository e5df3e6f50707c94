"""``stem worker status``: heartbeats, as a snapshot or as a stream."""

from __future__ import annotations

import math
from typing import NoReturn

import click

from stem_kombu import timeouts
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.heartbeat_stream import HeartbeatStream
from stem_kombu.control.client.reports import SCHEMA, StatusReport, WorkerStatus
from stem_kombu.control.protocol.messages import matches
from stem_kombu.errors import BrokerUnavailable
from stem_kombu.settings import Settings
from stem_kombu.transports.connections import backoff
from stem_kombu_cli import exit_codes, plain_celery, render
from stem_kombu_cli.directing import show_pauses
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import (
    DURATION,
    output_options,
    place_options,
    places_of,
    targets_of,
    wants_json,
    worker_option,
)
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import emit, note, print_json, shown, size, span, table, use_color
from stem_kombu_cli.slots import COLUMNS, slot_cells, used_slots
from stem_kombu_cli.watching import repeated, watch_option


@click.command(epilog="Example:  stem worker status --follow --json")
@click.option("--once", is_flag=True, help="A snapshot; this is the default.")
@click.option("-f", "--follow", is_flag=True, help="One line a heartbeat, until Ctrl-C.")
@click.option(
    "--timeout",
    type=DURATION,
    help="One deadline for the snapshot (default: 5s); with --follow: end with 1 after this long without a heartbeat "
    "(default: never).  [env, for a snapshot: STEM_CONTROL_TIMEOUT]",
)
@watch_option
@plain_celery.celery_option
@place_options
@worker_option
@output_options
@click.pass_context
def status(
    ctx: click.Context,
    /,
    once: bool,
    follow: bool,
    timeout: float | None,
    watch: float | None,
    celery: bool | None,
    **values: object,
) -> None:
    """Worker heartbeats: who is live, draining, stale or dead.

    Without a backend the command listens for the heartbeats of one interval.
    """
    if once + follow + (watch is not None) > 1:
        raise click.UsageError("--once, --follow and --watch exclude each other", ctx)
    as_json, targets = wants_json(values), targets_of(values)
    settings = places_of({**values, "timeout": None if follow else timeout}).settings()
    with ControlClient(settings) as client, Progress() as progress:
        if follow:
            _follow(client, targets, timeout, as_json)

        def look() -> StatusReport:
            if settings.backend is None:
                return _listened(client, targets, settings, timeout, progress)
            return client.status(workers=targets)

        code = exit_codes.OK
        for report in repeated(watch, look, as_json=as_json):
            known = {worker.heartbeat.worker for worker in report.workers}
            plain = plain_celery.found(celery, settings, known, targets)
            color = use_color(ctx.obj.color)
            if as_json:
                print_json({**report.to_dict(), **plain_celery.fields(plain)})
            else:
                if report.workers:
                    emit(text(report, color), color=color)
                plain_celery.show(plain, color)
            plain_celery.tell(plain)
            _tell(report, targets)
            show_pauses(settings, and_autoscale=True)
            unmatched = targets and not report.workers and not plain
            code = exit_codes.NOTHING_MATCHED if unmatched else exit_codes.OK
    ctx.exit(code)


def _tell(report: StatusReport, targets: list[str] | None) -> None:
    for worker in report.workers:
        if (other := worker.heartbeat.conflict) is not None:
            note(f"error: two live workers have the id {worker.heartbeat.worker}: {other}")
    if report.untrusted:
        counted = ", ".join(f"{count} {reason}" for reason, count in sorted(report.untrusted.items()))
        note(f"note: unverified heartbeats ignored: {counted}")
    if not report.workers:
        note(f"no worker{' of that name' if targets else ''} in namespace {report.namespace!r}")


def text(report: StatusReport, color: bool) -> str:
    rows: list[tuple[object, ...]] = []
    for worker in report.workers:
        beat = worker.heartbeat
        rows.append(
            (
                beat.worker,
                worker.liveness.value if beat.conflict is None else "conflict",
                span(worker.age),
                beat.hostname,
                beat.pid,
                beat.in_flight,
                *slot_cells(beat.slots, beat.concurrency),
                size(beat.rss_bytes),
                None if beat.load_avg is None else round(beat.load_avg, 2),
                ",".join(beat.queues),
            )
        )
    headers = ["WORKER", "STATE", "AGE", "HOST", "PID", "IN FLIGHT", *COLUMNS, "RSS", "LOAD", "QUEUES"]
    if any(worker.heartbeat.paused for worker in report.workers):
        headers.append("PAUSED")
        rows = [(*row, ",".join(each.heartbeat.paused)) for row, each in zip(rows, report.workers, strict=True)]
    return table(headers, rows, color=color)


def _listened(
    client: ControlClient, targets: list[str] | None, settings: Settings, timeout: float | None, progress: Progress
) -> StatusReport:
    window = min(settings.heartbeat_interval * 1.1, settings.control_timeout if timeout is not None else math.inf)
    note(f"note: there is no backend to read heartbeats from; listening for {span(window)}")
    stream = client.heartbeats()
    beats: dict[str, Heartbeat] = {}
    deadline = SYSTEM.monotonic() + window
    try:
        while (left := deadline - SYSTEM.monotonic()) > 0:
            progress.heartbeats(len(beats), left)
            beat = stream.next(min(left, 0.2))
            if beat is not None and matches(targets, beat.worker):
                beats[beat.worker] = beat
    finally:
        stream.close()
    now = SYSTEM.utcnow()
    found = tuple(WorkerStatus.at(beats[worker], beats[worker].timestamp or now) for worker in sorted(beats))
    return StatusReport(settings.namespace, found, listened=window)


class _Beats:
    """Heartbeats over as many connections as it takes: a user who follows a fleet follows it through the broker's restart.

    Raises :class:`BrokerUnavailable` only when there is no first connection.
    """

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self._stream: HeartbeatStream | None = client.heartbeats()

    def next(self, timeout: float | None) -> Heartbeat | None:
        """The next beat, ``None`` when none came within ``timeout`` seconds, connected or not."""
        deadline = math.inf if timeout is None else SYSTEM.monotonic() + timeout
        attempt = 0
        while (left := deadline - SYSTEM.monotonic()) > 0:
            try:
                if self._stream is None:
                    self._stream = self._client.heartbeats(timeout=min(left, timeouts.CLI_RECONNECT))
                    note("note: the broker is back")
                return self._stream.next(None if timeout is None else left)
            except BrokerUnavailable as error:
                if self._stream is not None:
                    note(f"note: {error}; trying again")
                self.close()
                attempt += 1
                SYSTEM.sleep(min(backoff(attempt), max(left, 0.0)))
        return None

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _follow(client: ControlClient, targets: list[str] | None, timeout: float | None, as_json: bool) -> NoReturn:
    """Print each beat until Ctrl-C; raises :class:`Failure` when none came within ``timeout`` seconds."""
    render.streams = True
    stream = _Beats(client)
    try:
        while True:
            beat = _next_of(stream, targets, timeout)
            if beat is None:
                raise Failure(f"no heartbeat within {span(timeout)}", exit_codes.NO)
            # A beat is as old as the line that shows it.
            status = WorkerStatus.at(beat, beat.timestamp or SYSTEM.utcnow())
            if as_json:
                print_json({"schema": SCHEMA, "namespace": beat.namespace, **status.to_dict()})
            else:
                totals = beat.totals
                emit(
                    f"{status.to_dict()['timestamp']}  {shown(beat.worker)}  {status.liveness.value}  "
                    f"{_slots(beat)}  {totals.get('succeeded', 0)} succeeded  "
                    f"{totals.get('failed', 0)} failed  {totals.get('cancelled', 0)} cancelled  {size(beat.rss_bytes)}"
                )
    finally:
        stream.close()


def _slots(beat: Heartbeat) -> str:
    return "  ".join(used_slots(beat.slots)) or f"{beat.in_flight} in flight"


def _next_of(stream: _Beats, targets: list[str] | None, timeout: float | None) -> Heartbeat | None:
    deadline = None if timeout is None else SYSTEM.monotonic() + timeout
    while True:
        beat: Heartbeat | None = stream.next(None if deadline is None else deadline - SYSTEM.monotonic())
        if beat is None or matches(targets, beat.worker):
            return beat
