"""``stem worker shutdown``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

from stem_kombu import timeouts
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.command_request import default_requester
from stem_kombu.control.client.reports import SCHEMA, Report, WorkerStatus
from stem_kombu.control.client.shutdowns import Departure, Roll, ShutdownClient
from stem_kombu.control.protocol.messages import Shutdown, ShutdownMode, is_glob
from stem_kombu.errors import StoreUnavailable
from stem_kombu.settings import Settings
from stem_kombu_cli import exit_codes
from stem_kombu_cli.changing import change_of, changing_options, confirm, reason_of
from stem_kombu_cli.commands.asking import show, tell
from stem_kombu_cli.options import DURATION, control_options, places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import counted, emit, note, print_json, table, use_color
from stem_kombu_cli.time_left import TimeLeft

_NOT_AUDITED = "warning: the revoke store took no entry of the audit; the workers' logs have the shutdown"
#: So that ``Restart=on-failure`` of systemd starts the worker again.
_EXIT_CODES = ("0", "75")


def _share(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, bool]:
    """The number of ``N`` or ``P%``, and whether it is a percentage."""
    digits = value.removesuffix("%")
    is_percent = digits != value
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) <= (100 if is_percent else 10_000):
        raise click.BadParameter(
            f"{value!r} is neither a number of workers nor a percentage, such as 2 or 25%", ctx, param
        )
    return int(digits), is_percent


@click.command(epilog="Example:  stem worker shutdown --worker worker-a --mode soft --grace 20s --wait")
@click.option(
    "--all", "everyone", is_flag=True, help="Every worker of the namespace. One of --worker and --all is required."
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in ShutdownMode]),
    default="warm",
    show_default=True,
    help="warm: running tasks finish. soft: after --grace handlers end at a checkpoint, and their tasks are requeued."
    " hard: requeue now, and kill children that do not end within a second.",
)
@click.option("--grace", type=DURATION, default="30s", show_default=True, help="How long running tasks may finish.")
@click.option("--then", type=click.Choice(["soft", "hard"]), help="The mode when --grace is over.")
@click.option(
    "--exit-code",
    type=click.Choice(_EXIT_CODES),
    default="0",
    show_default=True,
    help="Of the worker's process; 75 makes Restart=on-failure start it again.",
)
@click.option("--rolling", is_flag=True, help="A few at a time; the next ones when others consume the queues.")
@click.option(
    "--max-unavailable",
    metavar="N|P%",
    callback=_share,
    default="1",
    show_default=True,
    help="With --rolling: how many at a time.",
)
@click.option(
    "--replacement-timeout",
    type=DURATION,
    default="2m",
    show_default=True,
    help="With --rolling: how long a replacement is waited for.",
)
@changing_options
@control_options
@click.pass_context
def shutdown(ctx: click.Context, /, everyone: bool, **values: Any) -> None:
    """Stop workers. A task is finished or requeued, and never recorded as cancelled.

    A repeated shutdown can only escalate: warm, soft, hard. It applies to running workers, not to those that start later.
    With --wait the command returns when the workers have ended; exit code 124 when some have not in time.
    """
    as_json, targets = wants_json(values), targets_of(values)
    if everyone == bool(targets):
        raise click.UsageError("name the workers with --worker, or give --all", ctx)
    for name in () if values["rolling"] else ("max_unavailable", "replacement_timeout"):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} is for --rolling: add that, or leave it out", ctx)
    change, order = change_of(values, as_json=as_json), _order_of(values, ctx)
    rolling, share, replacement = (values.pop(name) for name in ("rolling", "max_unavailable", "replacement_timeout"))
    given = values.get("timeout")
    settings = places_of(values).settings()
    reason = reason_of(change, settings)
    order = Shutdown(
        order.mode, order.grace, order.then, order.exit_code, reason, change.requester or default_requester()
    )
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        fleet = ShutdownClient(client, on_wait=progress.steps)
        left = TimeLeft(settings.control_timeout)
        found = _found(fleet, targets, timeouts.ROSTER_SHARE * left(), needed=change.dry_run or change.wait or rolling)
        if everyone or rolling or order.kills or any(map(is_glob, targets or ())):
            in_flight = sum(one.heartbeat.in_flight for one in found)
            if confirm(change, _danger(order, found, settings), count=in_flight):
                left.renew()
        if change.dry_run:
            _show_selection(found, settings, as_json)
            ctx.exit(exit_codes.OK if found else exit_codes.NOTHING_MATCHED)
        if rolling:
            at_once = max(1, share[0] * len(found) // 100) if share[1] else share[0]
            roll = fleet.roll(order, found, at_once=at_once, replacement_timeout=replacement)
            _show_roll(roll, settings, as_json, audited=fleet.is_audited)
            ctx.exit(_code_of_roll(roll, found, audited=fleet.is_audited))
        report = replace(fleet.order(order, targets, left()), timeout=left.seconds)
        gone = None
        if change.wait:
            obeying = {reply.worker for reply in report.replies if reply.error is None}
            lives = [one for one in found if one.heartbeat.worker in obeying]
            gone = fleet.wait_gone(
                lives, _longest(order) + timeouts.CLI_SHUTDOWN_MARGIN if given is None else settings.control_timeout
            )
    _show(report, gone, as_json, use_color(ctx.obj.color), audited=fleet.is_audited)
    code = _code(report, gone)
    ctx.exit(code if fleet.is_audited or code != exit_codes.OK else exit_codes.PARTIAL)


def _found(fleet: ShutdownClient, targets: Sequence[str] | None, timeout: float, *, needed: bool) -> list[WorkerStatus]:
    """Whom it strikes; unless that is needed, nobody known where the roster is down: workers are stopped all the same."""
    try:
        return fleet.found(targets, timeout=timeout)
    except StoreUnavailable as error:
        if needed:
            raise
        note(f"warning: the roster can't be read: {error}")
        return []


def _order_of(values: dict[str, Any], ctx: click.Context) -> Shutdown:
    mode, then = ShutdownMode(values.pop("mode")), values.pop("then")
    order = Shutdown(
        mode, values.pop("grace"), None if then is None else ShutdownMode(then), int(values.pop("exit_code"))
    )
    modes = list(ShutdownMode)
    if order.then is not None and modes.index(order.then) <= modes.index(order.mode):
        raise click.UsageError(f"--then {order.then.value} is no more than --mode {order.mode.value}", ctx)
    return order


def _longest(order: Shutdown) -> float:
    return 2 * order.grace if order.mode is ShutdownMode.SOFT and order.then is not None else order.grace


def _danger(order: Shutdown, found: Sequence[WorkerStatus], settings: Settings) -> str:
    names = ", ".join(one.heartbeat.worker for one in found[:5]) + (", …" if len(found) > 5 else "")
    tasks = sum(one.heartbeat.in_flight for one in found)
    kills = ", and kills what does not leave" if order.kills else ""
    whom = f"{counted(len(found), 'worker')} of namespace {settings.namespace} ({names or 'none is known'})"
    return f"this shuts down {whom}, with {counted(tasks, 'running task')}{kills}"


def _show_selection(found: Sequence[WorkerStatus], settings: Settings, as_json: bool) -> None:
    workers = [one.heartbeat.worker for one in found]
    if as_json:
        in_flight = sum(one.heartbeat.in_flight for one in found)
        document = {"schema": SCHEMA, "command": "shutdown", "namespace": settings.namespace, "dry_run": True}
        print_json({**document, "expected": workers, "in_flight": in_flight})
    else:
        for one in found:
            emit(f"would shut down: {one.heartbeat.worker}, with {counted(one.heartbeat.in_flight, 'running task')}")
        if not found:
            note("no such worker lives")


def _code_of_roll(roll: Roll, found: Sequence[WorkerStatus], *, audited: bool) -> int:
    if not found:
        return exit_codes.NOTHING_MATCHED
    if roll.not_replaced is not None:
        return exit_codes.NO
    return exit_codes.OK if audited else exit_codes.PARTIAL


def _show_roll(roll: Roll, settings: Settings, as_json: bool, *, audited: bool) -> None:
    if as_json:
        document = {"schema": SCHEMA, "command": "shutdown", "namespace": settings.namespace, "rolling": True}
        print_json({**document, "left": list(roll.left), "not_replaced": roll.not_replaced, "audited": audited})
    else:
        for worker in roll.left:
            emit(f"left: {worker}")
    if not audited:
        note(_NOT_AUDITED)
    if roll.not_replaced is not None:
        note(
            f"stopped at {roll.not_replaced}: it did not obey, or its queues had fewer consumers than before when the time was up"
        )


def _show(report: Report, gone: Departure | None, as_json: bool, color: bool, *, audited: bool) -> None:
    if as_json:
        left = {} if gone is None else {
            "left": list(gone.left), "vanished": list(gone.vanished), "remaining": list(gone.remaining),
        }  # fmt: skip
        print_json({**report.to_dict(), "audited": audited, **left})
    elif report.replies:
        show(report, _text, color)
    if gone is not None and not as_json:
        for what, workers in (("left", gone.left), ("vanished", gone.vanished), ("still there", gone.remaining)):
            for worker in workers:
                emit(f"{what}: {worker}")
    if not audited:
        note(_NOT_AUDITED)
    tell(report)
    if report.unknown:
        note("hint: `stem worker status` shows who is there")


def _text(report: Report, color: bool) -> str:
    rows = [
        (
            reply.worker,
            reply.status,
            reply.payload.get("mode"),
            reply.payload.get("was"),
            reply.payload.get("in_flight"),
            reply.payload.get("exit_code"),
        )
        for reply in report.replies
    ]
    return table(("WORKER", "STATUS", "MODE", "WAS", "IN FLIGHT", "EXIT"), rows, color=color)


def _code(report: Report, gone: Departure | None) -> int:
    code = exit_codes.of_report(report)
    if code != exit_codes.OK or gone is None:
        return code
    if gone.remaining:
        return exit_codes.OUT_OF_TIME
    return exit_codes.PARTIAL if gone.vanished else exit_codes.OK
