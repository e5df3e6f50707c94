"""What a shell offers for worker ids, queues and task names: what the fleet's roster and backend hold at this moment.

A look takes at most ``timeouts.CLI_COMPLETION``, its imports included, and says nothing where it can't be had: a key press must
neither wait for a broker nor write an error into the line that is being typed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from stem_kombu import timeouts

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from stem_kombu.settings import Settings

#: Recorded tasks that are looked at for names, and how many values are offered.
_RECORDS, _OFFERED = 2000, 200

Look = Callable[["Settings"], Collection[str]]


def workers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of workers that have not aged out of the roster."""
    return _offered(ctx, param, incomplete, _worker_ids)


def queues(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Queues that a worker of the roster consumes or has paused."""
    return _offered(ctx, param, incomplete, _queue_names)


def task_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of tasks that the result backend has a record of."""
    return _offered(ctx, param, incomplete, _task_names)


def _offered(ctx: click.Context, param: click.Parameter, incomplete: str, look: Look) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    given = ctx.params.get(param.name or "")
    taken = given if isinstance(given, (tuple, list)) else ()
    names = sorted(name for name in _in_time(ctx, look) if name.startswith(incomplete) and name not in taken)
    return [CompletionItem(name) for name in names[:_OFFERED]]


def _in_time(ctx: click.Context, look: Look) -> Collection[str]:
    """What ``look`` finds, nothing where that takes too long or fails."""
    found: list[Collection[str]] = []

    def run() -> None:
        try:
            found.append(look(_settings(ctx)))
        except Exception:  # noqa: BLE001, S110 - whatever is wrong, a command that is run says it better
            pass

    # A daemon: a driver that still connects does not keep the shell waiting.
    thread = threading.Thread(target=run, name="stem-completion", daemon=True)
    thread.start()
    thread.join(_longest())
    return found[0] if found else ()


def _longest() -> float:
    from stem_kombu.durations import parse_duration
    from stem_kombu.environment import environment
    from stem_kombu.errors import ConfigurationError

    given = environment().get("STEM_COMPLETION_TIMEOUT", "").strip()
    try:
        return parse_duration(given, name="STEM_COMPLETION_TIMEOUT") if given else timeouts.CLI_COMPLETION
    except ConfigurationError:
        return timeouts.CLI_COMPLETION


def _settings(ctx: click.Context) -> Settings:
    from stem_kombu_cli.options import places_of

    # Options that have not been typed yet are absent, and the environment counts.
    values: dict[str, object] = {name: value for name, value in ctx.params.items() if value is not None}
    return places_of(values).settings(announce=False)


def _worker_ids(settings: Settings) -> Collection[str]:
    return [beat.worker for beat in _roster(settings)]


def _queue_names(settings: Settings) -> Collection[str]:
    return {queue for beat in _roster(settings) for queue in (*beat.queues, *beat.paused)}


def _task_names(settings: Settings) -> Collection[str]:
    from stem_kombu.backends.registry import open_backend

    if settings.backend is None:
        return ()
    backend = open_backend(settings.backend.value, name=settings.backend.name, tls=settings.tls)
    return {record.name for record in islice(backend.scan(), _RECORDS)}


def _roster(settings: Settings) -> Collection[Any]:
    from stem_kombu.backends.registry import open_roster

    at = settings.roster
    roster = open_roster(at.value, name=at.name, tls=settings.tls)
    return roster.view(settings.namespace).heartbeats
