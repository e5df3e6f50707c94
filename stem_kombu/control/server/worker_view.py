"""The narrow view of a worker that control handlers work on; the worker implements it, a test fakes it in ten lines.

Control and execution never import each other: they meet here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeAlias

from stem_kombu import chance, machine
from stem_kombu.control.protocol.fates import TaskFate
from stem_kombu.control.protocol.messages import Shutdown
from stem_kombu.directive import Directive
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import shown
from stem_kombu.measures import CommandCounts
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied
from stem_kombu.rule import Rule
from stem_kombu.selector import Selector
from stem_kombu.slots import SlotView
from stem_kombu.stores.quarantine import SetAside
from stem_kombu.version import __version__

#: Longest worker id that is accepted, in characters.
WORKER_ID_LIMIT = 255


def checked_worker_id(worker: object) -> str:
    """The id itself, or :class:`ConfigurationError` when it could not be typed, shown or targeted as one worker."""
    if not isinstance(worker, str):
        raise ConfigurationError(f"worker id {shown(worker)} ({type(worker).__name__}) is no text")
    if not worker or len(worker) > WORKER_ID_LIMIT:
        raise ConfigurationError(
            f"worker id {worker[:40]!r} has {len(worker)} characters", hint=f"1 to {WORKER_ID_LIMIT} are accepted"
        )
    if not worker.isprintable() or " " in worker or any(char in worker for char in "*?[,"):
        raise ConfigurationError(
            f"worker id {worker!r} has a space, a control character, or one of * ? [ , in it",
            hint="commands could not be addressed to it",
        )
    return worker


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who a worker is, for its whole life. ``boot`` is a nonce of this start. ``durable``: it has a revoke store."""

    namespace: str
    worker: str
    boot: str
    hostname: str
    pid: int
    version: str
    started_at: datetime
    durable: bool = True

    @classmethod
    def here(cls, namespace: str, name: str | None, now: datetime, *, durable: bool = True) -> WorkerIdentity:
        """A new worker in this process, with an id that no other has unless it has a name.

        Raises :class:`ConfigurationError` for a name that is no worker id.
        """
        hostname, pid, boot = machine.gethostname(), machine.getpid(), chance.token_hex(4)
        worker = f"{namespace}@{hostname}-{pid}-{boot}" if name is None else checked_worker_id(name)
        return cls(namespace, worker, boot, hostname, pid, __version__, now, durable)


@dataclass(frozen=True, slots=True)
class InFlightTask:
    """A task that runs here, as ``inspect`` shows it. Spans are seconds; ``args`` is a redacted repr of at most 60
    columns; ``mode`` is ``inline`` or ``isolate``; ``lost_workers`` counts those that had it before and ended with it, as far
    as is known."""

    id: str
    name: str
    queue: str
    mode: str
    attempt: int
    args: str
    started_at: datetime
    runtime: float
    pid: int
    progress: float | None = None
    progress_data: Mapping[str, object] | None = None
    checkpoint_ago: float | None = None
    terminate_requested_ago: float | None = None
    lost_workers: int = 0


@dataclass(frozen=True, slots=True)
class WaitingOutcome:
    """A task that has ended here, whose outcome can't be carried out yet. ``step`` is what fails: ``publish`` (the next
    attempt), ``record`` (its state) or ``result`` (for Celery's clients); ``waited`` is in seconds, ``tries`` have failed."""

    id: str
    name: str
    queue: str
    attempt: int
    step: str
    waited: float
    tries: int
    error: str


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    """How a worker stands, as far as it is known without asking the system or a child. ``queues`` maps each name to whether
    it is being consumed; ``uptime`` is in seconds. ``conflict`` names another live worker with the same id."""

    state: str
    uptime: float
    concurrency: int
    in_flight: int
    reserved: int
    consuming: bool
    queues: Mapping[str, bool]
    conflict: str | None = field(default=None, kw_only=True)
    #: The paused queues, each with the version of the directive that says so; the highest version that is known,
    #: ``None`` where this worker does not obey all kinds; and whether it was told to obey none.
    paused: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    directives: int | None = field(default=None, kw_only=True)
    ignores_directives: bool = field(default=False, kw_only=True)
    #: By mode (``isolate``, ``inline``), then by state (``idle``, ``running``), how many places for handlers there are. Those of
    #: :class:`WorkerFacts` have ``starting`` and ``stopping`` beside.
    slots: Mapping[str, Mapping[str, int]] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class WorkerFacts(WorkerSummary):
    """What changes while a worker lives. URLs are masked; spans are seconds. ``dropped`` counts, by door (``control``,
    ``tasks``, ``revocations``, ``roster``, ``celery``) and reason, what was not obeyed or believed; ``restarts``, by name, how
    often a thread of the worker was started again after an unexpected error."""

    prefetch: int
    totals: Mapping[str, int]
    pool: Sequence[SlotView]
    rss_bytes: int | None
    load_avg: float | None
    broker: str
    backend: str | None
    revoke_store: str
    transport: str
    heartbeat_interval: float
    #: What carries control messages: ``broker`` or ``store``.
    control_link: str = "broker"
    bounds: Mapping[str, object] = field(default_factory=dict)
    #: Tasks that have ended and are not acknowledged; outcomes that were replaced by a small record; and what fails just
    #: now, by part (``tasks``, ``publish``, ``record``, ``result``, ``roster``, ``revocations``).
    settling: int = 0
    not_storable: int = 0
    troubles: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)


