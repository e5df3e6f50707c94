"""Which queues a worker consumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stem_kombu.arguments import listed
from stem_kombu.errors import ConfigurationError
from stem_kombu.publishing import DeclaredQueue
from stem_kombu.transports.names import checked_queue_name

if TYPE_CHECKING:
    from stem_kombu.app import Stem


def chosen_queues(app: Stem, given: Sequence[str | DeclaredQueue] | None) -> tuple[str, ...]:
    """The names of the queues: those that are given, else those of the settings. Declarations among them are the
    application's from now on. Raises :class:`ConfigurationError` for what is no queue."""
    if isinstance(given, str):
        raise ConfigurationError(
            f"queues of a worker is {given!r}, and a text is a list of letters", hint=f"write queues=[{given!r}]"
        )
    settings = app.settings
    chosen = () if given is None else listed(given, "queues of a worker")
    queues = chosen or settings.worker_queues or (settings.default_queue,)
    names = (queue if isinstance(queue, str) else app.declare(queue, "a worker") for queue in queues)
    return tuple(map(checked_queue_name, names))


def declared_of(app: Stem, queues: Sequence[str]) -> tuple[DeclaredQueue, ...]:
    """Those of the queues that the application has as Kombu's declarations."""
    return tuple(app.declared[queue] for queue in queues if queue in app.declared)
