"""The simulated machines around a fleet: clocks, revoke store, backend, broker. Slow, down, cut off, lossy, as told.

What stores and backends decide is production code (the merge rule, versions, the rule that protects an ending); what is
simulated is that it takes time, that it fails before or after it took effect, and who can reach it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from heapq import heappop, heappush, nsmallest
from typing import Any

from stem_kombu.backends.base import Backend, RosterView
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.backends.memory import _Shelf as BackendShelf
from stem_kombu.clock import from_epoch
from stem_kombu.errors import BrokerUnavailable, StoreUnavailable
from stem_kombu.fields import mapping, moment
from stem_kombu.messages.encoding import Envelope
from stem_kombu.outcome import TaskRecord, admits, carried_over
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.rule import PLACE as RULE
from stem_kombu.stores.base import Glance, RevokeStore
from stem_kombu.stores.records import Change, Changed, ControlRecord, changed, checked
from tests.faults.history import Event, History
from tests.simulation.kernel import KERNEL, Process, Thread

EPOCH = 1_790_000_000.0
_EPOCH_TIME = from_epoch(EPOCH)


class SimClock:
    """A process's clock: its wall clock may be off, its monotonic clock is nobody else's."""

    __slots__ = ("process", "start")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.start = 1000.0 + process.pid

    def now(self) -> float:
        return EPOCH + KERNEL.now + self.process.skew

    def utcnow(self) -> datetime:
        return _EPOCH_TIME + timedelta(seconds=KERNEL.now + self.process.skew)

    def monotonic(self) -> float:
        return KERNEL.now + self.start

    def sleep(self, seconds: float) -> None:
        KERNEL.sleep(seconds)


def world_time(moment: datetime, skew: float) -> float:
    """A time of a clock that is off by ``skew`` as seconds of the simulation."""
    return (moment - _EPOCH_TIME).total_seconds() - skew


class Net:
    """Who can reach what, how long that takes, and what becomes of messages on their way."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.cut: set[tuple[str, str]] = set()
        self.slow: dict[str, float] = {}
        self.loss = self.double = self.lag = 0.0

    def reach(self, what: str, error: type[Exception], refused: float = 0.0, *, patience: float = float("inf")) -> None:
        """One way to a service; raises ``error`` when it is down or the caller is cut off from it, for which it waits no
        longer than its ``patience``."""
        kernel = KERNEL
        draw = kernel.draw()
        if draw > 0.7:  # most exchanges are quicker than anything that matters
            kernel.block(draw**8 * 0.02 + self.slow.get(what, 0.0))
        elif what in self.slow:
            kernel.block(self.slow[what])
        if (self.down or self.cut) and self.broken(what, kernel.thread.process):
            kernel.block(min(0.05 + kernel.draw() ** 2 * 2.0 + refused, patience))
            raise error(f"{what} is away")

    def broken(self, what: str, process: Process) -> bool:
        return what in self.down or (what, process.name) in self.cut


def own_url(scheme: str) -> str:
    """The URL of a service as this process has it: each notes by itself which servers it can't reach."""
    return f"{scheme}://p{KERNEL.thread.process.pid}"


