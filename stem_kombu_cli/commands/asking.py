"""What the commands that ask workers have in common: settings, client, who stayed silent, the exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from stem_kombu.control.client import ControlClient
from stem_kombu.control.reports import Report
from stem_kombu_cli import exit_codes
from stem_kombu_cli.options import places_of, targets_of, wants_json
from stem_kombu_cli.progress import Progress
from stem_kombu_cli.render import emit, note, print_json, span, use_color


def ask(
    ctx: click.Context,
    /,
    values: dict[str, Any],
    question: Callable[[ControlClient, list[str] | None], Report],
    text: Callable[[Report, bool], str],
) -> None:
    """Ask, print the report as text or JSON, and leave with its exit code."""
    as_json, targets = wants_json(values), targets_of(values)
    settings = places_of(values).settings()
    with Progress() as progress, ControlClient(settings, on_wait=progress.answers) as client:
        report = question(client, targets)
    if as_json:
        print_json(report.to_dict())
    elif report.replies:
        color = use_color(ctx.obj.color)
        emit(text(report, color), color=color)
    tell(report)
    ctx.exit(exit_codes.of_report(report))


def tell(report: Report) -> None:
    """Who answered, who didn't, and what could not be known: on stderr."""
    for line in report.notes:
        note(f"note: {line}")
    for reply in report.failed:
        assert reply.error is not None
        note(f"error: worker {reply.worker}: {reply.error.message} ({reply.error.code})")
    for worker in report.silent:
        if worker in report.unknown:
            note(f"silent: {worker} (no worker of that name is known in namespace {report.namespace!r})")
        else:
            note(f"silent: {worker} (no answer within {span(report.timeout)})")
    answered, expected = len(report.replies), len(report.expected)
    if not answered and not expected:
        whom = f"whom {' or '.join(report.unknown)} matches " if report.unknown else ""
        note(f"no worker {whom}is alive in namespace {report.namespace!r}")
    else:
        note(f"{answered} answered, {expected} expected, in {span(report.elapsed)}")
