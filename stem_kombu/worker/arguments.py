"""A task's arguments as people may see them."""

from __future__ import annotations

from stem_kombu.redaction import MASK, ShortRepr, is_secret_name
from stem_kombu.task import TaskMessage

#: Columns of an argument list that ``inspect`` shows.
ARGS_COLUMNS = 60


def redacted_arguments(message: TaskMessage) -> str:
    """The arguments as people may see them: at most 60 columns, long values shortened, passwords in URLs masked, and nothing
    at all of keywords and keys whose names say that they are secret."""
    short = ShortRepr()
    parts = [short.repr(value) for value in message.args[:8]]
    parts += [f"{name}={MASK if is_secret_name(name) else short.repr(value)}" for name, value in message.kwargs.items()]
    text = ", ".join(parts)
    return text if len(text) <= ARGS_COLUMNS else text[: ARGS_COLUMNS - 1] + "…"
