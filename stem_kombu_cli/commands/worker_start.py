"""``stem worker start``: run a worker until a signal."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from stem_kombu.environment import environment
from stem_kombu.logs import FORMATS, LogSetup, name_worker, read_config
from stem_kombu.metric_exporters import metric_exporters
from stem_kombu_cli.application import load_app
from stem_kombu_cli.directing import lasted
from stem_kombu_cli.options import DURATION, announce_places, check_tls, place_options, places_of
from stem_kombu_cli.render import ReaderGone, emit
from stem_kombu_cli.service_manager import ServiceManager

if TYPE_CHECKING:
    from stem_kombu.app import Stem
    from stem_kombu.worker.worker import Worker

#: The usual one first.
START_METHODS = ("forkserver", "spawn", "fork")
LEVELS = ("debug", "info", "warning", "error", "critical")


#: How often Python looks for garbage when it is left alone.
_COLLECTED = (700, 10, 10)


@click.command(epilog="Example:  stem worker start -A shop.tasks:app --queues images,mail --concurrency 4")
@click.option(
    "-A", "--app", metavar="MODULE:ATTR", help="The application, or a function that returns it.  [env: STEM_APP]"
)
@click.option("-Q", "--queues", metavar="A,B", help="Queues to consume, used as given.  [env: STEM_WORKER_QUEUES]")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 1024),
    help="Isolate children (default: processors that may be used).",
)
@click.option(
    "--max-concurrency",
    type=click.IntRange(1, 1024),
    help="Isolate children at most, also with `stem worker scale`.",
)
@click.option(
    "--inline-slots",
    type=click.IntRange(1, 10_000),
    help="Inline handlers at once, threads and coroutines (default: 16).  [env: STEM_INLINE_SLOTS]",
)
@click.option("--name", metavar="ID", help="Worker id (default: NAMESPACE@host-PID-nonce).")
@click.option(
    "--prefetch-multiplier",
    type=click.IntRange(1, 10_000),
    help="Messages held per isolate child and per inline slot (default: 1).  [env: STEM_PREFETCH_MULTIPLIER]",
)
@click.option(
    "--max-lost-workers",
    type=click.IntRange(1, 1000),
    help="Give up a task after this many lost workers (default: 3).  [env: STEM_MAX_LOST_WORKERS]",
)
@click.option(
    "--heartbeat-interval", type=DURATION, help="Between heartbeats (default: 10s).  [env: STEM_HEARTBEAT_INTERVAL]"
)
@click.option(
    "-l",
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
    help="What is logged, to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help="How it is logged, by worker and children alike (default: text).  [env: STEM_LOG_FORMAT]",
)
@click.option(
    "--allow-unsynced", is_flag=True, help="Start though the revoke store can't be read: revoked tasks may run."
)
@click.option(
    "--ignore-directives", is_flag=True, help="Obey no pauses and no other directives of the fleet: for repairs."
)
@click.option(
    "--accept-loss",
    is_flag=True,
    default=None,
    help="Consume also where a killed worker loses its messages.  [env: STEM_ACCEPT_LOSS]",
)
@click.option(
    "--health-file",
    metavar="PATH",
    help="File with this worker's health, for probes; off: none.  [env: STEM_HEALTH_FILE]",
)
@click.option("--health-listen", metavar="HOST:PORT", help="Answer /livez, /readyz and /metrics over HTTP there.")
@click.option("--health-public", is_flag=True, help="--health-listen may be reached from other machines.")
@click.option("--max-tasks-per-child", type=click.IntRange(1), help="Replace a child after this many tasks.")
@click.option(
    "--max-rss-per-child",
    type=click.IntRange(1),
    metavar="MB",
    help="Replace a child that is larger than this after a task.",
)
@click.option(
    "--start-method",
    type=click.Choice(START_METHODS),
    default=START_METHODS[0],
    show_default=True,
    help="How children are started.",
)
@click.option(
    "--preload",
    metavar="auto|always|never|MODULE",
    default="auto",
    show_default=True,
    help="What the process that forks children imports before it forks: the application (auto: unless that leaves threads"
    " or sockets there), nothing, or that module.",
)
@place_options
@click.pass_context
def start(
    ctx: click.Context,
    /,
    app: str | None,
    queues: str | None,
    inline_slots: int | None,
    prefetch_multiplier: int | None,
    max_lost_workers: int | None,
    heartbeat_interval: float | None,
    log_level: str,
    log_format: str | None,
    accept_loss: bool | None,
    health_file: str | None,
    health_listen: str | None,
    health_public: bool,
    **values: Any,
) -> None:
    """Run a worker until a stop is requested.

    At the first SIGTERM, SIGHUP or Ctrl-C the worker stops fetching, and running tasks finish; a later one returns running tasks
    to the queue. Signals within one second count as one. SIGUSR1 writes the stacks of all threads to stderr.
    The worker consumes nothing before it has read the revoke store; if it can't within 30 s, the exit code is 74.
    """
    kept = {name: values.pop(name) for name in _OF_THE_WORKER}
    if (largest := kept["max_rss_per_child"]) is not None:
        kept["max_rss_per_child"] = largest * 1_000_000
    places = places_of(values)
    flags = {
        "broker": places.broker,
        "broker_option": places.broker_option or None,
        "backend": places.backend,
        "revoke_store": places.revoke_store,
        "namespace": places.namespace,
        "tls": places.tls,
        "signing": places.signing,
        "queues": queues,
        "inline_slots": inline_slots,
        "prefetch_multiplier": prefetch_multiplier,
        "max_lost_workers": max_lost_workers,
        "heartbeat_interval": heartbeat_interval,
        "log_format": log_format,
        "accept_loss": accept_loss,
        "health_file": health_file,
    }
    target = app or places.settings(announce=False).app
    if not target:
        raise click.UsageError("no application is named: give -A MODULE:ATTR or set STEM_APP", ctx)
    from stem_kombu.execution.child.loading import refuse_green_threads
    from stem_kombu.worker.signals import StopSignals

    # First of all: a container's first process does not receive a signal that it has no handler for.
    with StopSignals() as signals:
        application = signals.loading(partial(load_app, target))
        refuse_green_threads()
        application.reconfigure(**{flag: value for flag, value in flags.items() if value is not None})
        announce_places(application.settings)
        check_tls(application.settings)
        log = set_up_logging(application, log_level)
        # Its own code must be found by child processes as it was found here; importing the worker is slow, so it comes last.
        from stem_kombu.worker.worker import Worker

        worker = Worker(application, log=log, **kept)
        name_worker(worker.identity.worker)
        # From here on garbage is a matter again; what was loaded until now stays, and needs no looking through.
        gc.freeze()
        gc.set_threshold(*_COLLECTED)
        page = worker.agent.health.read
        with (
            health_server(worker, health_listen, public=health_public),
            metric_exporters(worker.view, environment()),
            ServiceManager(environment(), page) as manager,
        ):

            def on_ready(worker: Worker) -> None:
                announce(worker)
                manager.ready(f"{worker.identity.worker} consumes {','.join(worker.queues)}")

            worker.run(on_ready=on_ready, signals=signals)
        ctx.exit(worker.stops.exit_code)


#: Options that are arguments of :class:`~stem_kombu.worker.worker.Worker` by the same name.
_OF_THE_WORKER = (
    "concurrency",
    "max_concurrency",
    "name",
    "allow_unsynced",
    "ignore_directives",
    "max_tasks_per_child",
    "max_rss_per_child",
    "start_method",
    "preload",
)


def set_up_logging(application: Stem, level: str) -> LogSetup:
    """Have this process log as its flags, the settings and the application's hooks say; children log by what is returned."""
    settings = application.settings
    config = None if settings.log_config is None else read_config(settings.log_config)
    log = LogSetup(level.upper(), settings.log_format, config)
    log.apply(application.hooks.setup_logging)
    return log


