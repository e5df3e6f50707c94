"""The queues of a fleet, as an operator sees them: how full, how old, who consumes, what waits; and emptying one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stem_kombu import chance, timeouts
from stem_kombu.backends.heartbeat import Liveness
from stem_kombu.backends.registry import open_roster
from stem_kombu.clock import SYSTEM, Clock, isoformat
from stem_kombu.concurrency import threads
from stem_kombu.control.audit import Note
from stem_kombu.control.client.command_request import default_requester
from stem_kombu.control.client.outcomes import counted_note
from stem_kombu.control.client.places import ClientPlaces, settings_of
from stem_kombu.control.client.tasks import TaskClient
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import BadMessage, BrokerRefused, ConfigurationError, StoreError
from stem_kombu.messages.decoding import UnreadableTask, decode_delivery
from stem_kombu.messages.resending import said_id
from stem_kombu.outcome import TaskState
from stem_kombu.settings import Settings
from stem_kombu.signing.keyring import Scope
from stem_kombu.task_filter import TaskFilter
from stem_kombu.transports.browsing import NoMessage
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.names import checked_queue_name
from stem_kombu.transports.registry import open_transport

if TYPE_CHECKING:
    from stem_kombu.app import Stem
    from stem_kombu.transports.base import Depths, QueueBrowser, Transport

SCHEMA = "stem.queues/1"
#: Messages that :meth:`QueueClient.peek` shows at most.
MOST_PEEKED = 1000
_QUEUED = TaskFilter(frozenset({TaskState.QUEUED}))
_ALIVE = (Liveness.LIVE, Liveness.DRAINING)


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """A message that waits. ``age`` is in seconds since it was sent, ``None`` where its sender did not write the time (plain
    Celery clients); ``problem`` says why it can't be read, where it can't."""

    task_id: str | None
    name: str | None
    attempt: int | None = None
    enqueued_at: datetime | None = None
    age: float | None = None
    eta: datetime | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.task_id,
            "name": self.name,
            "attempt": self.attempt,
            "enqueued_at": None if self.enqueued_at is None else isoformat(self.enqueued_at),
            "age_s": None if self.age is None else round(self.age, 3),
            "eta": None if self.eta is None else isoformat(self.eta),
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue now. ``depth``: messages that wait, ``None`` where the broker can't count; ``oldest``: seconds since the next
    message was sent, ``None`` where that is unknown; ``consumers``: live workers of the namespace that consume it."""

    name: str
    depth: int | None
    oldest: float | None
    consumers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "depth": self.depth,
            "oldest_s": None if self.oldest is None else round(self.oldest, 3),
            "consumers": list(self.consumers),
        }


@dataclass(frozen=True, slots=True)
class QueueReport:
    """The queues, by name. ``notes`` are sentences about what could not be known."""

    namespace: str
    queues: tuple[QueueState, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "namespace": self.namespace,
            "queues": [queue.to_dict() for queue in self.queues],
            "notes": list(self.notes),
        }