class Obeyed(NamedTuple):
    """What directives changed here: the highest version that is known, how many deliveries go back to their queues, the tokens
    of those whose start was under way when a pause came, the directives that no key of the fleet signed, and how many children
    are too many and go after what they run."""

    version: int = 0
    given_back: int = 0
    starting: frozenset[int] = frozenset()
    refused: tuple[Directive, ...] = ()
    retiring: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """What counts for one kind and subject of directives. ``directive`` says so, or ``None``: the worker's own value, ``base``,
    counts, which came from ``source`` (``flag``, ``env`` or ``default``). ``clamped``: the directive asks for more."""

    value: object
    base: object
    source: str = "default"
    directive: Directive | None = None
    clamped: bool = False


#: By kind, then by subject (``None`` where the kind has none).
InForce: TypeAlias = Mapping[str, Mapping[str | None, Setting]]


@dataclass(frozen=True, slots=True)
class SetBack:
    """The last time that the store had lost what this worker held: when it was noticed (aware UTC, the store's), how many
    revocations were put back, and the first ids of them."""

    at: datetime
    put_back: int
    task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RevocationFacts:
    """What ``inspect`` says of the revocation cache. ``synced_ago`` is ``None`` until the first sync; ``store_error`` is
    the store's last failure while it is down, else ``None``; ``set_aside`` are the records that can't be read; ``clock_ahead``
    is by how many seconds the store's clock is ahead of this host's."""

    count: int
    revision: int
    synced_ago: float | None
    store_error: str | None = None
    set_aside: tuple[SetAside, ...] = ()
    set_back: SetBack | None = None
    clock_ahead: float | None = None


class StopStanding(NamedTuple):
    """What a shutdown order came to: the mode in force now, what was in force before (``running``, ``starting`` or a mode), and
    the code with which the worker's process will end."""

    mode: str
    was: str
    exit_code: int


class SelectedTask(NamedTuple):
    """A task that matches a selector. ``phase`` is ``running``, ``reserved`` or ``held``; ``dated``: its sender wrote the time of
    sending; ``runtime`` is in seconds."""

    id: str
    attempt: int
    phase: str
    dated: bool
    runtime: float | None


class WorkerView(Protocol):
    """What control handlers may ask of a worker. Every method is quick and safe from any thread unless it says otherwise."""

    @property
    def identity(self) -> WorkerIdentity:
        """Who this worker is."""

    @property
    def climbs(self) -> bool:
        """Whether it can end what runs by signals to process groups (:mod:`stem_kombu.ladder`)."""

    @property
    def commands(self) -> CommandCounts:
        """What was answered; who answers a command counts it there."""

    def standing(self) -> WorkerSummary:
        """Its state now, at the price of a few attributes: what a fleet is asked most often."""

    def facts(self) -> WorkerFacts:
        """All of its state now."""

    def measures(self) -> dict[str, Any]:
        """What metrics show beside :meth:`facts`, as ``stats`` answers it, with the ``totals`` of the same moment."""

    def queue_depths(self) -> Mapping[str, int | None]:
        """Messages ready per consumed queue. Asks the broker: may take a moment, and is called off the listener's thread."""

    def in_flight(self) -> Sequence[InFlightTask]:
        """What runs here, oldest first."""

    def waiting_outcomes(self) -> Sequence[WaitingOutcome]:
        """The outcomes that can't be carried out yet, the one that has waited longest first."""

    def revocations(self) -> RevocationFacts:
        """How the revocation cache stands."""

    def revoked_records(self, limit: int, before: int | None = None) -> tuple[list[Revocation], bool]:
        """The newest live revocations, at most ``limit``, of those below the version ``before``, and whether there were more."""

    def store_now(self) -> datetime:
        """The revoke store's time, as far as it is known here."""

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        """Take the revocations into the cache, withdraw what is reserved, and tell running tasks to stop where asked."""

    def selected(self, selector: Selector, before: datetime) -> Sequence[SelectedTask]:
        """The tasks here that match and were not sent at ``before`` or later, those without a time of sending included. Raises
        :class:`~stem_kombu.errors.ControlError` with the code ``unsupported`` where tasks can't be selected."""

    def apply_rules(self, rules: Sequence[Rule]) -> Sequence[int]:
        """Obey these rules as well; the versions of those that count now. Raises as :meth:`selected`."""

    def running(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        """The ids of the tasks that run here, or ran here until this very revocation stopped them: a look into the store
        may be quicker than the broadcast, and whoever revoked them is to hear what came of it."""

    def spared(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        """Of those that are bound to an attempt or a time, the ids of tasks that are here, but in no such attempt."""

    def fates(self, task_ids: Collection[str]) -> Sequence[TaskFate]:
        """What is known of those of the tasks that are here, or ended here a moment ago."""

    def wait_ended(self, task_ids: Collection[str], timeout: float) -> Mapping[str, str]:
        """How those of the ids ended that are out of their handlers, after waiting at most ``timeout`` seconds for all:
        id to ``cancelled``, ``succeeded``, ``failed``, ``retrying``, ``released``, or ``settling`` where the handler is out and
        its outcome is still being recorded. An id that isn't there still runs. Blocks."""

    def shut_down(self, order: Shutdown) -> StopStanding:
        """Begin to stop, or escalate a stop that has begun. Returns at once; raises
        :class:`~stem_kombu.errors.BadMessage` for a mode that this worker does not know."""

    def obey(self, directives: Sequence[Directive]) -> Obeyed:
        """Obey these directives as well. Raises :class:`~stem_kombu.errors.ControlError` where this worker obeys none."""

    def wait_started(self, tokens: Collection[int], timeout: float) -> int:
        """How many of these deliveries are still about to start, after waiting at most ``timeout`` seconds for them, and for what
        this worker has to read to know its part of a new rate limit. Blocks."""

    def settings(self) -> InForce:
        """What counts here, by directives or by this worker's own values."""
