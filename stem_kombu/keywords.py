"""Options that are given by name: which there are, and what a mistaken one may have meant."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from difflib import get_close_matches
from typing import Any, TypedDict

from stem_kombu.calls import message_of
from stem_kombu.errors import ConfigurationError
from stem_kombu.settings import SigningSettings, TlsSettings
from stem_kombu.task import TaskOptions


class SettingsKeywords(TypedDict, total=False):
    """Keywords of :class:`~stem_kombu.app.Stem`, which are those of :meth:`stem_kombu.settings.Settings.from_env`."""

    broker: str | None
    broker_options: Mapping[str, Any] | None
    backend: str | None
    revoke_store: str | None
    namespace: str | None
    timeout: str | float | None
    app: str | None
    queues: str | tuple[str, ...] | None
    default_queue: str | None
    inline_slots: int | None
    prefetch_multiplier: int | None
    heartbeat_interval: str | float | None
    sync_interval: str | float | None
    default_max_retries: int | None
    log_format: str | None
    max_lost_workers: int | None
    transport: str | None
    accept_loss: bool | None
    health_file: str | None
    allow_insecure: bool | None
    tls: TlsSettings | None
    signing: SigningSettings | None


class TaskKeywords(TypedDict, total=False):
    """Options of ``@app.task``: see :class:`~stem_kombu.task.TaskOptions`."""

    isolate: bool
    queue: str | None
    max_retries: int | None
    retry_backoff: float
    retry_backoff_max: float
    retry_jitter: float
    soft_time_limit: float | None
    time_limit: float | None
    visibility: float | None


class _CommonOptions(TypedDict, total=False):
    queue: str | None
    countdown: float | None
    eta: datetime | None
    expires: float | datetime | None
    headers: Mapping[str, Any] | None
    max_retries: int | None
    soft_time_limit: float | None
    time_limit: float | None


class SendOptions(_CommonOptions, total=False):
    """Options of sending one task: see :meth:`stem_kombu.app.Stem.send_task`."""

    task_id: str | None


class ManyOptions(_CommonOptions, total=False):
    """Options of sending many tasks: see :meth:`stem_kombu.app.Stem.send_many`."""

    task_ids: Sequence[str] | None


#: Of ``@app.task``, beside ``context``.
TASK_OPTIONS = tuple(one.name for one in fields(TaskOptions))
#: Of ``send_task`` and ``apply_async``, beside the task's name and arguments.
SEND_OPTIONS = (
    "queue",
    *(inspect.signature(message_of).parameters.keys() - {"name", "args", "kwargs", "queue", "now"}),
)
#: Of ``send_many``: each task has an id of its own.
MANY_OPTIONS = ("task_ids", *(option for option in SEND_OPTIONS if option != "task_id"))


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
