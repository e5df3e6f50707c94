"""``stem directives list``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from stem_kombu.autoscale import Autoscale
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient, DirectiveReport
from stem_kombu.directive import Directive, Kind
from stem_kombu.errors import BrokerError
from stem_kombu.rate import RateLimit
from stem_kombu_cli import exit_codes
from stem_kombu_cli.directing import lasted, subject_of
from stem_kombu_cli.options import output_options, place_options, places_of, timeout_option, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import emit, note, print_json, span, table, use_color
from stem_kombu_cli.time_left import TimeLeft

SCHEMA = "stem.directives/1"


@click.command("list", epilog="Example:  stem directives list --kind pause --json")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Only directives of this kind.")
@click.option("--history", is_flag=True, help="Those that were cleared or have ended too: they are kept for 7 days.")
@place_options
@timeout_option
@output_options
@click.pass_context
def list_directives(ctx: click.Context, /, kind: str | None, history: bool, **values: object) -> None:
    """List the directives in force, the newest first.

    APPLIED counts the live workers that have applied it, of those that it is about; LAGGING names the others: too old to
    obey, silent, or before their next sync.

    Exit code 3 when the workers can't be asked.
    """
    as_json = wants_json(values)
    settings = places_of(values).settings()
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        directives = DirectiveClient(client)
        left = TimeLeft(settings.control_timeout)
        held, now = directives.held(left())
        report, trouble = _asked(directives, left())
    wanted = [one for one in reversed(held) if (history or one.is_live(now)) and kind in (None, one.kind.value)]
    if as_json:
        found = [_document(one, now, report) for one in wanted]
        print_json({"schema": SCHEMA, "namespace": settings.namespace, "directives": found, "broker_error": trouble})
    elif wanted:
        color = use_color(ctx.obj.color)
        emit(text(wanted, now, report, color), color=color)
    else:
        note(f"no directive is in force in namespace {settings.namespace!r}")
    if trouble is not None:
        note(f"error: could not ask which workers have applied them: {trouble}")
    ctx.exit(exit_codes.OK if trouble is None else exit_codes.PARTIAL)


def _asked(directives: DirectiveClient, timeout: float) -> tuple[DirectiveReport | None, str | None]:
    try:
        return directives.ask(timeout=timeout), None
    except BrokerError as error:
        return None, str(error)


def text(directives: Sequence[Directive], now: datetime, report: DirectiveReport | None, color: bool) -> str:
    rows = []
    for one in directives:
        applied = _applied(one, report)
        rows.append(
            (
                str(one.version),
                one.kind.value,
                subject_of(one),
                one.workers,
                value_in_words(one),
                _state(one, now),
                lasted(one, now),
                None
                if one.expires_at is None or one.cleared
                else span(max(0.0, (one.expires_at - now).total_seconds())),
                one.requested_by,
                one.reason,
                None if applied is None else f"{applied['workers']} of {applied['live']}",
                None if applied is None else ",".join(applied["lagging"]),
            )
        )
    headers = (
        "VERSION", "KIND", "SUBJECT", "WORKERS", "VALUE", "STATE", "AGE", "ENDS IN", "BY", "REASON", "APPLIED", "LAGGING",
    )  # fmt: skip
    return table(headers, rows, color=color, shrink=9)


def _document(one: Directive, now: datetime, report: DirectiveReport | None) -> dict[str, object]:
    record = one.to_record()
    record.pop("proof", None)
    age = max(0.0, (now - one.issued_at).total_seconds())
    return {**record, "state": _state(one, now), "age_s": round(age, 3), "applied": _applied(one, report)}


def _applied(one: Directive, report: DirectiveReport | None) -> dict[str, Any] | None:
    """Which of the live workers that it is about have applied it; ``None`` where they could not be asked."""
    if report is None:
        return None
    known = report.applied
    live = [worker for worker in {*report.expected, *known} if one.is_for(worker)]
    lagging = sorted(worker for worker in live if known.get(worker, 0) < one.version)
    return {"workers": len(live) - len(lagging), "live": len(live), "lagging": lagging}


def _state(one: Directive, now: datetime) -> str:
    return "cleared" if one.cleared else "live" if one.is_live(now) else "expired"


def value_in_words(one: Directive) -> str:
    if one.kind is Kind.PAUSE:
        return "paused" if one.value else "exempt"
    if one.kind is Kind.RATE_LIMIT and isinstance(one.value, Mapping):
        return str(RateLimit.of_value(one.value))
    if isinstance(one.value, Mapping):
        return f"{Autoscale.of_value(one.value)} by work"
    return str(one.value)
