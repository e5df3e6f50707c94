"""``stem worker inspect``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

import click

from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import Report
from stem_kombu_cli.commands.asking import ask
from stem_kombu_cli.directing import limit_in_words
from stem_kombu_cli.options import control_options
from stem_kombu_cli.plain_celery import celery_option
from stem_kombu_cli.render import percent, span, table
from stem_kombu_cli.task_filter import filter_of, filter_options
from stem_kombu_cli.watching import watch_option

#: Headers of what ``-o wide`` shows as well.
_MORE = ("STARTED", "PID", "LOST WORKERS", "PROGRESS DATA")


@click.command(epilog="Example:  stem worker inspect --worker worker-a --revoked --limit 20")
@click.option("--revoked", is_flag=True, help="The revocations that each worker holds as well, newest first.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000_000), default=1000, show_default=True, help="At most this many of them."
)
@filter_options
@watch_option
@celery_option
@control_options
@click.pass_context
def inspect(ctx: click.Context, /, revoked: bool, limit: int, watch: float | None, **values: object) -> None:
    """List in-flight tasks, and on request the revoke cache, per worker.

    --name, --queue, --longer-than and --stopping choose among the tasks; all conditions have to hold.

    CHECKPOINT is how long ago a task last reported at a checkpoint; STOP REQUESTED is how long ago a terminate reached it. With
    -o wide no column is cut to the terminal, and STARTED, PID, LOST WORKERS and PROGRESS DATA are shown as well.
    """
    wanted, is_wide = filter_of(values), values["output"] == "wide"

    def asked(client: ControlClient, workers: list[str] | None) -> Report:
        return wanted.applied(client.inspect(revoked=revoked, limit=limit, workers=workers))

    ask(
        ctx,
        values,
        asked,
        partial(text, revoked=revoked, wide=is_wide),
        lists_celery=True,
        watch=watch,
    )


def text(report: Report, color: bool, revoked: bool = False, wide: bool = False) -> str:
    parts = [_tasks(report, color, wide)]
    rows = [
        (
            reply.worker,
            len(reply.payload.get("in_flight", ())),
            reply.payload.get("reserved"),
            reply.payload.get("revoked_count"),
            reply.payload.get("revision"),
            span(reply.payload.get("synced_s_ago")),
            reply.payload.get("store_error"),
        )
        for reply in report.replies
    ]
    parts.append(
        table(
            ("WORKER", "IN FLIGHT", "RESERVED", "REVOKED", "REVISION", "SYNCED AGO", "STORE ERROR"), rows, color=color
        )
    )
    if waiting := _waiting(report, color):
        parts.insert(1, waiting)
    parts += _notes(report)
    if revoked:
        parts.append(_revocations(report, color))
    return "\n\n".join(parts)


def _notes(report: Report) -> list[str]:
    """The rate limits that count, and what is wrong with the store, as workers see it: a line each."""
    found = []
    for reply in report.replies:
        if count := reply.payload.get("set_aside_count"):
            places = [one["place"] for one in reply.payload["set_aside"]]
            more = ", …" if count > len(places) else ""
            found.append(
                f"{reply.worker}: {count} records of the revoke store can't be read and are set aside: "
                f"{', '.join(places)}{more} (see: stem store check)"
            )
        for one in reply.payload.get("settings", {}).get("rate-limit", {}).items():
            found.append(f"{reply.worker}: limited: {limit_in_words(*one)}")
        if (lost := reply.payload.get("store_set_back")) is not None:
            found.append(
                f"{reply.worker}: the revoke store was set back; at {lost['at']} this worker put back {lost['put_back']} "
                f"revocations that it had lost: {', '.join(lost['task_ids'])}"
            )
        ahead = reply.payload.get("store_clock_ahead_s")
        if ahead is not None and abs(ahead) > 60:
            found.append(f"{reply.worker}: the revoke store's clock is {ahead:.0f} s ahead of this worker's")
    return ["\n".join(found)] if found else []


def _tasks(report: Report, color: bool, wide: bool) -> str:
    rows = [
        (
            reply.worker,
            task["id"],
            task["name"],
            task["queue"],
            task["mode"],
            task["attempt"],
            span(task["runtime_s"]),
            percent(task["progress"]),
            span(task["checkpoint_s_ago"]),
            span(task["terminate_requested_s_ago"]),
            *(_more_of(task) if wide else ()),
            task["args"],
        )
        for reply in report.replies
        for task in reply.payload.get("in_flight", ())
    ]
    headers = (
        "WORKER", "TASK", "NAME", "QUEUE", "MODE", "ATTEMPT", "RUNTIME", "PROGRESS", "CHECKPOINT", "STOP REQUESTED",
        *(_MORE if wide else ()), "ARGS",
    )  # fmt: skip
    shrink = None if wide else len(headers) - 1
    return table(headers, rows, color=color, shrink=shrink) if rows else "nothing is in flight"


def _more_of(task: Mapping[str, object]) -> tuple[object, ...]:
    """What ``-o wide`` shows as well; a worker of an earlier version tells less."""
    data = task.get("progress_data")
    return task["started_at"], task.get("pid"), task.get("lost_workers"), None if data is None else json.dumps(data)


def _waiting(report: Report, color: bool) -> str:
    """Tasks that have ended and whose outcome can't be carried out yet; empty where there are none."""
    rows = [
        (
            reply.worker,
            outcome["id"],
            outcome["name"],
            outcome["queue"],
            outcome["attempt"],
            outcome["step"],
            span(outcome["waited_s"]),
            outcome["tries"],
            outcome["error"],
        )
        for reply in report.replies
        for outcome in reply.payload.get("waiting", ())
    ]
    headers = ("WORKER", "ENDED TASK", "NAME", "QUEUE", "ATTEMPT", "CAN'T", "FOR", "TRIES", "ERROR")
    return table(headers, rows, color=color, shrink=len(headers) - 1) if rows else ""


def _revocations(report: Report, color: bool) -> str:
    rows = [
        (
            reply.worker,
            record["task_id"],
            record["version"],
            record["terminate"],
            record["issued_at"],
            record["expires_at"],
            record["requested_by"],
            record["reason"],
        )
        for reply in report.replies
        for record in reply.payload.get("revoked", ())
    ]
    headers = ("WORKER", "TASK", "VERSION", "TERMINATE", "ISSUED", "EXPIRES", "BY", "REASON")
    cut = any(reply.payload.get("revoked_truncated") for reply in report.replies)
    return table(headers, rows, color=color, shrink=7) + ("\n… there are more; raise --limit" if cut else "")
