"""``stem worker revoke``: durable, then visible."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import BinaryIO

import click

from stem_kombu import timeouts
from stem_kombu.backends.registry import open_backend
from stem_kombu.bound import Bound
from stem_kombu.clock import isoformat
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import SCHEMA, RevokeReport
from stem_kombu.control.client.task_standings import TaskStanding, standings
from stem_kombu.errors import ConfigurationError, StoreError
from stem_kombu.ladder import Ladder
from stem_kombu.revocation import Revocation
from stem_kombu.settings import Settings
from stem_kombu.volatile import HOW_DURABLE, NOT_DURABLE
from stem_kombu_cli import exit_codes, plain_celery
from stem_kombu_cli.bounds import attempt_option, bound_of, in_words
from stem_kombu_cli.changing import NOT_AUDITED, change_of, changing_options, confirm, reason_of
from stem_kombu_cli.commands.asking import show, tell, with_stem
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import DURATION, HOST, control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import counted, emit, note, print_json, shown, span, table, use_color
from stem_kombu_cli.revoke_selected import chosen_of, revoke_selected, selector_options
from stem_kombu_cli.revoked_tasks import (
    code_of_standings,
    code_of_verdicts,
    standing_lines,
    unsupported_lines,
    verdict_lines,
)
from stem_kombu_cli.storing import Storing


@click.command(
    epilog="Examples:  stem worker revoke --task 1761057 --terminate --reason INC-42\n\n"
    "\b\n           cat ids.txt | stem worker revoke --task - --expires-in 7d\n\n"
    "\b\n           stem worker revoke --name 'mail.*' -q mail --dry-run"
)
@click.option(
    "-t",
    "--task",
    "tasks",
    metavar="ID",
    multiple=True,
    help="Task id; repeat it, or - to read ids from stdin.",
)
@attempt_option
@selector_options
@click.option("--terminate", is_flag=True, help="Also stop tasks that run, at their next checkpoint.")
@click.option(
    "--term-after",
    type=DURATION,
    help="With --terminate: SIGTERM to the process group of an isolate that still runs this long after its worker knows.",
)
@click.option("--kill-after", type=DURATION, help="The same with SIGKILL; asks first, and its child is replaced.")
@click.option("--expires-in", type=DURATION, help="Forget the revocation after this long (default: never).")
@click.option(
    "--grace",
    type=DURATION,
    help="With --wait: how long a thread may take to its first checkpoint before it counts as unstoppable (default: 2s).",
)
@partial(
    changing_options, wait="Return when each task that was found has its verdict, at the latest after --grace and 10s."
)
@control_options
@click.pass_context
def revoke(
    ctx: click.Context,
    /,
    tasks: Sequence[str],
    terminate: bool,
    term_after: float | None,
    kill_after: float | None,
    expires_in: float | None,
    grace: float | None,
    **values: object,
) -> None:
    """Persist revocations, then broadcast them, and say what is known of each task.

    A revoked task never starts, wherever it is delivered, until the revocation expires. With --terminate a running task
    raises TaskRevoked at its next checkpoint. The record applies to every worker: --worker narrows the broadcast only.

    Without --task, tasks are selected by what they are (--name, -q, --header, --kwarg, --parent, --root, --group,
    --running-longer-than): all conditions have to hold. The command shows what matches, asks, and revokes what was sent before
    now; what is sent later runs.

    --attempt and --enqueued-before bind a revocation by id to one attempt, or to what was sent before: another task that bears
    the same id later runs.

    With --wait each task gets one verdict: never-started, will-not-start, stopped, killed (0), finished-first, unstoppable (1),
    running (124), lost (3) or unknown (4); the exit code is the first of 124, 1, 3, 4 and 0 that occurs.

    --term-after and --kill-after are for isolates that pass no checkpoint. Inline tasks can't be killed; a Celery worker
    answers "unsupported", and the exit code is 5.

    Exit codes beside the usual ones without --wait: 1 when a task had finished before; with --terminate, 3 when a task still
    runs and 4 when no sender recorded an id.
    """
    as_json, targets = wants_json(values), targets_of(values)
    change, bound = change_of(values, as_json=as_json), bound_of(values, ctx, by_id=bool(tasks))
    chosen = chosen_of(values, ctx)
    if grace is not None and not change.wait:
        raise click.UsageError("--grace is for --wait", ctx)
    if bool(tasks) == (chosen is not None):
        raise click.UsageError("name tasks with --task, or select them with --name, -q or another condition", ctx)
    if (term_after or kill_after) and not terminate:
        raise click.UsageError("--term-after and --kill-after need --terminate", ctx)
    ladder = Ladder.of(term_after, kill_after)
    places = places_of(values)
    settings, timeout = places.settings(), places.timeout
    if chosen is not None:
        reason = reason_of(change, settings)
        revoke_selected(
            ctx, chosen, change, settings,
            terminate=terminate, ladder=ladder, grace=grace or timeouts.VERDICT_GRACE, expires_in=expires_in, reason=reason,
            targets=targets, timeout=timeout,
        )  # fmt: skip
    ids = task_ids(tasks, sys.stdin.buffer)
    reason = reason_of(change, settings)
    if change.dry_run:
        _show_plan(ids, terminate, ladder, bound, settings, as_json=as_json)
        return
    if kill_after is not None:
        tasks_named = counted(len(ids), "task") if len(ids) > 1 else f"task {shown(ids[0])}"
        confirm(
            change, f"this kills {tasks_named} after {span(kill_after)}, where they run and do not stop", count=len(ids)
        )
    stored: list[Revocation] = []
    storing = Storing()

    def on_stored(records: Sequence[Revocation]) -> None:
        stored.extend(records)
        storing.done()

    with (
        Progress() as progress,
        ControlClient(settings, on_wait=progress.answers, senders_record=not HOST) as client,
    ):
        try:
            with storing:
                report = client.revoke(
                    ids,
                    terminate=terminate,
                    reason=reason,
                    requested_by=change.requester,
                    expires_in=expires_in,
                    ladder=ladder,
                    bound=bound,
                    wait=change.wait,
                    grace=timeouts.VERDICT_GRACE if grace is None else grace,
                    workers=targets,
                    timeout=timeout,
                    progress=progress.steps,
                    on_stored=on_stored,
                )
        except StoreError as error:
            raise StoreError(f"{error}; nothing was broadcast", hint=error.hint) from error
        except KeyboardInterrupt:
            raise _interrupted(stored, storing.in_doubt, settings) from None
        known = () if report.verdicts is not None else _known(client, report)
    if report.verdicts is not None:
        told, lines = report.to_dict(), verdict_lines(report.verdicts)
        code = code_of_verdicts(report, report.verdicts)
    else:
        told = {**report.to_dict(), "tasks": [one.to_dict() for one in known]}
        lines = standing_lines(known, confirmed=_is_confirmed(report))
        code = code_of_standings(report, known, terminate=terminate)
    plain = plain_celery.found(None, settings, with_stem(report), targets, revoked=ids)
    if as_json:
        print_json({**told, **plain_celery.fields(plain)})
    else:
        if report.replies and report.verdicts is None:
            show(report, text, use_color(ctx.obj.color))
        for line in lines:
            emit(line)
    _tell(report, ids, targets, settings)
    if report.audited is False:
        note(NOT_AUDITED)
    if plain:
        workers = counted(len(plain), "Celery worker")
        note(
            f"note: in the memory of {workers} without Stem only, and forgotten when that ends; nothing that runs there was"
            f" stopped: {', '.join(plain)}"
        )
    ctx.exit(code)


def _show_plan(
    ids: Sequence[str],
    terminate: bool,
    ladder: Ladder | None,
    bound: Bound | None,
    settings: Settings,
    *,
    as_json: bool,
) -> None:
    if as_json:
        plan = {"schema": SCHEMA, "command": "revoke", "namespace": settings.namespace, "dry_run": True}
        steps = {} if ladder is None else dict[str, object](ladder.to_record())
        steps |= {} if bound is None else {"bounds": [bound.to_record()]}
        print_json({**plan, "terminate": terminate, **steps, "task_ids": list(ids)})
        return
    for task_id in ids:
        only = "" if bound is None else f", {in_words(bound)} only"
        emit(shown(f"would revoke{' and stop' if terminate else ''}: {task_id}{only}"))
    note(f"dry run: {_counted(len(ids))} would be stored; nothing was")


def _known(client: ControlClient, report: RevokeReport) -> tuple[TaskStanding, ...]:
    """What workers and the backend say; a backend that can't be read in time is passed over with a note."""
    source = client.settings.backend
    if source is None:
        return standings(report, None)
    states = open_backend(source.value, name=source.name, tls=client.settings.tls)
    left = max(report.timeout - report.elapsed, timeouts.NOTE_LATEST)
    look = partial(standings, report, states, senders_record=not HOST)
    try:
        return client.places.in_time(look, left, f"result backend {states.url}", stores=False)
    except StoreError as error:
        note(f"note: task states can't be read: {error}")
        return standings(report, None)
    finally:
        states.close()


