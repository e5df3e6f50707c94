"""``stem task list``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import click

from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.tasks import MOST_FOUND, FoundTasks, TaskClient
from stem_kombu.outcome import TaskState
from stem_kombu.task_filter import TaskFilter, last_seen
from stem_kombu_cli import completion, exit_codes
from stem_kombu_cli.options import DURATION, TEXT, output_options, place_options, places_of, timeout_option, wants_json
from stem_kombu_cli.render import counted, emit, note, print_json, span, table, use_color
from stem_kombu_cli.watching import repeated, watch_option


@click.command("list", epilog="Example:  stem task list --state failed --name 'mail.*' --since 1h")
@click.option(
    "--state", "states", type=click.Choice([state.value for state in TaskState]), multiple=True, help="Repeat it for several."
)  # fmt: skip
@click.option("--name", type=TEXT, metavar="GLOB", help="Names of tasks.", shell_complete=completion.task_names)
@click.option("-q", "--queue", type=TEXT, metavar="GLOB", help="Queues.", shell_complete=completion.queues)
@click.option("-w", "--worker", type=TEXT, metavar="GLOB", help="The worker that had it last.")
@click.option("--since", type=DURATION, help="Only tasks that ended, started or were sent within this long.")
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_FOUND),
    default=50,
    show_default=True,
    help="At most this many, the newest first.",
)
@watch_option
@timeout_option
@place_options
@output_options
@click.pass_context
def list_tasks(
    ctx: click.Context,
    /,
    states: Sequence[str],
    name: str | None,
    queue: str | None,
    worker: str | None,
    since: float | None,
    limit: int,
    watch: float | None,
    **values: object,
) -> None:
    """List recorded tasks, the newest first; all conditions have to hold.

    The result backend is looked through for at most --timeout. Where that was too short, a note says so. Exit code 4: no task
    matches.
    """
    as_json = wants_json(values)
    found = None
    with TaskClient(places_of(values).settings()) as client:

        def look() -> FoundTasks:
            return client.find(_filter(states, name, queue, worker, since), limit=limit)

        for found in repeated(watch, look, as_json=as_json):
            _show(found, limit, as_json=as_json, color=use_color(ctx.obj.color))
    ctx.exit(exit_codes.OK if found is not None and found.tasks else exit_codes.NOTHING_MATCHED)


def _filter(
    states: Sequence[str], name: str | None, queue: str | None, worker: str | None, since: float | None
) -> TaskFilter:
    earliest = None if since is None else SYSTEM.utcnow() - timedelta(seconds=since)
    return TaskFilter(frozenset(map(TaskState, states)), name, queue, worker, earliest)


def _show(found: FoundTasks, limit: int, *, as_json: bool, color: bool) -> None:
    if as_json:
        print_json(found.to_dict())
    elif found.tasks:
        emit(text(found, color), color=color)
    if not found.complete:
        note(f"note: the time was over after {counted(found.looked_at, 'record')}; raise --timeout, or name a --state")
    if not found.tasks:
        note("no recorded task matches")
    elif found.matched > limit:
        note(f"{limit:,} of {counted(found.matched, 'task')}; raise --limit to see more")


def text(found: FoundTasks, color: bool) -> str:
    now = SYSTEM.utcnow()
    rows = [
        (
            record.task_id,
            record.name,
            record.state.value,
            record.attempt,
            record.queue,
            record.worker,
            None if (at := last_seen(record)) is None else span(max(0.0, (now - at).total_seconds())),
            None if record.error is None else f"{record.error.type}: {record.error.message}",
        )
        for record in found.tasks
    ]
    headers = ("TASK", "NAME", "STATE", "ATTEMPT", "QUEUE", "WORKER", "AGO", "ERROR")
    return table(headers, rows, color=color, shrink=len(headers) - 1)