def health_server(worker: Worker, listen: str | None, *, public: bool) -> AbstractContextManager[object]:
    """What answers probes and gives metrics by HTTP, where that is asked for. Raises :class:`ConfigurationError`."""
    if listen is None:
        return nullcontext()
    from stem_kombu_cli.health_server import HealthServer
    from stem_kombu_cli.http_server import checked_address
    from stem_kombu_cli.metrics_page import metrics_of

    return HealthServer(checked_address(listen, public=public), worker.agent.health.read, metrics_of(worker.view))


def announce(worker: Worker) -> None:
    """The one ready line."""
    line = (
        f"ready: worker {worker.identity.worker}  namespace {worker.identity.namespace}  queues {','.join(worker.queues)}"
        f"  transport {worker.transport} {worker.broker_url}  revoke store {worker.store_url}"
        f"  control {worker.view.facts().control_link}"
        f"  revision {worker.cache.revision}  concurrency {worker.concurrency}  pid {worker.identity.pid}{_paused(worker)}"
    )
    try:
        emit(line)
    except ReaderGone:
        pass  # the process that started it doesn't care; its tasks do


def _paused(worker: Worker) -> str:
    """The queues that are paused from the start, each since when and by whom."""
    active = worker.directives.active
    now = active.now()
    said = [
        f"{queue} ({lasted(one, now)}, by {one.requested_by or '-'})" for queue, one in sorted(active.paused.items())
    ]
    return f"  paused {', '.join(said)}" if said else "  directives ignored" if active.ignores else ""