def _interrupted(stored: Sequence[Revocation], in_doubt: bool, settings: Settings) -> Failure:
    if stored:
        said = f"{_counted(len(stored))} stored, {_until(stored)}; {_who_obeys(settings)} obey them at their next sync"
    elif in_doubt:
        said = "the store was writing, and holds all of the revocations or none; `stem worker inspect --revoked` shows which"
    else:
        said = "nothing was stored, nothing was broadcast"
    facts = {"stored": [revocation.to_record() for revocation in stored]}
    return Failure(f"interrupted: {said}", exit_codes.INTERRUPTED, facts=facts)


def _until(stored: Sequence[Revocation]) -> str:
    ends = [revocation.expires_at for revocation in stored]
    known = [end for end in ends if end is not None]
    if not known:
        return "for good"
    return f"until {isoformat(max(known))}" + (", some for good" if len(known) < len(ends) else "")


def task_ids(given: Sequence[str], standard_input: BinaryIO) -> list[str]:
    """The ids, those from standard input where one of them is ``-``; blank lines are passed over, duplicates folded.

    Raises :class:`ConfigurationError` for a line that is not UTF-8.
    """
    ids: list[str] = []
    for one in given:
        ids += _lines(standard_input) if one == "-" else [one]
    if not ids:
        raise ConfigurationError("there is no task id on standard input", hint="write one id a line")
    return list(dict.fromkeys(ids))


