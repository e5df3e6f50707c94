"""Options that are given by name: which there are, and what a mistaken one may have meant."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from dataclasses import fields
from difflib import get_close_matches

from stem_kombu.calls import message_of
from stem_kombu.errors import ConfigurationError
from stem_kombu.task import TaskOptions

#: Of ``@app.task``, beside ``context``.
TASK_OPTIONS = tuple(one.name for one in fields(TaskOptions))
#: Of ``send_task`` and ``apply_async``, beside the task's name and arguments.
SEND_OPTIONS = (
    "queue",
    *(inspect.signature(message_of).parameters.keys() - {"name", "args", "kwargs", "queue", "now"}),
)


def refuse_unknown(
    where: str, given: Iterable[object], known: Collection[str], what: str = "option", *, written: str = "{}="
) -> None:
    """Raise :class:`ConfigurationError` for the first of the given names that is not known, with the nearest one that is.

    ``written`` is how the place writes a name.
    """
    for one in given:
        if one not in known:
            near = get_close_matches(str(one), known, n=1)
            hint = f"did you mean {written.format(near[0])}?" if near else f"known are {', '.join(sorted(known))}"
            raise ConfigurationError(f"{where} knows no {what} {one!r}", hint=hint)
