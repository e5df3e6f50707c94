"""What a revocation by id is bound to: the options of ``stem worker revoke``, and the words that commands show."""

from __future__ import annotations

from typing import Any

import click

from stem_kombu.bound import Bound
from stem_kombu.clock import isoformat
from stem_kombu.fields import FieldError, moment

attempt_option = click.option(
    "--attempt",
    type=click.IntRange(1, 2**31 - 1),
    help="With --task: only this attempt of it, so that an id that is used again is not revoked.",
)


def bound_of(values: dict[str, Any], ctx: click.Context, *, by_id: bool) -> Bound | None:
    """Take ``--attempt`` and, of a revocation by id, ``--enqueued-before`` out of a command's values. Raises
    ``click.UsageError`` for a time that can't be read, and for an attempt without an id."""
    attempt = values.pop("attempt")
    if not by_id:
        if attempt is not None:
            raise click.UsageError("--attempt goes with --task", ctx)
        return None
    text, values["enqueued_before"] = values["enqueued_before"], None
    if attempt is None and text is None:
        return None
    try:
        return Bound(attempt, None if text is None else moment(text, "--enqueued-before:"))
    except FieldError as error:
        raise click.UsageError(f"{error}: write it like 2026-01-31T12:00:00Z", ctx) from None


def in_words(bound: Bound) -> str:
    """The bound as lines of text show it."""
    attempt = None if bound.attempt is None else f"attempt {bound.attempt}"
    before = None if bound.before is None else f"sent before {isoformat(bound.before)}"
    return ", ".join(one for one in (attempt, before) if one is not None)
