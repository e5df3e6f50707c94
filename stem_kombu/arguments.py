"""What a program gives as an argument: the value itself, or a :class:`ConfigurationError` that names argument and value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import CONTROL_CHARACTER, LONGEST_TEXT, shown

T = TypeVar("T")


def listed(values: Iterable[T], what: str) -> tuple[T, ...]:
    """The members of a list, a tuple or another series; text and a mapping are none."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ConfigurationError(
            f"{what} is {shown(values)} ({type(values).__name__}), not a list", hint="give a list or tuple"
        )
    return tuple(values)


def switched(value: object, what: str) -> bool:
    """``True`` or ``False``; no text and no number stands for either."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} is {shown(value)} ({type(value).__name__})", hint="give True or False")
    return value


def checked_task_name(name: object) -> str:
    """The name of a task that can be sent: one line of text, at most 512 characters."""
    if not isinstance(name, str):
        raise ConfigurationError(f"the name of a task is text, not {shown(name)} ({type(name).__name__})")
    if not name.strip():
        raise ConfigurationError(f"the name {name!r} of a task is blank", hint="leave it out, or give one")
    if CONTROL_CHARACTER.search(name):
        raise ConfigurationError(
            f"task name {shown(name)} holds a control character", hint="names are one line of plain text"
        )
    if len(name) > LONGEST_TEXT:
        raise ConfigurationError(
            f"the name of task {name[:40]!r}… has {len(name)} characters", hint=f"at most {LONGEST_TEXT} are accepted"
        )
    return name
