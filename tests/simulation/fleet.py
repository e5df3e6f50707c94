"""Workers and clients of production code in the simulated world: what is wired in, and what is noted of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from stem_kombu import timeouts
from stem_kombu.agent import resources
from stem_kombu.agent.active_rules import ActiveRules
from stem_kombu.clock import Clock
from stem_kombu.context import TaskContext, TaskReleased, TaskRevoked
from stem_kombu.control.client import command_request
from stem_kombu.control.client import revocations as revocations_module
from stem_kombu.control.client.places import ClientPlaces
from stem_kombu.control.client.reply_collector import ReplyCollector
from stem_kombu.control.client.selecting import SelectorClient
from stem_kombu.control.protocol.messages import Command, Obey, Reply, Shutdown
from stem_kombu.control.server import listener
from stem_kombu.control.server.command_server import CommandServer
from stem_kombu.errors import LeaseLost, StemError
from stem_kombu.execution import groups
from stem_kombu.execution.base import Job
from stem_kombu.execution.child import main as child
from stem_kombu.execution.child.life import ChildLife, ChildLoop
from stem_kombu.execution.child.pipe import ChildPipe
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.pool import spawning
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.job_queue import ChildJobQueue, JobQueueReader
from stem_kombu.hooks import HookTable
from stem_kombu.ladder import ladder_of
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied, RevocationCache
from stem_kombu.rule import Rule
from stem_kombu.settings import Settings
from stem_kombu.task import Task, TaskOptions, TaskRegistry
from stem_kombu.undone import is_undo
from stem_kombu.worker import delivery_facts
from stem_kombu.worker import worker as worker_module
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.settlement import Settlement
from stem_kombu.worker.task_lifecycle import TaskLifecycle
from stem_kombu.worker.worker import Worker
from tests.faults.history import Event, History
from tests.simulation import doubles, threads
from tests.simulation.kernel import KERNEL, NOWHERE, Process
from tests.simulation.services import Broker, Net, SimBackend, SimClock, SimStore

NAMESPACE = "sim"
SETTINGS = replace(
    Settings.from_env({}, broker="simulated://", backend="memory://", revoke_store="memory://", namespace=NAMESPACE),
    sync_interval=1.0,
    heartbeat_interval=2.0,
    celery_events=False,
    health_file="off",
    celery_results=None,
    keep_failed=0.0,
    default_max_retries=2,
)


class World:
    """One schedule's machines and what is noted of them. ``leases``: the broker works as Redis does, else as AMQP."""

    def __init__(self, *, leases: bool, skews: tuple[float, float]) -> None:
        self.history = History()
        self.net = Net()
        self.store = SimStore(self.net, self.history, skews[0])
        self.backend = SimBackend(self.net, self.history, skews[1])
        self.broker = Broker(self.net, self.history, leases=leases)
        self.runs = 0
        #: (worker, task, attempt) -> the latest run of it
        self.run_of: dict[tuple[str, str, int], str] = {}
        #: What each child runs, as the facts of an event; what a dead one ran.
        self.running: dict[Process, dict[str, Any]] = {}
        #: How often a child fails to lead a process group of its own.
        self.leaderless = 0.0

    def note(self, kind: str, by: str = "", **facts: Any) -> None:
        if not KERNEL.over:
            self.history.add(Event(kind, KERNEL.now, by, **facts))


#: The world of the schedule that runs.
WORLD: World = World(leases=False, skews=(0.0, 0.0))


def enter(world: World) -> None:
    global WORLD
    WORLD = world
    doubles.enter(world.broker)


# -- handlers -------------------------------------------------------------------------------------------------------------


