"""``stem worker revoke`` by selector: its options, the preview, the question, and the deed (G29, G30, G36)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import click

from stem_kombu.clock import isoformat
from stem_kombu.control.client.reports import SCHEMA
from stem_kombu.control.client.selecting import SelectedReport, SelectorClient
from stem_kombu.control.client.selection import Selection
from stem_kombu.fields import FieldError, moment
from stem_kombu.ladder import Ladder
from stem_kombu.selector import Selector
from stem_kombu.settings import Settings
from stem_kombu_cli import completion, exit_codes
from stem_kombu_cli.changing import NOT_AUDITED, Change, confirm
from stem_kombu_cli.commands.asking import tell
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.options import DURATION
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import counted, emit, note, print_json, span
from stem_kombu_cli.revoked_tasks import code_of_verdicts, unsupported_lines, unsupported_of, verdict_lines
from stem_kombu_cli.time_left import TimeLeft

F = TypeVar("F", bound=Callable[..., object])

_NAMES = (
    "name", "queue", "header", "kwarg", "parent", "root", "group", "running_longer_than", "enqueued_before", "undated",
    "rule_life",
)  # fmt: skip


def selector_options(function: F) -> F:
    """The conditions, all of which have to hold. A command takes them out of its values with :func:`chosen_of`."""
    for option in (
        click.option("--for", "rule_life", type=DURATION, help="The rule ends after this long (default: 7d)."),
        click.option(
            "--undated",
            type=click.Choice(["leave", "match"]),
            default="leave",
            show_default=True,
            help="Tasks without a time of sending (plain Celery clients) that can't be found now; match needs --for.",
        ),
        click.option(
            "--enqueued-before",
            metavar="TIME",
            help="Only what was sent before this, RFC 3339 (default: now; with --task: whenever).",
        ),
        click.option("--running-longer-than", type=DURATION, help="Only what has run for this long; stores no rule."),
        click.option("--group", metavar="ID", help="Tasks of this group of Celery's."),
        click.option("--root", metavar="ID", help="Tasks that descend from this one."),
        click.option("--parent", metavar="ID", help="Tasks that this one has sent."),
        click.option("--kwarg", metavar="K=JSON", multiple=True, help="Tasks with this keyword argument; repeat it."),
        click.option("--header", metavar="K=V", multiple=True, help="Tasks with this header; repeat it."),
        click.option("-q", "--queue", metavar="GLOB", help="Tasks of these queues.", shell_complete=completion.queues),
        click.option(
            "--name",
            metavar="GLOB",
            help="Instead of --task: tasks of these names.",
            shell_complete=completion.task_names,
        ),
    ):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the options say."""

    selector: Selector
    longer_than: float | None
    enqueued_before: datetime | None
    undated: bool
    rule_life: float | None


def chosen_of(values: dict[str, Any], ctx: click.Context) -> Chosen | None:
    """Take the conditions out of a command's values; ``None`` where none was given. Raises ``click.UsageError`` for what is
    given without a condition, or can't be read."""
    given = {name: values.pop(name) for name in _NAMES}
    texts = {name: given[name] for name in ("name", "queue", "parent", "root", "group")}
    headers, kwargs = _pairs(ctx, "--header", given["header"]), _pairs(ctx, "--kwarg", given["kwarg"])
    selector = Selector.of(
        **texts, headers=headers, kwargs={key: _json(ctx, key, text) for key, text in kwargs.items()}
    )
    longer_than = given["running_longer_than"]
    rest = [given["enqueued_before"], given["rule_life"], given["undated"] == "match" or None]
    if not selector and longer_than is None:
        if any(one is not None for one in rest):
            raise click.UsageError(
                "--enqueued-before, --undated and --for go with --name, -q or another condition", ctx
            )
        return None
    if longer_than is not None and any(one is not None for one in rest):
        raise click.UsageError(
            "--running-longer-than is resolved now: without --enqueued-before, --undated and --for", ctx
        )
    try:
        before = None if given["enqueued_before"] is None else moment(given["enqueued_before"], "--enqueued-before:")
    except FieldError as error:
        raise click.UsageError(f"{error}: write it like 2026-01-31T12:00:00Z", ctx) from None
    return Chosen(selector, longer_than, before, given["undated"] == "match", given["rule_life"])


