"""``stem task retry``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import click

from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.retries import SCHEMA, RetriedTask, RetryClient, RetryVerdict
from stem_kombu.task_filter import TaskFilter
from stem_kombu_cli import completion, exit_codes
from stem_kombu_cli.changing import NOT_AUDITED, change_of, changing_options, confirm, reason_of
from stem_kombu_cli.commands.worker_revoke import task_ids
from stem_kombu_cli.options import DURATION, TEXT, Duration, output_options, place_options, places_of, wants_json
from stem_kombu_cli.render import emit, note, print_json, shown

#: Lines of one kind that are printed; the rest is a count.
_MOST_LINES = 20


@click.command(epilog="Examples:  stem task retry 7c9e6679-7425-40de-944b-e07fc1f90ae7\n\n"
    "\b\n           stem task retry --name 'mail.*' --since 1h --dry-run")  # fmt: skip
@click.argument("tasks", type=TEXT, metavar="[ID]...", nargs=-1)
@click.option(
    "--name",
    type=TEXT,
    metavar="GLOB",
    help="Instead of ids: failed tasks of these names.",
    shell_complete=completion.task_names,
)
@click.option(
    "-q",
    "from_queue",
    type=TEXT,
    metavar="GLOB",
    help="Instead of ids: those that came from these queues.",
    shell_complete=completion.queues,
)
@click.option("-w", "--worker", type=TEXT, metavar="GLOB", help="Instead of ids: those that failed at these workers.")
@click.option("--since", type=DURATION, help="Instead of ids: those that failed within this long.")
@click.option(
    "--queue",
    metavar="Q",
    help="Send them to this queue (default: where each came from).",
    shell_complete=completion.queues,
)
@click.option("--delay", type=Duration(allow_zero=True), help="Start them no sooner than this from now.")
@partial(changing_options, wait=None)
@place_options
@output_options
@click.pass_context
def retry(
    ctx: click.Context,
    /,
    tasks: Sequence[str],
    name: str | None,
    from_queue: str | None,
    worker: str | None,
    since: float | None,
    queue: str | None,
    delay: float | None,
    **values: object,
) -> None:
    """Have failed tasks run again, each as a task with a new id.

    Workers keep the messages of failed tasks (STEM_KEEP_FAILED). A task that was retried before, or is revoked, is not sent. ID
    may be - to read ids from stdin. Exit codes beside the usual ones: 3 when only some were sent, 4 when none could be, 5 when
    one is revoked or its message has no valid signature.
    """
    as_json = wants_json(values)
    change = change_of(values, as_json=as_json)
    earliest = None if since is None else SYSTEM.utcnow() - timedelta(seconds=since)
    wanted = TaskFilter(name=name, queue=from_queue, worker=worker, since=earliest)
    if bool(tasks) == (wanted != TaskFilter()):
        raise click.UsageError("name the tasks by ID, or select them with --name, -q, -w or --since", ctx)
    settings = places_of(values).settings()
    reason = reason_of(change, settings)
    with RetryClient(settings) as client:
        ids = task_ids(tasks, sys.stdin.buffer) if tasks else list(client.select(wanted))
        if not tasks and ids:
            confirm(change, f"this sends {len(ids)} failed tasks again", count=len(ids))
        found = client.retry(
            ids, queue=queue, delay=delay, dry_run=change.dry_run, reason=reason, requested_by=change.requester
        )
        audited = client.is_audited
    if as_json:
        document = {"schema": SCHEMA, "dry_run": change.dry_run, "reason": reason, "audited": audited}
        print_json({**document, "tasks": [one.to_dict() for one in found]})
    else:
        _show(found)
    if not found:
        note("no failed task whose message is kept matches")
    if not audited:
        note(NOT_AUDITED)
    code = exit_code(found)
    ctx.exit(code if audited or code != exit_codes.OK else exit_codes.PARTIAL)


def exit_code(found: Sequence[RetriedTask]) -> int:
    verdicts = {one.verdict for one in found}
    if verdicts & {RetryVerdict.REVOKED, RetryVerdict.UNTRUSTED}:
        return exit_codes.REFUSED
    good = verdicts & {RetryVerdict.SENT, RetryVerdict.READY}
    if not good:
        return exit_codes.NOTHING_MATCHED
    return exit_codes.OK if verdicts == good else exit_codes.PARTIAL


def _show(found: Sequence[RetriedTask]) -> None:
    kinds: dict[RetryVerdict, list[str]] = {}
    for one in found:
        kinds.setdefault(one.verdict, []).append(_line(one))
    for verdict, lines in kinds.items():
        for line in lines[:_MOST_LINES]:
            emit(shown(line))
        if len(lines) > _MOST_LINES:
            emit(f"{verdict.value.replace('-', ' ')}: and {len(lines) - _MOST_LINES} more")


def _line(one: RetriedTask) -> str:
    said = f"{one.verdict.value.replace('-', ' ')}: {one.task_id}"
    if one.new_id is not None:
        said += f" as {one.new_id}"
    if one.queue is not None:
        said += f", {one.name}, queue {one.queue}"
    return said if one.detail is None else f"{said} ({one.detail})"