def _work(context: TaskContext, steps: int, pause: float, ending: str) -> None:
    world = WORLD
    by = KERNEL.thread.process.worker
    world.runs += 1
    run, task, attempt = f"r{world.runs}", context.task_id, context.attempt
    world.run_of[by, task, attempt] = run
    process = KERNEL.thread.process
    is_isolate = process.name != by
    mode = "isolate" if is_isolate else None
    world.note("started", by, task=task, attempt=attempt, run=run, value="cleans", target=mode)
    if is_isolate:
        world.running[process] = {"task": task, "attempt": attempt, "run": run}
    state = "failed"
    try:
        for _ in range(steps):
            KERNEL.sleep(pause)
            context.heartbeat()
            world.note("checkpoint", by, task=task, attempt=attempt, run=run)
        if ending == "fails":
            raise ValueError("as it was told to")
        if ending == "retries" and attempt == 1:
            raise context.retry(countdown=pause)
        state = "succeeded"
    except TaskRevoked as revoked:
        state = "cancelled"
        target = revoked.revocation.task_id
        world.note("stopped", by, task=task, attempt=attempt, run=run, target=target, value="checkpoint")
        raise
    except TaskReleased:
        state = "released"
        world.note("stopped", by, task=task, attempt=attempt, run=run, state="released", value="checkpoint")
        raise
    except LeaseLost:
        state = "released"
        world.note("stopped", by, task=task, attempt=attempt, run=run, state="lease lost", value="checkpoint")
        raise
    finally:
        world.note("cleaned", by, task=task, attempt=attempt, run=run)
        world.note("ended", by, task=task, attempt=attempt, run=run, state=state)
        if is_isolate and not KERNEL.over:
            world.running.pop(process, None)


def _registry(*modes: bool) -> TaskRegistry:
    registry = TaskRegistry()
    for isolate in modes:
        options = TaskOptions(isolate=isolate, retry_backoff=0.2, retry_backoff_max=1.0)
        registry.add(Task("isolate" if isolate else "inline", _work, options))
    return registry


REGISTRIES = {"inline": _registry(False), "isolate": _registry(True), "mixed": _registry(False, True)}


# -- what a worker is made of ---------------------------------------------------------------------------------------------


class App:
    """An application as a worker sees it."""

    target = "simulated:app"
    settings = SETTINGS
    control_commands: dict[str, Callable[..., Any]] = {}
    include = ()
    hooks = HookTable()
    adapters: dict[str, Any] = {}
    declared: dict[str, Any] = {}

    def load(self) -> None:
        """Its tasks are there."""

    def __init__(self, world: World, kinds: str) -> None:
        self._world = world
        self.kinds = kinds
        self.registry = REGISTRIES[kinds]
        self.backend = world.backend

    def open_revoke_store(self) -> SimStore:
        return self._world.store


class NotedCache(RevocationCache):
    """Production's cache; what comes into force is noted."""

    def apply(self, records: Iterable[Revocation], now: datetime | None = None) -> Applied:
        records, now = list(records), self.now() if now is None else now
        done = super().apply(records, now)
        if done.applied:
            world, by = WORLD, KERNEL.thread.process.name
            for record in records:
                if record.task_id in done.applied:
                    ladder = ladder_of(record, now)
                    steps = None if ladder is None else (ladder.term_after, ladder.kill_after)
                    world.note(
                        "applied",
                        by,
                        task=record.task_id,
                        version=record.version,
                        terminate=record.terminate,
                        value=steps,
                    )
        if done.expired:
            world, by = WORLD, KERNEL.thread.process.name
            for record in records:
                if record.task_id in done.expired and is_undo(record):
                    world.note("lifted", by, task=record.task_id, version=record.version)
        return done


class NotedRules(ActiveRules):
    """Production's rules; what comes into force is noted."""

    def take(self, rules: Iterable[Rule]) -> bool:
        rules = list(rules)
        known = {rule.version for rule in self.live}
        changes = super().take(rules)
        for rule in self.live:
            if rule.version not in known:
                WORLD.note("rule-applied", KERNEL.thread.process.name, version=rule.version)
        return changes


class NotedReception(CommandServer):
    """Production's reception; what is obeyed is noted, and that a worker answers to a pause."""

    def _obey(self, command: Command, say: Any) -> None:
        world = WORLD
        world.note("obeyed", KERNEL.thread.process.name, request=world.broker.operations.get(command.request_id))
        if isinstance(command.order, Shutdown):
            world.note("stopping", KERNEL.thread.process.name)
        super()._obey(command, say)

    def _answer(self, command: Command, body: bytes, say: Any) -> None:
        if isinstance(command.order, Obey):
            payload = json.loads(body).get("payload") or {}
            for setting in payload.get("settings", {}).get("pause", {}).values():
                if setting["value"] is True and not payload["starting"]:
                    WORLD.note("paused", KERNEL.thread.process.name, version=setting["version"])
        super()._answer(command, body, say)


