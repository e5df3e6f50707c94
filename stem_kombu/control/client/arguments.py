"""What an operator's client accepts as arguments of its methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stem_kombu.control.protocol.codec import BUILT_IN
from stem_kombu.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """``timeout``: seconds that the workers have, between the monotonic times ``asked_at`` and ``deadline``."""

    timeout: float
    asked_at: float
    deadline: float


def checked_ids(task_ids: Sequence[str]) -> list[str]:
    """The ids without doubles; raises :class:`ConfigurationError` for none, and for one text."""
    if isinstance(task_ids, str):
        raise ConfigurationError(f"task ids {task_ids!r} is one text", hint="pass a list of ids")
    if not task_ids:
        raise ConfigurationError("there is no task id to revoke")
    return list(dict.fromkeys(task_ids))


def checked_command(name: str) -> str:
    """The name of an application's command; raises :class:`ConfigurationError`."""
    if not name or not name.isprintable():
        raise ConfigurationError(f"{name!r} is no name of a command")
    if name in BUILT_IN:
        raise ConfigurationError(f"{name!r} is no command of an application", hint=f"call .{name}() instead")
    return name
