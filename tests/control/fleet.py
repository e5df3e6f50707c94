"""A fleet of real listeners over a real broker, each with a worker that is faked behind ``WorkerView``."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import Report
from stem_kombu.control.protocol.fates import TaskFate
from stem_kombu.control.protocol.messages import Shutdown
from stem_kombu.control.server.listener import ControlListener
from stem_kombu.control.server.worker_view import (
    InFlightTask,
    InForce,
    Obeyed,
    RevocationFacts,
    StopStanding,
    WaitingOutcome,
    WorkerFacts,
    WorkerIdentity,
    WorkerSummary,
)
from stem_kombu.directive import Directive
from stem_kombu.measures import CommandCounts
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied
from stem_kombu.settings import Settings
from stem_kombu.slots import SlotView
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.registry import open_transport
from tests.waiting import eventually

_numbers = itertools.count(1)
HELD = RevocationFacts(count=0, revision=0, synced_ago=0.1)


def identity(worker: str, namespace: str = "stem", boot: str | None = None) -> WorkerIdentity:
    boot = boot or f"boot-{next(_numbers)}"
    return WorkerIdentity(namespace, worker, boot, "host", os.getpid(), "0.1.0", SYSTEM.utcnow())


FACTS = WorkerFacts(
    state="running",
    uptime=12.5,
    concurrency=4,
    prefetch=8,
    in_flight=1,
    reserved=2,
    consuming=True,
    queues={"default": True},
    totals={"received": 3, "started": 2, "succeeded": 1, "failed": 0, "retried": 0, "cancelled": 0, "redelivered": 0},
    pool=[SlotView(0, 4711, "idle", None, 7, 1_000_000)],
    rss_bytes=50_000_000,
    load_avg=0.5,
    broker="redis://:***@h/0",
    backend=None,
    revoke_store="sqlite:///s.db",
    transport="redis",
    heartbeat_interval=10.0,
)


@dataclass
class FakeWorker:
    """A ``WorkerView`` whose answers a test sets, and which remembers what it was told."""

    identity: WorkerIdentity
    current: WorkerFacts = FACTS
    tasks: Sequence[InFlightTask] = ()
    held: RevocationFacts = HELD
    records: list[Revocation] = field(default_factory=list)
    endings: dict[str, str] = field(default_factory=dict)
    known_fates: dict[str, TaskFate] = field(default_factory=dict)
    obeyed: list[Directive] = field(default_factory=list)
    applied: list[tuple[str, ...]] = field(default_factory=list)
    depths: Callable[[], Mapping[str, int | None]] = lambda: {"default": 3}
    orders: list[Shutdown] = field(default_factory=list)
    #: Open: whoever waits for endings is let go at once, and not after the budget.
    ended: threading.Event = field(default_factory=threading.Event)
    commands: CommandCounts = field(default_factory=CommandCounts)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def climbs(self) -> bool:
        return True

    def facts(self) -> WorkerFacts:
        return self.current

    def measures(self) -> dict[str, object]:
        return {"totals": dict(self.current.totals), "commands": self.commands.snapshot()}

    def standing(self) -> WorkerSummary:
        return self.current

    def queue_depths(self) -> Mapping[str, int | None]:
        return self.depths()

    def in_flight(self) -> Sequence[InFlightTask]:
        return self.tasks

    def waiting_outcomes(self) -> Sequence[WaitingOutcome]:
        return ()

    def revocations(self) -> RevocationFacts:
        return replace(self.held, count=len(self.records))

    def revoked_records(self, limit: int, before: int | None = None) -> tuple[list[Revocation], bool]:
        newest = [record for record in self.records[::-1] if before is None or record.version < before]
        return newest[:limit], len(newest) > limit

    def store_now(self) -> datetime:
        return SYSTEM.utcnow()

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        ids = tuple(revocation.task_id for revocation in revocations)
        self.applied.append(ids)
        self.records += revocations
        return Applied(ids, (), ())

    def running(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        return frozenset(task.id for task in self.tasks) & {revocation.task_id for revocation in revocations}

    def fates(self, task_ids: Collection[str]) -> Sequence[TaskFate]:
        return [self.known_fates[task_id] for task_id in task_ids if task_id in self.known_fates]

    def wait_ended(self, task_ids: Collection[str], timeout: float) -> Mapping[str, str]:
        self.waiting.release()
        self.ended.wait(timeout)
        return {task_id: self.endings[task_id] for task_id in task_ids if task_id in self.endings}

    def shut_down(self, order: Shutdown) -> StopStanding:
        self.orders.append(order)
        return StopStanding(order.mode.value, "running", order.exit_code)

    def obey(self, directives: Sequence[Directive]) -> Obeyed:
        self.obeyed += directives
        return Obeyed(max((one.version for one in self.obeyed), default=0), len(directives))

    def wait_started(self, tokens: Collection[int], timeout: float) -> int:
        return 0

    def settings(self) -> InForce:
        return {}

    @property
    def revoked(self) -> set[str]:
        return {task_id for ids in self.applied for task_id in ids}


def running_task(task_id: str) -> InFlightTask:
    return InFlightTask(task_id, "tasks.sleep", "default", "isolate", 0, "1, 2", SYSTEM.utcnow(), 3.25, 4711)


def answered_by(client: ControlClient, *workers: str) -> Report:
    """The first ping that these workers, and no others, answered within its timeout. A client that can't read the roster
    always listens that long, so a test has it short, and a busy machine may need more than one."""

    def answered() -> Report | None:
        report = client.ping()
        return report if [reply.worker for reply in report.replies] == list(workers) else None

    found = eventually(answered, 60, f"not answered by {', '.join(workers)}")
    assert found is not None
    return found


class Place:
    """A place on the roster that was never taken."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now

    def held_since(self) -> None:
        return None