class NotedCensus(ReplyCollector):
    """Production's reply collector; what is counted is noted."""

    def hear(self, reply: Reply, at: float) -> bool:
        counted = super().hear(reply, at)
        if counted:
            world = WORLD
            world.note(
                "heard",
                KERNEL.thread.process.name,
                request=world.broker.operations.get(reply.request_id),
                target=reply.worker,
                value=reply.part,
            )
        return counted


class NotedLifecycle(TaskLifecycle):
    """Production's lifecycle; the loss of a child is noted, and what is refused."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        if outcome.kind is Ending.LOST:
            world, by = WORLD, KERNEL.thread.process.name
            key = (by, job.message.task_id, job.message.attempt)
            world.note("lost", by, task=key[1], attempt=key[2], run=world.run_of.get(key))
        super().ended(job, outcome)

    def _settle(self, delivery: Delivery, settlement: Settlement, *, may_follow: bool) -> None:
        record = settlement.record
        if delivery.started_at is None and record is not None and record.revocation is not None:
            version, by = record.revocation.version, KERNEL.thread.process.name
            WORLD.note("refused", by, task=delivery.task_id, attempt=record.attempt, version=version)
        super()._settle(delivery, settlement, may_follow=may_follow)


class Places(ClientPlaces):
    """The simulated store and backend."""

    def roster(self) -> Any:
        return WORLD.backend

    def revoke_store(self) -> Any:
        return WORLD.store

    def backend(self) -> Any:
        return WORLD.backend


class Client(SelectorClient):
    """Production's client over the simulated services. Where it never saw the roster's clock and its own is off is noted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.places = self._sender.places = Places(self.settings)
        self._seen, self._sender.roster_view = self._sender.roster_view, self._roster_view  # type: ignore[method-assign]

    def _roster_view(self, notes: list[str], until: float) -> Any:
        view = self._seen(notes, until)
        process = KERNEL.thread.process
        if view is None and process.skew and self._sender.roster_clock.now(longest=float("inf")) is None:
            WORLD.note("fault", target=process.name, value="skewed, and has not seen the roster")
        return view


class Undoer(revocations_module.RevocationClient):
    """Production's client for undos, over the simulated services."""

    def __init__(self, client: Client) -> None:
        super().__init__(SETTINGS)
        self._control, self._places, self._clock = client, client.places, client._clock


# -- children -------------------------------------------------------------------------------------------------------------


class PipeHandle:
    """One end of a pipe, until it is given away."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.given = False

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if not self.given:
            threads.FDS.close(self._fd)


class ChildProcess:
    """A process that runs production's loop of a child over the ends that it is given."""

    def __init__(self, setup: ChildSetup, handles: tuple[PipeHandle, PipeHandle]) -> None:
        parent = KERNEL.thread.process
        process = self._process = KERNEL.process(f"{parent.name}/child")
        process.worker, process.group = parent.name, parent.group
        self.pid = process.pid
        sentinel = threads.FDS.new(parent)
        self.sentinel = sentinel.fd
        for handle in handles:
            handle.given = True
            threads.FDS[handle.fileno()].owner = process

        def exited() -> None:
            if (ran := WORLD.running.get(process)) is not None:
                WORLD.note("dead", parent.name, **ran)
            threads.FDS.close_all_of(process)
            sentinel.hung_up = True
            sentinel.touched()

        process.on_exit.append(exited)

        def main() -> None:
            pipe, jobs = handles
            child.serve(ChildPipe(pipe.fileno(), JobQueueReader(jobs)), setup, Life())
            KERNEL.kill(process, 0)

        KERNEL.spawn(process, main, name="child")

    @property
    def exitcode(self) -> int | None:
        return self._process.status

    def join(self, timeout: float | None = None) -> None:
        """Its end is immediate here."""


class ChildLauncher:
    """:class:`stem_kombu.execution.pool.launcher.ChildLauncher` of the simulated machine."""

    descriptors: tuple[int, ...] = ()

    def __init__(self, setup: ChildSetup, start_method: str, clock: Clock) -> None:
        self._setup, self._clock = setup, clock

    def begin(self) -> None:
        """Nothing has to be forked here."""

    def end(self) -> None:
        """Nothing was."""

    def launch(self, slot: int, foreign: object) -> ChildHandle:
        queue = ChildJobQueue(self._clock)
        ours, theirs = threads.FDS.pair(KERNEL.thread.process)
        process = ChildProcess(self._setup, (PipeHandle(theirs.fd), PipeHandle(queue.childs_end())))
        return ChildHandle(slot, process, PipeHandle(ours.fd), queue, self._clock)


