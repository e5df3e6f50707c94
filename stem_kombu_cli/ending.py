"""``--for`` and ``--until``: when what a command asks for ends by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stem_kombu_cli.options import DURATION

if TYPE_CHECKING:
    from stem_kombu.control.client.directives import Ending

F = TypeVar("F", bound=Callable[..., object])

_CLOCK_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
ACCEPTED = "2026-01-31T14:00:00Z, or 14:00 for the next time that it is so late here"


def ending_options(default: str = "never") -> Callable[[F], F]:
    """``--for DURATION`` and ``--until TIME``. A command takes them out of its values with :func:`ending_of`."""

    def decorated(function: F) -> F:
        function = click.option("--until", metavar="TIME", help="End then: RFC 3339, or 14:00 local time.")(function)
        return click.option("--for", "lasting", type=DURATION, help=f"End after this long (default: {default}).")(
            function
        )

    return decorated


def ending_of(values: dict[str, Any], now: datetime, *, default: float | None = None) -> Ending:
    """Take the options out of a command's values; ``now`` is an aware time, ``default`` seconds.

    Raises ``click.UsageError`` where both are given, and for a time that can't be read or has passed.
    """
    from stem_kombu.control.client.directives import Ending

    lasting, until = values.pop("lasting"), values.pop("until")
    context = click.get_current_context(True)
    if lasting is not None and until is not None:
        raise click.UsageError("--for and --until exclude each other", context)
    if until is None:
        return Ending(expires_in=default if lasting is None else lasting)
    end = _moment(until, now)
    if end is None:
        raise click.UsageError(f"--until: {until!r} is no time; accepted: {ACCEPTED}", context)
    if end <= now:
        raise click.UsageError(f"--until: {until!r} has passed", context)
    return Ending(expires_at=end)


def _moment(text: str, now: datetime) -> datetime | None:
    from stem_kombu.clock import parse_isoformat

    if (match := _CLOCK_TIME.fullmatch(text.strip())) is not None:
        hour, minute, second = (int(part or 0) for part in match.groups())
        local = now.astimezone()
        today = local.replace(hour=hour, minute=minute, second=second, microsecond=0)
        # Through a plain local time, so that a change of summer time in between counts.
        found = today if today > local else (today.replace(tzinfo=None) + timedelta(days=1)).astimezone()
        return parse_isoformat(found.isoformat())
    try:
        return parse_isoformat(text.strip())
    except ValueError:
        return None