@dataclass
class Station:
    """One listener and the worker behind it."""

    worker: FakeWorker
    listener: ControlListener
    reconnections: threading.Semaphore
    beat: Heartbeat


class Fleet:
    """Listeners and clients of one broker and one roster; ``close`` stops them all."""

    def __init__(self, url: str, *, namespace: str = "stem", timeout: float = 5.0, clock: Clock = SYSTEM) -> None:
        self.url, self.namespace, self.clock = url, namespace, clock
        self.place = f"memory://fleet-{next(_numbers)}"
        self.roster = MemoryBackend(self.place.partition("://")[2], clock=clock)
        self.settings = Settings.from_env(
            {}, broker=url, backend=self.place, revoke_store=self.place, namespace=namespace, timeout=timeout
        )
        self.stations: dict[str, Station] = {}
        self._clients: list[ControlClient] = []

    def start(self, *workers: str, **options: Any) -> list[Station]:
        return [self.add(worker, **options) for worker in workers]

    def add(
        self,
        worker: str,
        *,
        url: str | None = None,
        boot: str | None = None,
        commands: Mapping[str, Callable[..., Any]] | None = None,
        on_roster: bool = True,
        start: bool = True,
        roster_now: Callable[[], float] | None = None,
        clock: Clock | None = None,
    ) -> Station:
        """A listener that answers, and is on the roster."""
        who = identity(worker, self.namespace, boot)
        fake = FakeWorker(who)
        reconnections = threading.Semaphore(0)
        listener = ControlListener(
            open_transport(open_connection(url or self.url)).control(clock=clock or SYSTEM),
            fake,
            commands=commands or {},
            place=Place(roster_now or self.roster_time),
            reconnected=reconnections.release,
            clock=clock or SYSTEM,
        )
        beat = self.beat(worker, boot=who.boot, inbox=listener.inbox)
        station = Station(fake, listener, reconnections, beat)
        self.stations[worker] = station
        if start:
            listener.start()
        if on_roster:
            self.roster.beat(beat)
        return station

    def beat(self, worker: str, *, boot: str = "b", inbox: str = "i", interval: float = 60.0) -> Heartbeat:
        return Heartbeat(self.namespace, worker, boot, inbox, interval, "host", os.getpid(), "0.1.0")

    def roster_time(self) -> float:
        return self.clock.now()

    def client(self, *, timeout: float | None = None, url: str | None = None, clock: Clock = SYSTEM) -> ControlClient:
        settings = self.settings
        if url is not None or timeout is not None:
            settings = Settings.from_env(
                {},
                broker=url or self.url,
                backend=self.place,
                revoke_store=self.place,
                namespace=self.namespace,
                timeout=timeout or settings.control_timeout,
            )
        client = ControlClient(settings, clock=clock)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for station in self.stations.values():
            station.listener.stop()