class Life(ChildLife):
    """A child of the simulated machine."""

    def begin(self, setup: ChildSetup, end: ChildPipe) -> bool:
        end.watch_over()
        leads = not WORLD.leaderless or KERNEL.draw() >= WORLD.leaderless
        return leads and groups.lead_a_group()

    def load(self, setup: ChildSetup) -> tuple[TaskRegistry, HookTable]:
        return REGISTRIES["mixed"], HookTable()

    def finish(self, hooks: HookTable, loop: ChildLoop) -> None:
        """There are no hooks."""

    def leave(self) -> None:
        groups.end_own_group(0)


def _signalled(process: Process, number: int) -> None:
    value, facts = signal.Signals(number).name.removeprefix("SIG").lower(), WORLD.running.get(process, {})
    WORLD.note("signalled", KERNEL.thread.process.name, target=process.name, value=value, **facts)


# -- wiring ---------------------------------------------------------------------------------------------------------------

#: Every name of production that the simulation has something else in the place of, beside the four modules of
#: :mod:`tests.simulation.ports`. The first five are observers: what they add is a note.
PATCHED: dict[Any, dict[str, Any]] = {
    worker_module: {
        "TaskLifecycle": NotedLifecycle,
        # A file outlives its process.
        "StartLog": lambda *_: SimpleNamespace(start=lambda: None, stop=lambda: None, note=lambda message: None),
    },
    listener: {"CommandServer": NotedReception},
    command_request: {"ReplyCollector": NotedCensus},
    resources: {"RevocationCache": NotedCache},
    delivery_facts: {"ActiveRules": NotedRules},
    spawning: {"ChildLauncher": ChildLauncher},
    # Tasks take long here, as everything does: more of them count as short.
    timeouts: {"JOB_QUEUE_WORK": 4.0},
}


def wire() -> None:
    """Put the simulated world under production code, for the rest of this process's life."""
    doubles.register()
    threads.Signals.observe = staticmethod(_signalled)
    for module, names in PATCHED.items():
        for name, value in names.items():
            if not hasattr(module, name):
                raise AttributeError(f"{module.__name__} has no {name} to stand in for")
            setattr(module, name, value)


# -- processes ------------------------------------------------------------------------------------------------------------


class WorkerNode:
    """A worker that is started again when it ends, as a service manager does."""

    def __init__(self, name: str, kinds: str, *, concurrency: int, prefetch: int) -> None:
        self.name = name
        self._kinds = kinds
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._lives = 0
        self.process: Process = NOWHERE
        self.worker: Worker | None = None
        self.ready = False
        self.stops = False
        #: Whether an operator may shut it down: then its process ends with it.
        self.obeys_shutdowns = False

    def start(self) -> None:
        self._lives += 1
        self.process = KERNEL.process(f"{self.name}#{self._lives}")
        self.ready = self.stops = False
        WORLD.note("up", self.process.name)
        process = self.process
        process.on_exit.append(lambda: self._gone(process))
        KERNEL.spawn(process, self._main, process)

    def _gone(self, process: Process) -> None:
        WORLD.note("down", process.name)
        threads.FDS.close_all_of(process)
        self.ready = False
        KERNEL.at(0.2 + KERNEL.draw(), self._restart)

    def _restart(self) -> None:
        if not self.process.alive:
            self.start()

    def _main(self, process: Process) -> None:
        worker: Worker = Worker(
            App(WORLD, self._kinds),  # type: ignore[arg-type]
            name=self.name,
            concurrency=self._concurrency,
            inline_slots=2,
            prefetch_multiplier=self._prefetch,
            hydration_timeout=6.0,
            clock=SimClock(process),
        )
        self.worker = worker
        try:
            worker.start()
        except StemError:
            KERNEL.kill(process, 1)
            return
        if self.process is process:
            self.ready = True
            WORLD.note("ready", process.name)
        if self.obeys_shutdowns:
            worker._life.ended.wait()
            KERNEL.kill(process, 0)

    def stop(self, timeout: float | None) -> None:
        """As SIGTERM does."""
        worker, process = self.worker, self.process
        if worker is None or not process.alive or not self.ready:
            return
        self.stops = True
        WORLD.note("stopping", process.name)

        def main() -> None:
            worker.stop(timeout)
            KERNEL.kill(process, 0)

        KERNEL.spawn(process, main, name="stop")
