"""``stem revokes undo``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import click

from stem_kombu.control.client.revocations import RevocationClient
from stem_kombu.control.client.selecting import SelectorClient, UndoneRules
from stem_kombu.control.client.undoing import UndoAnswer, UndoneTask, UndoReport
from stem_kombu.errors import StemError
from stem_kombu.settings import Settings
from stem_kombu_cli import exit_codes
from stem_kombu_cli.changing import change_of, changing_options, reason_of
from stem_kombu_cli.commands.asking import tell
from stem_kombu_cli.options import TEXT, output_options, place_options, places_of, timeout_option, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import emit, note, print_json, shown

#: Lines of one answer that are printed; the rest is a count.
_MOST_LINES = 20


@click.command(
    epilog="Examples:  stem revokes undo 1761057 --reason typo\n\n\b\n           stem revokes undo --request 3f0c9d2b"
)
@click.argument("names", type=TEXT, metavar="[ID|VERSION]...", nargs=-1)
@click.option("--request", type=TEXT, metavar="ID", help="All that the command with this request id revoked.")
@click.option("--rule", type=TEXT, metavar="KEY", help="The rule that `stem revokes rules` shows.")
@partial(changing_options, wait=None)
@timeout_option
@place_options
@output_options
@click.pass_context
def undo(ctx: click.Context, /, names: Sequence[str], request: str | None, rule: str | None, **values: object) -> None:
    """Take revocations back: of tasks, by their versions, a rule, or all of one command.

    The task may start again wherever it is delivered from now on. A task that is recorded as cancelled stays cancelled. A later
    revoke of the task applies again.

    An answer for each: lifted (by every live worker), pending (a worker has not confirmed it), too-late (recorded as
    cancelled, or its handler was asked to stop), unknown (no such revocation is in force). Exit codes: 1 when one was too late,
    3 when one is pending, 4 when one is unknown.
    """
    as_json = wants_json(values)
    change = change_of(values, as_json=as_json)
    if [bool(names), request is not None, rule is not None].count(True) != 1:
        raise click.UsageError("give task ids or versions, or --request ID, or --rule KEY", ctx)
    settings = places_of(values).settings()
    reason = reason_of(change, settings)
    who, dry = change.requester, change.dry_run
    rules = UndoneRules(())
    report = UndoReport((), None, change.dry_run)
    with Progress() as progress:
        if not names:
            with SelectorClient(settings, on_wait=progress.answers) as selecting:
                rules = selecting.undo_rules(key=rule, request=request, reason=reason, requested_by=who, dry_run=dry)
        if rule is None:
            with RevocationClient(settings, on_wait=progress.answers) as client:
                report = client.undo(names, request=request, reason=reason, requested_by=who, dry_run=dry)
    if as_json:
        print_json({**report.to_dict(), **rules.to_dict()})
    else:
        for line in (*_lines(report), *_rule_lines(rules, dry_run=change.dry_run)):
            emit(shown(line))
    if report.tasks or not rules.rules:
        _tell(report, request)
    if any(task.answer in (UndoAnswer.LIFTED, UndoAnswer.PENDING) for task in report.tasks):
        _tell_of_rules(settings)
    ctx.exit(exit_code(report) if report.tasks or not rules.rules else code_of_rules(rules))


def _tell_of_rules(settings: Settings) -> None:
    """A task whose own revocation was taken back is cancelled all the same where a rule matches it."""
    try:
        with SelectorClient(settings) as client:
            keys = [rule.key for rule in client.live_rules()]
    except StemError as error:
        note(f"note: could not read the rules in force: {error}")
        return
    if keys:
        count = "1 rule is" if len(keys) == 1 else f"{len(keys)} rules are"
        note(f"warning: {count} in force, and a task that one of them matches is cancelled all the same when it comes")
        note(f"hint: `stem revokes rules` shows them; `stem revokes undo --rule {keys[-1]}` ends one")


def code_of_rules(rules: UndoneRules) -> int:
    return exit_codes.PARTIAL if rules.pending or not rules.is_told else exit_codes.OK


def _rule_lines(rules: UndoneRules, *, dry_run: bool) -> Iterator[str]:
    for one in rules.rules:
        if dry_run:
            yield f"would undo: rule {one.key}, version {one.version}"
        elif rules.pending:
            yield f"pending: rule {one.key}, not confirmed by {', '.join(rules.pending)}"
        else:
            yield f"{'lifted' if rules.is_told else 'pending'}: rule {one.key}"


def exit_code(report: UndoReport) -> int:
    """The first of 1, 3, 4 and 0 that an answer gives."""
    found = {task.answer for task in report.tasks}
    if UndoAnswer.TOO_LATE in found:
        return exit_codes.NO
    if not report.dry_run and (UndoAnswer.PENDING in found or not report.audited):
        return exit_codes.PARTIAL
    return exit_codes.NOTHING_MATCHED if UndoAnswer.UNKNOWN in found or not found else exit_codes.OK


def _lines(report: UndoReport) -> Iterator[str]:
    """An answer a line; of many of one kind the first, and how many more there are."""
    for answer in UndoAnswer:
        tasks = [task for task in report.tasks if task.answer is answer]
        label = "would undo" if report.dry_run and answer is UndoAnswer.PENDING else answer.value
        for task in tasks[:_MOST_LINES]:
            yield f"{label}: {task.task_id}{_rest(task, report)}"
        if len(tasks) > _MOST_LINES:
            yield f"{label}: and {len(tasks) - _MOST_LINES} more"


def _rest(task: UndoneTask, report: UndoReport) -> str:
    if report.dry_run and task.answer is UndoAnswer.PENDING:
        return f", version {task.undoes}"
    if task.answer is UndoAnswer.PENDING:
        return f", not confirmed by {', '.join(task.waits_for)}" if task.waits_for else ", not sent to any worker"
    if task.answer is UndoAnswer.TOO_LATE:
        return ", recorded as cancelled" if task.state == "cancelled" else ", its handler was asked to stop"
    if task.answer is UndoAnswer.UNKNOWN:
        return ", no revocation of it is in force"
    return ""


def _tell(report: UndoReport, request: str | None) -> None:
    if not report.tasks:
        note(f"no revocation of request {request!r} is in force" if request else "nothing was undone")
    if report.told is None:
        return
    if not report.audited:
        note("warning: the audit has no entry of the outcome: the revoke store was down by then")
    if not report.told.broadcast:
        note(f"error: undone, but not sent to the workers: {report.told.broker_error}")
        note("hint: workers lift it with their next sync, at the latest when they reconnect")
        return
    tell(report.told)