class QueueClient:
    """Looks at the queues of a fleet. ``target`` is an application or settings. For one thread at a time.

    Raises :class:`~stem_kombu.errors.BrokerUnavailable` when the broker can't be reached.
    """

    def __init__(self, target: Stem | Settings, *, clock: Clock = SYSTEM) -> None:
        self.settings: Settings = settings_of(target)
        self._trust = Verifier.of(self.settings.signing, clock=clock)
        self._clock = clock
        self._places = ClientPlaces(self.settings)
        self.is_audited = True
        self._lock = threads.Lock()
        self._transport: Transport | None = None
        self._depths: Depths | None = None
        self._browser: QueueBrowser | None = None

    def states(self, queues: Collection[str] = ()) -> QueueReport:
        """Those queues. Without names: every queue that a live worker consumes, and every other that the broker lists or, where
        it can't, in which tasks wait by their records."""
        self._trust.require(Scope.READ, "see queues")
        notes: list[str] = []
        consumers = self._consumers(notes)
        transport, browser = self._opened()
        names = {checked_queue_name(name) for name in queues}
        if not names:
            names = {*consumers}
            if browser is not None:
                names.update(browser.queues())
            elif self.settings.backend is not None:
                names.update(self._sent_to(notes))
            else:
                notes.append(
                    f"transport {transport.name!r} can't list queues: a queue that no live worker consumes is shown when named"
                )
        if self._depths is None:
            self._depths = transport.depths()
        depths = self._depths.of(sorted(names))
        found = [
            QueueState(name, depths.get(name), self._oldest(name, notes), tuple(sorted(consumers.get(name, ()))))
            for name in sorted(names)
        ]
        return QueueReport(self.settings.namespace, tuple(found), tuple(notes))

    def peek(self, queue: str, limit: int = 20) -> Sequence[WaitingMessage]:
        """The messages that come next, at most ``limit`` (1000), the next one first; nothing is taken from the queue.

        Raises :class:`~stem_kombu.errors.ConfigurationError` where the broker can't show them without taking them.
        """
        self._trust.require(Scope.READ, "see queues")
        if not 1 <= limit <= MOST_PEEKED:
            raise ConfigurationError(f"limit {limit!r} is not between 1 and {MOST_PEEKED}")
        transport, browser = self._opened()
        if browser is None:
            raise ConfigurationError(
                f"transport {transport.name!r} can't show what waits in queue {queue!r} without taking it",
                hint="`stem queue list` shows how many messages wait; Redis and the embedded broker show the messages as well",
            )
        now = self._clock.utcnow()
        with _naming(queue):
            return [_shown(raw, now) for raw in browser.first(checked_queue_name(queue), limit)]

    def search(self, wanted: Callable[[str], bool]) -> Iterator[Any] | None:
        """Every message that waits in one of the queues whose names are ``wanted``, as Kombu's, streamed in no order; ``None``
        where the broker can't be searched without harm."""
        self._trust.require(Scope.READ, "see queues")
        browser = self._opened()[1]
        if browser is None:
            return None
        names = {*browser.queues(), *self._consumers([])}
        return (raw for name in sorted(names) if wanted(name) for raw in browser.search(name))

    def unused_life(self, queue: str) -> float | None:
        """Seconds for which the queue outlives its last consumer: 0 where the broker deletes it at once, ``None`` where it
        stays, or where that is unknown."""
        self._trust.require(Scope.READ, "see queues")
        return self._opened()[0].unused_life(checked_queue_name(queue))

    def purge(self, queue: str, *, reason: str | None = None, requested_by: str | None = None) -> int:
        """Remove what waits in the queue; how many messages those were. What workers hold is not touched. :attr:`is_audited` is
        false afterwards where the audit has no entry of it."""
        self._trust.require(Scope.OPERATE, "empty a queue")
        who, request_id, keyring = requested_by or default_requester(), chance.token_hex(16), self._trust.keyring
        note = Note("purge", {"queues": [checked_queue_name(queue)]}, who, reason, request_id=request_id)
        self.is_audited = self._places.noted(note, keyring, within=self.settings.control_timeout)
        with _naming(queue):
            removed = self._opened()[0].purge(queue)
        if self.is_audited:
            outcome = counted_note("purge", who, reason, request_id, removed=removed)
            self._places.noted(outcome, keyring, within=timeouts.NOTE_LATEST)
        return removed

    def close(self) -> None:
        """Let connections go. May be called twice; the next question connects again."""
        with self._lock:
            depths, browser = self._depths, self._browser
            self._transport = self._depths = self._browser = None
        self._places.close()
        for one in (depths, browser):
            if one is not None:
                one.close()

    def __enter__(self) -> QueueClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> tuple[Transport, QueueBrowser | None]:
        with self._lock:
            if self._transport is None:
                generic = self.settings.transport == "generic"
                self._transport = open_transport(broker_connection(self.settings), generic=generic)
                self._browser = self._transport.browser()
            return self._transport, self._browser

    def _consumers(self, notes: list[str]) -> dict[str, set[str]]:
        """The live workers that consume each queue, by their heartbeats."""
        source = self.settings.roster
        try:
            roster = open_roster(
                source.value, name=source.name, tls=self.settings.tls, patience=self.settings.control_timeout / 2
            )
            try:
                view = self._trust.view(roster.view(self.settings.namespace), self.settings.namespace)
            finally:
                roster.close()
        except StoreError as error:
            notes.append(f"could not ask which workers consume: {error}")
            return {}
        found: dict[str, set[str]] = {}
        for beat in view.heartbeats:
            if beat.liveness(view.now) in _ALIVE:
                for queue in beat.queues:
                    found.setdefault(queue, set()).add(beat.worker)
        return found

    def _sent_to(self, notes: list[str]) -> set[str]:
        """The queues in which tasks wait by their records, as far as these are looked through within a bounded time."""
        try:
            with TaskClient(self.settings, clock=self._clock) as tasks:
                return {
                    record.queue for record in tasks.scan(_QUEUED, timeout=timeouts.QUEUE_RECORDS_LOOK) if record.queue
                }
        except StoreError as error:
            notes.append(f"could not read to which queues tasks were sent: {error}")
            return set()

    def _oldest(self, queue: str, notes: list[str]) -> float | None:
        if self._browser is None:
            return None
        try:
            with _naming(queue):
                return next((_shown(raw, self._clock.utcnow()).age for raw in self._browser.first(queue, 1)), None)
        except BrokerRefused as error:  # one queue must not hide the others
            notes.append(f"{error}; {error.hint}" if error.hint else str(error))
            return None


@contextmanager
def _naming(queue: str) -> Iterator[None]:
    """Within the block, what the broker refuses is told with the queue's name."""
    try:
        yield
    except BrokerRefused as error:
        raise BrokerRefused(f"queue {queue!r}: {error}", hint=error.hint) from error


def _shown(raw: Any, now: datetime) -> WaitingMessage:
    if isinstance(raw, NoMessage):
        return WaitingMessage(None, None, problem=raw.problem)
    problem = None
    try:
        task = decode_delivery(raw).message
    except UnreadableTask as error:
        task, problem = error.task, str(error)
    except BadMessage as error:
        return WaitingMessage(said_id(raw), None, problem=str(error))
    age = None if task.enqueued_at is None else max(0.0, (now - task.enqueued_at).total_seconds())
    return WaitingMessage(task.task_id, task.name, task.attempt, task.enqueued_at, age, task.eta, problem)
