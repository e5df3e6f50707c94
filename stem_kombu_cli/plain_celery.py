"""Celery workers without Stem, beside the answers of those with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from stem_kombu_cli.options import HOST
from stem_kombu_cli.render import counted, emit, note, shown, table

if TYPE_CHECKING:
    from stem_kombu.settings import Settings

F = TypeVar("F", bound=Callable[..., object])

#: What such a worker is called wherever it is shown.
PLAIN = "plain celery"


def celery_option(function: F) -> F:
    """``--celery/--no-celery``."""
    option = click.option(
        "--celery/--no-celery",
        "celery",
        default=None,
        help="Also list Celery workers without Stem (default: in `celery -A app stem`, and where no worker answers).",
    )
    return option(function)


def found(
    asked: bool | None,
    settings: Settings,
    known: Collection[str],
    targets: Sequence[str] | None,
    *,
    revoked: Sequence[str] = (),
) -> list[str]:
    """The Celery workers without Stem, where they are to be asked: ``asked`` is what the option says, ``known`` are the workers
    with Stem. They put the ids ``revoked`` into their memory."""
    if asked is None:
        named = targets is not None and set(targets) <= set(known)
        asked = (bool(HOST) and not named) or not known
    if not asked:
        return []
    from stem_kombu.celery_monitors.plain_workers import plain_workers
    from stem_kombu.control.protocol.messages import matches

    names, trouble = plain_workers(settings, known, revoked)
    if trouble is not None:
        note(f"note: Celery workers without Stem can't be listed: {trouble}")
    return [name for name in names if matches(None if targets is None else tuple(targets), name)]


def show(names: Sequence[str], color: bool) -> None:
    """A line each, as text."""
    if names:
        emit(table(("WORKER", "STATUS"), [(shown(name), PLAIN) for name in names], color=color), color=color)


def fields(names: Sequence[str]) -> dict[str, object]:
    """The same in a report's JSON, where there are any."""
    return {"plain_celery": list(names)} if names else {}


def tell(names: Sequence[str]) -> None:
    """What that means, on stderr."""
    if names:
        workers = counted(len(names), "Celery worker")
        note(f"note: {workers} without Stem answered Celery's own ping (marked {PLAIN})")
