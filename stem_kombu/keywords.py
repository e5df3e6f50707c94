"""Options that are given by name: which there are, and what a mistaken one may have meant."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypedDict

from stem_kombu.calls import message_of
from stem_kombu.celery_words import OPTIONS
from stem_kombu.errors import ConfigurationError
from stem_kombu.publishing import PUBLISHING_OPTIONS, DeclaredExchange, DeclaredQueue
from stem_kombu.send_retries import RETRY_OPTIONS
from stem_kombu.spelling import nearest
from stem_kombu.task import TaskOptions

if TYPE_CHECKING:
    from kombu import Connection
    from kombu.connection import ConnectionPool

    from stem_kombu.settings import SigningSettings, TlsSettings

Serializer = Literal["json", "application/json"]
Compression = Literal["gzip", "zlib", "bzip2", "bzip", "lzma", "xz", "zstd", "zstandard"]


class SettingsKeywords(TypedDict, total=False):
    """Keywords of :class:`~stem_kombu.app.Stem`, which are those of :meth:`stem_kombu.settings.Settings.from_env`."""

    broker: str | None
    broker_options: Mapping[str, object] | None
    backend: str | None
    revoke_store: str | None
    namespace: str | None
    timeout: str | float | None
    app: str | None
    queues: str | Sequence[str | DeclaredQueue] | None
    default_queue: str | DeclaredQueue | None
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
    queue: str | DeclaredQueue | None
    max_retries: int | None
    retry_backoff: float
    retry_backoff_max: float
    retry_jitter: float
    soft_time_limit: float | None
    time_limit: float | None
    visibility: float | None
    priority: int | None
    exchange: str | DeclaredExchange | None
    routing_key: str | None
    serializer: Serializer | None
    compression: Compression | None


class RetryPolicy(TypedDict, total=False):
    """Further tries to send where the broker is away: see :class:`~stem_kombu.send_retries.SendRetries`. Intervals are
    seconds. What is left out is as in Celery: ``{"max_retries": 3, "interval_start": 0, "interval_step": 0.2,
    "interval_max": 1}``."""

    max_retries: int | None
    interval_start: float
    interval_step: float
    interval_max: float


class CommonOptions(TypedDict, total=False):
    queue: str | DeclaredQueue | None
    countdown: float | None
    eta: datetime | None
    expires: float | datetime | None
    headers: Mapping[str, object] | None
    max_retries: int | None
    soft_time_limit: float | None
    time_limit: float | None
    priority: int | None
    exchange: str | DeclaredExchange | None
    routing_key: str | None
    serializer: Serializer | None
    compression: Compression | None
    retry: bool | None
    retry_policy: RetryPolicy | None


class CallOptions(CommonOptions, total=False):
    """Of one call, what goes into its message."""

    task_id: str | None


class SendOptions(CallOptions, total=False):
    """Options of sending one task. ``countdown`` and ``expires`` are seconds from now, ``expires`` may be an aware time as
    ``eta`` is; limits are seconds. ``headers`` reach the handler as ``ctx.headers``.

    The others are Kombu's. ``queue`` is a name or a ``kombu.Queue``, which is declared first. ``priority`` begins at 0, which is
    the least urgent on RabbitMQ and the embedded broker, and the most urgent on Redis. With ``exchange`` (a name or a
    ``kombu.Exchange``) the broker routes by ``routing_key``. ``compression`` is one that workers unpack. ``connection`` is
    another broker's: a Kombu connection, a pool, or the text of a URL, which is cloned, never used. With ``retry`` or
    ``retry_policy`` a broker that is away is tried again by that policy, each time for 10 seconds at most; ``retry=False`` is
    one try. Without them: for 10 seconds in all, and once where it was never reached.
    """

    connection: Connection | ConnectionPool | str | None


class ManyOptions(CommonOptions, total=False):
    """Options of sending many tasks: see :meth:`stem_kombu.app.Stem.send_many`."""

    task_ids: Sequence[str] | None
    connection: Connection | ConnectionPool | str | None


#: Of :class:`~stem_kombu.app.Stem`.
SETTINGS = tuple(SettingsKeywords.__annotations__)
#: Of ``@app.task``, beside ``context``.
TASK_OPTIONS = tuple(one.name for one in fields(TaskOptions) if one.init)
#: Of ``send_task`` and ``apply_async``, beside the task's name and arguments.
SEND_OPTIONS = (
    "queue",
    "connection",
    *PUBLISHING_OPTIONS,
    *RETRY_OPTIONS,
    *(inspect.signature(message_of).parameters.keys() - {"name", "args", "kwargs", "queue", "now", "publishing"}),
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
            hint = OPTIONS.get(str(one)) if what == "option" else None
            raise ConfigurationError(f"{where} knows no {what} {one!r}", hint=hint or _meant(str(one), known, written))


def _meant(one: str, known: Collection[str], written: str) -> str:
    near = nearest(one, known) or nearest(one.lower().removeprefix("stem_"), known)
    return f"did you mean {written.format(near)}?" if near else f"known are {', '.join(sorted(known))}"