def revoke_selected(
    ctx: click.Context,
    chosen: Chosen,
    change: Change,
    settings: Settings,
    *,
    terminate: bool,
    ladder: Ladder | None,
    grace: float,
    expires_in: float | None,
    reason: str | None,
    targets: Sequence[str] | None,
    timeout: float | None,
) -> None:
    """Preview, ask, and revoke; leaves with the exit code."""
    with Progress() as progress, SelectorClient(settings, on_wait=progress.answers) as client:
        left = TimeLeft(settings.control_timeout)
        wish = client.wish(
            chosen.selector,
            enqueued_before=chosen.enqueued_before,
            longer_than=chosen.longer_than,
            undated=chosen.undated,
            timeout=left(),
        )
        found = client.select(wish, workers=targets, timeout=left())
        if not change.as_json:
            for line in preview(found):
                (emit if change.dry_run else note)(line)
        # What a silent worker holds is not known: the rule is for it as well.
        is_known = chosen.longer_than is not None or (found.waiting is not None and not found.silent)
        if not found.total and is_known:
            _finish_empty(ctx, found, change)
        if change.dry_run:
            if change.as_json:
                steps = {} if ladder is None else ladder.to_record()
                plan = {"dry_run": True, "terminate": terminate, **steps, "preview": found.to_dict()}
                print_json(_document(settings, plan))
            ctx.exit(exit_codes.OK)
        if confirm(change, _danger(found, terminate=terminate, ladder=ladder), count=found.total):
            left.renew()
            again = client.select(wish, workers=targets, timeout=left())
            if again.has_grown(found):
                raise Failure(
                    f"{counted(again.total, 'task')} would be revoked now, {found.total:,} were confirmed; nothing was stored",
                    exit_codes.REFUSED,
                    hint="run the command again, and confirm what it shows then",
                )
            found = again
        report = client.revoke_selected(
            found,
            terminate=terminate,
            reason=reason,
            requested_by=change.requester,
            expires_in=expires_in,
            rule_life=chosen.rule_life,
            ladder=ladder,
            wait=change.wait,
            grace=grace,
            workers=targets,
            timeout=timeout if change.wait else left(),
            progress=progress.steps,
        )
    if change.as_json:
        print_json(
            _document(settings, {"dry_run": False, "terminate": terminate, "reason": reason, **report.to_dict()})
        )
    else:
        for line in verdict_lines(report.report.verdicts or ()) if report.report is not None else ():
            emit(line)
        emit(f"revoked: {counted(0 if report.report is None else len(report.report.stored), 'task')} by id")
        if report.rule is not None:
            emit(f"rule: {report.rule.key}, version {report.rule.version}, until {isoformat(report.rule.expires_at)}")
    _tell(report)
    if not report.audited:
        note(NOT_AUDITED)
    ctx.exit(exit_code(report))


def exit_code(report: SelectedReport) -> int:
    told = report.report
    if told is None:
        code = exit_codes.OK if report.is_confirmed else exit_codes.NOBODY_ANSWERED
        code = code if report.audited else code or exit_codes.PARTIAL
    elif told.verdicts is not None:
        code = code_of_verdicts(told, told.verdicts)
    else:
        code = exit_codes.of_report(told) or (exit_codes.REFUSED if unsupported_of(told) else exit_codes.OK)
    return exit_codes.PARTIAL if code == exit_codes.OK and report.not_obeyed_by else code


def preview(found: Selection) -> list[str]:
    """What was found, a line each."""
    wish = found.wish
    lines = []
    for kind in ("running", "reserved", "held", "waiting"):
        count = getattr(found, kind)
        shown = found.shown.get(kind, ())
        more = ", …" if count is not None and count > len(shown) else ""
        if count or (kind == "waiting" and count is None and wish.longer_than is None):
            lines.append(
                f"{kind}: {'unknown' if count is None else count}" + (f"  {', '.join(shown)}{more}" if shown else "")
            )
    if not found.total:
        lines.append("found: nothing")
    if found.scheduled:
        lines.append(f"scheduled: {found.scheduled} of them have an eta in the future")
    if found.undated:
        lines.append(f"undated: {found.undated} have no time of sending and are not revoked (see --undated)")
    if wish.longer_than is None:
        lines.append(f"cut-off: sent before {isoformat(wish.before)}; what is sent later runs")
    else:
        lines.append(f"cut-off: what has run for {span(wish.longer_than)} or longer by now")
    lines += [f"too old for rules, obeys ids only: {worker}" for worker in found.too_old]
    lines += [f"silent: {worker}" for worker in found.silent]
    return lines + [f"note: {line}" for line in found.notes]


def _danger(found: Selection, *, terminate: bool, ladder: Ladder | None) -> str:
    unknown = ""
    if found.wish.longer_than is None:
        unknown += " and all that match and wait at the broker" if found.waiting is None else ""
        unknown += f" and all that match at {len(found.silent)} silent workers" if found.silent else ""
    stops = f", and stops {found.running} that run" if terminate and found.running else ""
    if ladder is not None and ladder.kill_after is not None:
        stops = f", and kills after {span(ladder.kill_after)} what runs and does not stop"
    return f"this revokes {found.total} tasks{unknown}{stops}"


def _finish_empty(ctx: click.Context, found: Selection, change: Change) -> None:
    if change.as_json:
        print_json({"schema": SCHEMA, "command": "revoke", "dry_run": change.dry_run, "preview": found.to_dict()})
    note("no task matches; nothing was stored")
    ctx.exit(exit_codes.NOTHING_MATCHED)


def _document(settings: Settings, fields: Mapping[str, object]) -> dict[str, object]:
    return {"schema": SCHEMA, "command": "revoke", "namespace": settings.namespace, **fields}


def _tell(report: SelectedReport) -> None:
    for worker in report.not_obeyed_by:
        note(f"rule not confirmed by {worker}: it reads the rule with its next sync, or is too old and obeys ids only")
    if report.report is not None:
        if not report.report.broadcast:
            note(f"error: stored, but not broadcast: {report.report.broker_error}")
        else:
            tell(report.report)
            for line in unsupported_lines(report.report):
                note(line)
    elif not report.is_confirmed:
        note("no worker has confirmed the rule: each obeys it when it starts, or after its next sync")


def _pairs(ctx: click.Context, option: str, given: Sequence[str]) -> dict[str, str]:
    found = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise click.UsageError(f"{option} {one!r} is not K=VALUE", ctx)
        found[key] = value
    return found


def _json(ctx: click.Context, key: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise click.UsageError(
            f"--kwarg {key}={text!r} is no JSON; text is written in double quotes: --kwarg '{key}=\"…\"'", ctx
        ) from None
