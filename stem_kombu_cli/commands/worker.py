"""``stem worker``: the group."""

from __future__ import annotations

import click

from stem_kombu_cli.main import LazyGroup

_HERE = "stem_kombu_cli.commands"


@click.group(
    cls=LazyGroup,
    epilog="Example:  stem worker revoke --task 1761057 --terminate --reason INC-42",
    lazy={
        "start": (f"{_HERE}.worker_start:start", "Run a worker."),
        "ping": (f"{_HERE}.worker_ping:ping", "Broadcast a ping and aggregate the answers."),
        "inspect": (f"{_HERE}.worker_inspect:inspect", "In-flight tasks, and on request the revoke cache, per worker."),
        "stats": (f"{_HERE}.worker_stats:stats", "Counters, queue depths, pool and metadata per worker."),
        "revoke": (f"{_HERE}.worker_revoke:revoke", "Persist revocations, then broadcast them."),
        "shutdown": (f"{_HERE}.worker_shutdown:shutdown", "Stop workers: warm, soft or hard; all at once or in turn."),
        "pause": (f"{_HERE}.worker_pause:pause", "Have workers start no task any more."),
        "resume": (f"{_HERE}.worker_resume:resume", "Let paused workers start tasks again."),
        "log-level": (f"{_HERE}.worker_log_level:log_level", "From which level on workers log, for a while."),
        "scale": (f"{_HERE}.worker_scale:scale", "How many isolate children each worker has."),
        "autoscale": (f"{_HERE}.worker_autoscale:autoscale", "Isolate children by the work that waits."),
        "rate-limit": (
            f"{_HERE}.worker_rate_limit:rate_limit",
            "How many tasks of a queue or a name may start in how much time.",
        ),
        "status": (f"{_HERE}.worker_status:status", "Worker heartbeats: a snapshot, or a stream."),
        "healthcheck": (
            f"{_HERE}.worker_healthcheck:healthcheck",
            "Is a worker of this host alive, and does it consume?",
        ),
        "diagnose": (f"{_HERE}.worker_diagnose:diagnose", "Check this host and the workers that run here."),
        "sweep": (f"{_HERE}.worker_sweep:sweep", "Give back what dead workers held, before a fleet leaves Stem."),
        "call": (f"{_HERE}.worker_call:call", "A control command that the application registered."),
    },
)
def worker() -> None:
    """Run, see, stop and steer workers.

    Commands go to every worker of the namespace, or to those named with --worker. They end when all workers that are live by
    their heartbeats have answered, and at --timeout at the latest.
    """
