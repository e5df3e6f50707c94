"""What the commands that ask workers have in common: settings, client, who stayed silent, the exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import click

from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import Report
from stem_kombu_cli import exit_codes, plain_celery
from stem_kombu_cli.options import places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import emit, note, print_json, span, use_color
from stem_kombu_cli.watching import repeated

ReportT = TypeVar("ReportT", bound=Report)


def ask(
    ctx: click.Context,
    /,
    values: dict[str, Any],
    question: Callable[..., Report],
    text: Callable[[Report, bool], str],
    *,
    lists_celery: bool = False,
    watch: float | None = None,
) -> None:
    """Ask, print the report as text or JSON, and leave with its exit code. ``lists_celery``: the command has
    :func:`~stem_kombu_cli.plain_celery.celery_option`, and lists workers without Stem as well. ``watch``: ask anew every so many
    seconds, until Ctrl-C."""
    as_json, targets = wants_json(values), targets_of(values)
    celery = values.pop("celery", None)
    settings = places_of(values).settings()
    color = use_color(ctx.obj.color)

    def print_report(report: Report) -> None:
        plain = plain_celery.found(celery, settings, with_stem(report), targets) if lists_celery else []
        if as_json:
            print_json({**report.to_dict(), **plain_celery.fields(plain)})
        else:
            if report.replies:
                show(report, text, color)
            plain_celery.show(plain, color)
        tell(report)
        plain_celery.tell(plain)

    with Progress() as progress:
        on_wait = progress.answers if watch is None else None  # which would write over what is shown
        with ControlClient(settings, on_wait=on_wait) as client:
            for report in repeated(watch, partial(question, client, workers=targets), as_json=as_json):
                if watch is not None:
                    print_report(report)
    print_report(report)
    ctx.exit(exit_codes.of_report(report))


def with_stem(report: Report) -> set[str]:
    """The workers that are known to have Stem."""
    return {*report.expected, *(reply.worker for reply in report.replies)}


def show(report: ReportT, text: Callable[[ReportT, bool], str], color: bool) -> None:
    """Print the report as text, but for answers that can't be shown so: a worker of another version, or a strange
    command of an application, must not hide what the others said."""
    readable, unreadable = readable_part(report, text)
    for worker in unreadable:
        note(f"note: worker {worker} answered in an unknown form; --json shows the answer")
    if readable.replies:
        emit(text(readable, color), color=color)


def readable_part(report: ReportT, text: Callable[[ReportT, bool], str]) -> tuple[ReportT, list[str]]:
    """The report with the answers that ``text`` can show, and the workers of the others."""
    unreadable = [reply.worker for reply in report.replies if not _can_show(replace(report, replies=(reply,)), text)]
    readable = tuple(reply for reply in report.replies if reply.worker not in unreadable)
    return (replace(report, replies=readable) if unreadable else report), unreadable


def _can_show(report: ReportT, text: Callable[[ReportT, bool], str]) -> bool:
    try:
        text(report, False)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        return False
    return True


def tell(report: Report) -> None:
    """Who answered, who didn't, and what could not be known: on stderr."""
    for line in report.notes:
        note(f"note: {line}")
    for reply in report.failed:
        assert reply.error is not None
        note(f"error: worker {reply.worker}: {reply.error.message} ({reply.error.code})")
    for worker, other in report.conflicts.items():
        note(f"error: two live workers have the id {worker}, and only one of them may have answered: {other}")
    for worker in report.silent:
        if worker in report.unknown:
            note(f"silent: {worker} (no worker of that name is known in namespace {report.namespace!r})")
        else:
            note(f"silent: {worker} (no answer within {span(report.timeout)})")
    answered, expected = len(report.replies), len(report.expected)
    if not answered and not expected:
        matching = f" matches {' or '.join(report.unknown)}" if report.unknown else ""
        note(f"no live worker{matching} in namespace {report.namespace!r}")
    else:
        note(f"{answered} answered, {expected} expected, in {span(report.elapsed)}")
