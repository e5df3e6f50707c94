"""A task's arguments as people may see them."""

from __future__ import annotations

import reprlib

from stem_kombu.task import TaskMessage

#: Columns of an argument list that ``inspect`` shows.
ARGS_COLUMNS = 60


def redacted_arguments(message: TaskMessage) -> str:
    """The arguments as people may see them: at most 60 columns, long values shortened, and nothing at all of keywords whose
    names say that they are secret."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 24
    short.maxlist = short.maxtuple = short.maxdict = 4
    parts = [short.repr(value) for value in message.args[:8]]
    parts += [f"{name}={'***' if _is_secret(name) else short.repr(value)}" for name, value in message.kwargs.items()]
    text = ", ".join(parts)
    return text if len(text) <= ARGS_COLUMNS else text[: ARGS_COLUMNS - 1] + "…"


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return any(word in lowered for word in ("password", "passwd", "secret", "token", "api_key", "apikey", "credential"))
