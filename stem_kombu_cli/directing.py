"""What the commands that change directives share: how they say what was stored, who obeys it, and with which exit code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

import click

from stem_kombu import timeouts
from stem_kombu_cli import exit_codes
from stem_kombu_cli.failure import Failure
from stem_kombu_cli.render import counted, emit, note, print_json, span

if TYPE_CHECKING:
    from stem_kombu.control.client.client import ControlClient
    from stem_kombu.control.client.directives import DirectiveReport
    from stem_kombu.control.directive_writer import Author
    from stem_kombu.directive import Directive
    from stem_kombu.rate import Rate
    from stem_kombu.settings import Settings
    from stem_kombu.stores.base import RevokeStore
    from stem_kombu_cli.changing import Change

#: The id of a worker without a name: namespace, host, process, nonce.
_GENERATED = re.compile(r".+@(?P<host>.+)-\d+-[0-9a-f]{8}")


def author_of(change: Change, reason: str | None) -> Author:
    """Who asks, and why."""
    from stem_kombu.control.client.command_request import default_requester
    from stem_kombu.control.directive_writer import Author

    return Author(change.requester or default_requester(), reason)


def until(directive: Directive) -> str:
    """When it ends, in words."""
    from stem_kombu.clock import isoformat

    return "without an end" if directive.expires_at is None else f"until {isoformat(directive.expires_at)}"


def spoken(subject: str | None) -> str:
    """What a directive is about, for people: ``all``, ``mail``, ``queue mail``, ``task mail.send``."""
    return "all" if subject is None else subject.replace(":", " ", 1)


def subject_of(directive: Directive) -> str:
    """The same of a directive."""
    return spoken(directive.subject)


def rate_of(ctx: click.Context, text: str | None) -> Rate | None:
    """The rate that was given, ``None`` for none. Raises ``click.UsageError`` for what is no rate."""
    from stem_kombu.errors import ConfigurationError
    from stem_kombu.rate import Rate

    try:
        return None if text is None else Rate.parse(text)
    except ConfigurationError as error:
        raise click.UsageError(f"{error} ({error.hint})", ctx) from None


def lasted(directive: Directive, now: datetime) -> str:
    """How long ago it was stored."""
    return span(max(0.0, (now - directive.issued_at).total_seconds()))


def stored_directives(store: RevokeStore, namespace: str) -> list[Directive]:
    """What a store holds, of each key the latest; nothing where it holds no directives."""
    from stem_kombu.control.directive_writer import read_directives
    from stem_kombu.directive import PLACE, latest

    return list(latest(read_directives(store.records_since(namespace, 0, [PLACE]), namespace)).values())


def pause_in_words(one: Directive, now: datetime) -> str:
    """A pause as a sentence without its full stop."""
    whom = "" if one.workers == "*" else f" on workers {one.workers}"
    why = f": {one.reason}" if one.reason else ""
    what = "all queues have been" if one.subject is None else f"queue {one.subject} has been"
    return f"{what} paused{whom} for {lasted(one, now)}, {until(one)}, by {one.requested_by or '-'}{why}"


def limit_in_words(subject: str, setting: Mapping[str, Any]) -> str:
    """A rate limit as a worker keeps it: ``queue mail at 10/s: 2.5/s here (4 workers), 12 held``."""
    value = setting["value"]
    share = "no share yet" if value["share_per_s"] is None else f"{value['share_per_s']:.4g}/s here"
    return f"{spoken(subject)} at {value['rate']}: {share} ({value['workers']} workers), {value['held']} held"


def live_pauses(directives: Iterable[Directive], now: datetime) -> list[Directive]:
    """The pauses that hold now, the oldest first."""
    live = [one for one in directives if one.kind.value == "pause" and one.value is True and one.is_live(now)]
    return sorted(live, key=attrgetter("issued_at"))


def forgotten_pauses(directives: Iterable[Directive], now: datetime) -> list[str]:
    """A sentence for each pause that is older than an hour and has no end: it may have been forgotten."""
    return [
        f"{pause_in_words(one, now)}; `stem queue resume` ends it"
        for one in live_pauses(directives, now)
        if one.expires_at is None and now - one.issued_at > timedelta(seconds=timeouts.CLI_OLD_PAUSE)
    ]


def autoscale_in_words(one: Directive, now: datetime) -> str:
    """An autoscale as a sentence without its full stop."""
    from stem_kombu.autoscale import Autoscale

    asked = Autoscale.of_value(one.value) if isinstance(one.value, Mapping) else one.value
    why = f": {one.reason}" if one.reason else ""
    who = f"for {lasted(one, now)}, {until(one)}, by {one.requested_by or '-'}"
    return f"workers {one.workers} have had {asked} isolate children by the work that waits, {who}{why}"


def show_pauses(settings: Settings, *, and_autoscale: bool = False) -> None:
    """The pauses of a fleet with their age, on stderr; what may have been forgotten as a warning."""
    from stem_kombu.errors import StoreError
    from stem_kombu.stores.registry import open_revoke_store

    source = settings.revoke_store
    store = open_revoke_store(source.value, name=source.name, tls=settings.tls, patience=settings.control_timeout / 2)
    try:
        held, now = stored_directives(store, settings.namespace), store.now()
    except StoreError as error:
        note(f"note: could not read which queues are paused: {error}")
        return
    finally:
        store.close()
    for one in live_pauses(held, now):
        is_old = one.expires_at is None and now - one.issued_at > timedelta(seconds=timeouts.CLI_OLD_PAUSE)
        note(f"{'warning' if is_old else 'note'}: {pause_in_words(one, now)}")
    for one in held if and_autoscale else ():
        if one.kind.value == "concurrency" and isinstance(one.value, Mapping) and one.is_live(now):
            note(f"note: {autoscale_in_words(one, now)}")


def warn_of_generated(workers: Sequence[str] | None) -> None:
    """An exact id that a worker made up for itself means this life only."""
    for worker in workers or ():
        if (match := _GENERATED.fullmatch(worker)) is not None:
            note(f"warning: {worker} is a generated id: the directive is for this life of the worker only")
            note(f"hint: for each worker of that host give -w '*@{match['host']}-*', or start it with --name")


def await_applied(
    client: ControlClient, report: DirectiveReport, targets: list[str] | None, given: float | None
) -> None:
    """Return when each live worker that obeys directives has applied what was stored; ``given`` is the command's timeout.

    Raises :class:`Failure` with exit code 124 when that takes too long.
    """
    from stem_kombu.clock import SYSTEM
    from stem_kombu.control.client.directives import DirectiveClient

    version = max((one.version for one in report.stored), default=0)
    patience = client.settings.sync_interval + timeouts.CLI_APPLIED_MARGIN if given is None else given
    deadline = SYSTEM.monotonic() + patience
    while missing := _behind(report, version):
        left = deadline - SYSTEM.monotonic()
        if left <= 0:
            raise Failure(
                f"stored, but not applied within {span(patience)} by: {', '.join(missing)}",
                exit_codes.OUT_OF_TIME,
                hint="`stem directives list` shows which workers lag behind; they obey at their next sync",
                facts={"stored": [one.to_record() for one in report.stored], "missing": missing},
            )
        SYSTEM.sleep(min(timeouts.CLI_APPLIED_LOOK, left))
        again = DirectiveClient(client).ask(
            workers=targets, timeout=min(client.settings.control_timeout, max(left, 0.1))
        )
        report = _with_stored(again, report)


def _with_stored(again: DirectiveReport, report: DirectiveReport) -> DirectiveReport:
    return replace(again, stored=report.stored)


def _behind(report: DirectiveReport, version: int) -> list[str]:
    applied = report.applied
    deaf = {worker for worker, _ in report.not_obeying}
    return [worker for worker in report.expected if worker not in deaf and applied.get(worker, 0) < version]


def show(
    report: DirectiveReport,
    author: Author,
    *,
    as_json: bool,
    color: bool,
    answers: str,
    lines: Iterable[str],
    **facts: object,
) -> None:
    """What came of a change: the document, or the workers' ``answers`` as a table and a line for each directive that was stored;
    and on stderr who obeys it. ``facts`` stand in the document as well."""
    if as_json:
        print_json({**report.to_dict(), **facts, "reason": author.reason})
    else:
        if report.replies and answers:
            emit(answers, color=color)
        for line in lines:
            emit(line)
    tell(report)


def tell(report: DirectiveReport) -> None:
    """What was stored and who obeys it: on stderr."""
    from stem_kombu.control.client.directives import NOT_OBEYED
    from stem_kombu_cli.commands import asking

    if report.stored:
        count, version = len(report.stored), max(one.version for one in report.stored)
        note(f"stored: {count} directive{'' if count == 1 else 's'}, version {version}")
    if not report.broadcast:
        note(f"error: stored, but not sent to the workers: {report.broker_error}")
        note("hint: they obey at their next sync, at the latest when they reconnect")
        return
    for worker, code in report.not_obeying:
        note(f"error: worker {worker} does not obey directives: {NOT_OBEYED[code]} ({code})")
    if any(code == "unknown-command" for _, code in report.not_obeying):
        note("hint: restart it with this version of Stem; until then it goes on as before")
    asking.tell(report)
    live = [one.version for one in report.stored if not one.cleared]
    if live and report.unknown:
        note(
            f"hint: it applies to workers {', '.join(report.unknown)} that start later; `stem worker status` shows who is there,"
            f" `stem directives clear {max(live)}` takes it back"
        )
    starting = {reply.worker: reply.payload.get("starting") for reply in report.replies}
    for worker, number in starting.items():
        if number:
            note(f"note: worker {worker} had begun to start {counted(number, 'task')}, which will run to the end")


def exit_code(report: DirectiveReport) -> int:
    """A change that is stored holds for workers that start later: that none is there now is no failure."""
    code = exit_codes.of_report(report)
    none_answered = code in (exit_codes.NOBODY_ANSWERED, exit_codes.NOTHING_MATCHED)
    if report.stored and none_answered and set(report.silent) <= set(report.unknown):
        code = exit_codes.OK
    return exit_codes.PARTIAL if code == exit_codes.OK and report.not_obeying else code


def show_plan(
    ctx: click.Context, verb: str, namespace: str, stores: Sequence[Mapping[str, object]], said: str, *, as_json: bool
) -> NoReturn:
    """What ``--dry-run`` prints of directives that would be stored, as a document or as a sentence; and leave."""
    if as_json:
        print_json(plan_document(verb, namespace, {"stores": stores}))
    else:
        emit(said)
    ctx.exit(exit_codes.OK)


def conclude(
    client: ControlClient,
    report: DirectiveReport,
    change: Change,
    targets: list[str] | None,
    given: float | None,
    *,
    nothing: str,
    hint: str,
) -> None:
    """Wait where ``--wait`` asks for it. Raises :class:`Failure` with exit code 4 and ``nothing`` where nothing was stored."""
    if not report.stored:
        raise Failure(f"{nothing}; nothing was stored", exit_codes.NOTHING_MATCHED, hint=hint)
    if change.wait and report.broadcast:
        await_applied(client, report, targets, given)


def plan_document(verb: str, namespace: str, plan: dict[str, Any]) -> dict[str, object]:
    """What ``--dry-run`` prints with ``--json``."""
    return {"schema": "stem.directives/1", "command": verb, "namespace": namespace, "dry_run": True, **plan}