class SimStore(RevokeStore):
    """Production's merging and numbering in memory, behind a network."""

    @property
    def url(self) -> str:  # type: ignore[override] # which a real one has for all processes
        return own_url("memory")

    keeps_records = True

    def __init__(self, net: Net, history: History, skew: float) -> None:
        #: Control records in order of version.
        self.control: dict[tuple[str, str], ControlRecord] = {}
        self.net = net
        self.history = history
        self.skew = skew
        self.records: dict[str, Revocation] = {}  # in order of version
        self.highest = 0
        self.refuse_after = 0

    def now_here(self) -> datetime:
        return _EPOCH_TIME + timedelta(seconds=KERNEL.now + self.skew)

    def save(self, namespace: str, drafts: Sequence[RevocationDraft]) -> list[Revocation]:
        return list(self.change(namespace, Change(drafts)).revocations)

    def change(self, namespace: str, change: Change) -> Changed:
        began, by = KERNEL.now, KERNEL.thread.process.name
        try:
            self.net.reach("store", StoreUnavailable)
        except StoreUnavailable:
            self.history.add(Event("store-failed", KERNEL.now, by, request=operation(), began=began))
            raise
        versions = {place: record.version for place, record in self.control.items()}
        now = self.now_here()
        done = changed(checked(change), self.records, versions, namespace=namespace, highest=self.highest, now=now)
        rule = next((record.version for record in done.records if record.place == RULE), None)
        for revocation in done.revocations:
            self.records.pop(revocation.task_id, None)
            self.records[revocation.task_id] = revocation
            self._note_stored(revocation, began, rule)
        for removal, ended in zip(change.removals, done.ended, strict=True):
            self.records.pop(ended.task_id, None)
            self.records[ended.task_id] = ended
            self.history.add(
                Event("undone", KERNEL.now, by, task=ended.task_id, version=ended.version, value=removal.version)
            )
        for record in done.records:
            self.control.pop((record.place, record.key), None)
            self.control[record.place, record.key] = record
            self._note_pause(record)
            self._note_rule(record)
        self.highest = max(self.highest, done.version)
        # It is durable; whether the caller hears of it is another matter.
        self.net.reach("store", StoreUnavailable)
        return done

    def _note_stored(self, record: Revocation, began: float, rule: int | None) -> None:
        self.history.add(
            Event(
                "stored",
                KERNEL.now,
                KERNEL.thread.process.name,
                began=began,
                task=record.task_id,
                version=record.version,
                terminate=record.terminate,
                until=None if record.expires_at is None else world_time(record.expires_at, self.skew),
                request=operation(),
                value=rule,
            )
        )

    def _note_rule(self, record: ControlRecord) -> None:
        if record.place != RULE:
            return
        body, until = record.body, None if record.expires_at is None else world_time(record.expires_at, self.skew)
        # Producers' clocks are right here, and the cut-off is a time of theirs, however wrong the store's clock is.
        before = world_time(moment(body["enqueued_before"], "enqueued_before"), 0.0)
        value = {"name": mapping(body["selector"], "selector")["name"], "before": before}
        by = KERNEL.thread.process.name
        self.history.add(Event("rule-stored", KERNEL.now, by, version=record.version, until=until, value=value))

    def _note_pause(self, record: ControlRecord) -> None:
        if record.place != "directive" or record.body["kind"] != "pause":
            return
        pauses = record.body["value"] is True and not record.body["cleared"]
        until = None if record.expires_at is None else world_time(record.expires_at, self.skew)
        kind, by = "pause-stored" if pauses else "resume-stored", KERNEL.thread.process.name
        targets = str(record.body["workers"])
        self.history.add(Event(kind, KERNEL.now, by, version=record.version, until=until, value=targets))

    def records_since(
        self, namespace: str, version: int, places: Collection[str] | None = None
    ) -> Iterator[ControlRecord]:
        self.net.reach("store", StoreUnavailable)
        found = [
            record
            for record in self.control.values()
            if record.version > version and (places is None or record.place in places)
        ]
        self.net.reach("store", StoreUnavailable)
        return iter(found)

    def newest_records(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        return list(self.records_since(namespace, 0, [place]))[: -limit - 1 : -1]

    def record(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        self.net.reach("store", StoreUnavailable)
        return self.control.get((place, key))

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        self.net.reach("store", StoreUnavailable)
        found = []
        for record in reversed(self.records.values()):
            if record.version <= version:
                break
            found.append(record)
        found.reverse()
        self.net.reach("store", StoreUnavailable)
        return iter(found)

    def load(self, namespace: str) -> Iterator[Revocation]:
        self.net.reach("store", StoreUnavailable)
        now = self.now_here()
        found = [record for record in self.records.values() if not record.is_expired(now)]
        self.net.reach("store", StoreUnavailable)
        return iter(found)

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        self.net.reach("store", StoreUnavailable)
        record = self.records.get(task_id)
        return None if record is None or record.is_expired(self.now_here()) else record

    def revision(self, namespace: str) -> int:
        self.net.reach("store", StoreUnavailable)
        return self.highest

    def glance(self, namespace: str, task_ids: Sequence[str]) -> Glance:
        self.net.reach("store", StoreUnavailable)
        found = Glance("simulated", self.highest, {one: self.records[one] for one in task_ids if one in self.records})
        self.net.reach("store", StoreUnavailable)
        return found

    def prune(self, namespace: str) -> int:
        self.net.reach("store", StoreUnavailable)
        now = self.now_here()
        expired = [record for record in self.records.values() if record.is_expired(now)]
        for record in expired:
            del self.records[record.task_id]
            self.history.add(Event("pruned", KERNEL.now, "store", task=record.task_id, version=record.version))
        return len(expired)

    def now(self) -> datetime:
        self.net.reach("store", StoreUnavailable)
        return self.now_here()

    def ping(self) -> None:
        self.net.reach("store", StoreUnavailable)

    def close(self) -> None:
        """Nothing to let go."""


class RosterClock:
    def __init__(self, skew: float) -> None:
        self.skew = skew

    def now(self) -> float:
        return EPOCH + KERNEL.now + self.skew

    def utcnow(self) -> datetime:
        return _EPOCH_TIME + timedelta(seconds=KERNEL.now + self.skew)

    def monotonic(self) -> float:
        return KERNEL.now

    def sleep(self, seconds: float) -> None:
        KERNEL.sleep(seconds)


class _Roster(MemoryBackend):
    """Production's roster on a shelf of this world's own."""

    def __init__(self, clock: RosterClock) -> None:
        super().__init__("simulated", clock=clock)
        self._own_shelf = BackendShelf()

    def _shelf(self) -> BackendShelf:
        return self._own_shelf


class SimBackend(Backend):
    """Task states by production's rule, and production's roster, behind a network."""

    keeps_records = True

    @property
    def url(self) -> str:  # type: ignore[override] # as above
        return own_url("memory")

    def __init__(self, net: Net, history: History, skew: float) -> None:
        #: Control records in order of version.
        self.control: dict[tuple[str, str], ControlRecord] = {}
        self.net = net
        self.history = history
        self.states: dict[str, TaskRecord] = {}
        self.roster = _Roster(RosterClock(skew))

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        self.net.reach("backend", StoreUnavailable)
        by = KERNEL.thread.process.name
        held_now = []
        for new in records:
            held = self.states.get(new.task_id)
            if admits(held, new):
                held = self.states[new.task_id] = carried_over(held, new)
                revocation = new.revocation
                self.history.add(
                    Event(
                        "recorded",
                        KERNEL.now,
                        by,
                        task=new.task_id,
                        attempt=new.attempt,
                        state=new.state.value,
                        version=None if revocation is None else revocation.version,
                    )
                )
            assert held is not None
            held_now.append(held)
        self.net.reach("backend", StoreUnavailable)
        return held_now

    def get(self, task_id: str) -> TaskRecord | None:
        self.net.reach("backend", StoreUnavailable)
        return self.states.get(task_id)

    def ping(self) -> None:
        self.net.reach("backend", StoreUnavailable)

    def close(self) -> None:
        """Nothing to let go."""

    def beat(self, heartbeat: Heartbeat) -> datetime:
        self.net.reach("backend", StoreUnavailable)
        return self.roster.beat(heartbeat)

    def offer(self, heartbeat: Heartbeat, *, dead: Heartbeat | None = None) -> tuple[datetime, Heartbeat | None]:
        self.net.reach("backend", StoreUnavailable)
        return self.roster.offer(heartbeat, dead=dead)

    def leave(self, namespace: str, worker: str, boot: str) -> None:
        self.net.reach("backend", StoreUnavailable)
        self.roster.leave(namespace, worker, boot)

    def view(self, namespace: str) -> RosterView:
        self.net.reach("backend", StoreUnavailable)
        return self.roster.view(namespace)


class Queue:
    """A control queue and who reads it. Messages have an expiry, and stay while nobody reads."""

    __slots__ = ("messages", "reader")

    def __init__(self) -> None:
        self.messages: deque[tuple[float, bytes]] = deque()
        self.reader: Thread | None = None

    def put(self, expires: float, body: bytes) -> None:
        self.messages.append((expires, body))
        if self.reader is not None:
            KERNEL.wake(self.reader)

    def take(self) -> bytes | None:
        while self.messages:
            expires, body = self.messages.popleft()
            if expires > KERNEL.now:
                return body
        return None


class Message:
    """A task message as Kombu hands it over."""

    def __init__(self, broker: Broker, queue: str, envelope: Envelope) -> None:
        self.broker = broker
        self.body = envelope.body
        self.headers = envelope.headers
        self.properties = envelope.properties
        self.content_type, self.content_encoding = envelope.content_type, envelope.content_encoding
        self.errors = None
        self.acknowledged = False
        self.queue = queue
        #: The task and its attempt, for the history.
        self.task_id, self.attempt = str(envelope.headers["id"]), int(envelope.headers["retries"]) + 1
        self.times = 0
        self.delivery_tag = 0
        self.delivery_info: dict[str, Any] = {}
        self.holder: Any = None
        self.held_until = 0.0

    def delivered(self, tag: int, holder: Any) -> Message:
        again = Message.__new__(Message)
        for name in ("broker", "body", "headers", "properties", "content_type", "content_encoding", "errors",
                     "queue", "task_id", "attempt"):  # fmt: skip
            setattr(again, name, getattr(self, name))
        again.times = self.times + 1
        again.delivery_tag = tag
        again.delivery_info = {"routing_key": self.queue, "redelivered": self.times > 0}
        again.holder = holder
        again.held_until = float("inf")
        again.acknowledged = False
        return again

    def reject(self) -> None:
        self.acknowledged = True
        self.holder.basic_reject(self.delivery_tag, requeue=False)


class Broker:
    """Fanout, inboxes and task queues, with leases as Redis has them or connections as AMQP has them."""

    #: Seconds for which a message stays with who does not renew it, where there are leases.
    LIFETIME = 4.0

    def __init__(self, net: Net, history: History, *, leases: bool) -> None:
        self.net = net
        self.history = history
        self.leases = leases
        self.subscribed: dict[Any, bool] = {}
        self.queues: dict[str, Queue] = {}
        #: The messages that wait in each task queue, as a heap: what is given back has the smallest number.
        self.ready: dict[str, list[tuple[int, Message]]] = {}
        self.held: dict[int, Message] = {}
        self.tags = 0
        self.order = 0
        self.consumers: list[Any] = []
        #: The operation that each request is of, for the history.
        self.operations: dict[str, str | None] = {}

    # -- control ----------------------------------------------------------------------------------------------------

    def queue(self, name: str) -> Queue:
        found = self.queues.get(name)
        if found is None:
            found = self.queues[name] = Queue()
        return found

    def send(self, name: str, body: bytes, expires: float) -> None:
        self._carry(lambda: self.queue(name).put(KERNEL.now + expires, body), lossy=False)

    def fan_out(self, body: bytes, expires: float) -> None:
        for connection in list(self.subscribed):
            self._carry(lambda to=connection: to.arrive(body), lossy=True)  # type: ignore[misc]

    def _carry(self, arrive: Callable[[], None], *, lossy: bool) -> None:
        net, draw = self.net, KERNEL.draw
        if lossy and net.loss and draw() < net.loss:
            return
        KERNEL.at(draw() ** 3 * (0.01 + net.lag), arrive)
        if net.double and draw() < net.double:
            KERNEL.at(draw() * (0.02 + net.lag), arrive)

    # -- tasks --------------------------------------------------------------------------------------------------------

    def publish(self, queue: str, envelope: Envelope) -> None:
        self._put(Message(self, queue, envelope))

    def declare(self, queue: str) -> None:
        self.ready.setdefault(queue, [])

    def _put(self, message: Message, *, first: bool = False) -> None:
        self.order += 1
        self.declare(message.queue)
        heappush(self.ready[message.queue], (-self.order if first else self.order, message))
        for consumer in self.consumers:
            if message.queue in consumer.queues:
                consumer.poke()

    def has_any(self, queues: Sequence[str]) -> bool:
        """Whether a message waits in one of these."""
        return any(map(self.ready.get, queues))

    def take(self, queues: Sequence[str], holder: Any) -> Message | None:
        """What came first to these queues."""
        waiting = [heap for queue in queues if (heap := self.ready.get(queue))]
        if not waiting:
            return None
        _, message = heappop(min(waiting))
        self.tags += 1
        given = message.delivered(self.tags, holder)
        if self.leases:
            given.held_until = KERNEL.now + self.LIFETIME
        self.held[self.tags] = given
        return given

    def acknowledge(self, tag: int, holder: Any) -> None:
        message = self.held.get(tag)
        if message is None or (not self.leases and message.holder is not holder):
            return
        del self.held[tag]
        self.history.add(
            Event(
                "acknowledged",
                KERNEL.now,
                KERNEL.thread.process.name,
                task=message.task_id,
                attempt=message.attempt,
            )
        )

    def give_back(self, tag: int) -> None:
        message = self.held.pop(tag, None)
        if message is not None:
            self._put(message, first=True)

    def purge(self, queue: str) -> int:
        waiting = self.ready.get(queue, [])
        count = len(waiting)
        waiting.clear()
        return count

    def waits_after(self, queue: str, number: int, limit: int) -> list[tuple[int, Message]]:
        """Copies of the messages that come next in the queue after that number, and their numbers."""
        found = nsmallest(limit, (entry for entry in self.ready.get(queue, ()) if entry[0] > number))
        return [(place, message.delivered(0, None)) for place, message in found]

    def renew(self, tag: int, seconds: float) -> bool:
        message = self.held.get(tag)
        if message is None:
            return False
        message.held_until = max(message.held_until, KERNEL.now + seconds)
        return True

    def sweep(self) -> int:
        """What nobody renews goes to somebody else; how many those were."""
        over = [tag for tag, message in self.held.items() if message.held_until <= KERNEL.now]
        for tag in over:
            self.give_back(tag)
        return len(over)

    def connection_lost(self, holder: Any) -> None:
        """The broker has noticed; without leases what was held there is anybody's again."""
        if self.leases:
            return
        for tag in [tag for tag, message in self.held.items() if message.holder is holder]:
            self.give_back(tag)

    @property
    def idle(self) -> bool:
        return not self.held and not any(self.ready.values())


def operation() -> str | None:
    """The name of the command that this process is about, for the history."""
    return KERNEL.thread.process.operation


__all__ = ["EPOCH", "Broker", "BrokerUnavailable", "Net", "SimBackend", "SimClock", "SimStore"]