def _lines(standard_input: BinaryIO) -> Iterator[str]:
    # Split at line feeds only: str.splitlines would make two ids of one that holds a control character.
    for number, line in enumerate(standard_input.read().split(b"\n"), 1):
        try:
            text = line.decode().strip(" \t\r\ufeff")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"line {number} of standard input is not UTF-8: {line[:40]!r}: {error}") from None
        if text:
            yield text


def text(report: RevokeReport, color: bool) -> str:
    names = ("applied", "stale", "expired", "in_flight", "terminated", "pending", "finished")
    rows = [(reply.worker, *(len(reply.payload.get(name, ())) for name in names)) for reply in report.replies]
    return table(("WORKER", *(name.replace("_", " ").upper() for name in names)), rows, color=color)


def _is_confirmed(report: RevokeReport) -> bool:
    """Whether a worker said that it obeys: without, workers that don't accept the client's key may not."""
    return any(reply.error is None and not reply.payload.get("refused") for reply in report.replies)


def _who_obeys(settings: Settings) -> str:
    """What is promised where no worker has answered: a fleet with keys obeys what is signed with one that it lists."""
    key = settings.signing.active_key
    return f"workers that accept key {key!r}" if key else "workers without signing keys"


def _tell(report: RevokeReport, ids: Sequence[str], targets: Sequence[str] | None, settings: Settings) -> None:
    versions = [revocation.version for revocation in report.stored]
    if report.durable:
        note(f"stored: {_counted(len(versions))}, version {max(versions)}, {_until(report.stored)}")
    else:
        note(f"not durable: {_counted(len(versions))}; {NOT_DURABLE}")
        note(f"hint: {HOW_DURABLE}")
    for strange in [task_id for task_id in ids if "," in task_id or any(map(str.isspace, task_id))][:3]:
        note(f"hint: {strange!r} is stored as one id; give each id a --task of its own, or a line of --task -")
    if targets is not None:
        note(f"note: the revocation applies to every worker; it was broadcast to {', '.join(targets)} only")
    if not report.durable and not report.replies:
        note(
            f"error: no worker holds {'it' if len(versions) == 1 else 'them'}: {report.broker_error or 'none answered'}"
        )
        return
    if not report.broadcast:
        note(f"error: stored, but not broadcast: {report.broker_error}")
        note(f"hint: {_who_obeys(settings)} obey it at their next sync, at the latest when they reconnect")
        return
    tell(report)
    for line in unsupported_lines(report):
        note(line)
    if not report.replies:
        note(f"{_who_obeys(settings)} obey it when they start, or at their next sync")


def _counted(count: int) -> str:
    return f"{count} revocation{'s' if count != 1 else ''}"
