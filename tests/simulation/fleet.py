"""Workers and clients of production code in the simulated world: what is wired in, and what is noted of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import stem_kombu.concurrency.wakeup
from stem_kombu.agent import agent as control_agent
from stem_kombu.agent import claims, directive_loop, heartbeats, held_directives, hydration, leases, resources
from stem_kombu.agent import view as agent_view
from stem_kombu.backends.processes import Presence
from stem_kombu.concurrency import service as background
from stem_kombu.concurrency import thread_pool
from stem_kombu.context import TaskContext, TaskReleased, TaskRevoked
from stem_kombu.control import auditor
from stem_kombu.control.client import client as client_module
from stem_kombu.control.client import command_request as question
from stem_kombu.control.client import connections as client_connections
from stem_kombu.control.client import directives as directives_module
from stem_kombu.control.client import roster_reader as lookout
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.places import ClientPlaces
from stem_kombu.control.client.reply_collector import ReplyCollector
from stem_kombu.control.protocol.messages import Command, Obey, Reply, Revoke, Shutdown
from stem_kombu.control.server import dispatch, listener, subscription
from stem_kombu.control.server import reply_publisher as outbox
from stem_kombu.control.server import worker_view as base
from stem_kombu.control.server.command_server import CommandServer
from stem_kombu.control.server.handlers import ping, stats
from stem_kombu.control.server.handlers.directives import obey
from stem_kombu.errors import LeaseLost, StemError
from stem_kombu.execution import handlers, inline
from stem_kombu.execution.base import Job
from stem_kombu.execution.child import main as child
from stem_kombu.execution.child import pipe as child_pipe
from stem_kombu.execution.child import signals as child_signals
from stem_kombu.execution.pool import child_handle, child_watch, job_queue, pool, spawning
from stem_kombu.hooks import HookTable
from stem_kombu.messages.resending import resent
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied, RevocationCache
from stem_kombu.settings import Settings
from stem_kombu.task import Task, TaskMessage, TaskOptions, TaskRegistry
from stem_kombu.transports import connections, outages
from stem_kombu.worker import (
    active_limits,
    consumer,
    delivery_facts,
    lifecycle,
    limit_service,
    lost_workers,
    record_writer,
    recorder,
    retry_publisher,
    stop_orders,
)
from stem_kombu.worker import delayed as holds
from stem_kombu.worker import deliveries as inflight
from stem_kombu.worker import worker as worker_module
from stem_kombu.worker.outcome_places import OutcomePlaces
from stem_kombu.worker.task_lifecycle import TaskLifecycle
from stem_kombu.worker.worker import Worker
from tests.faults.history import Event, History
from tests.simulation import doubles, threads
from tests.simulation.kernel import KERNEL, NOWHERE, Process
from tests.simulation.services import Broker, Net, SimBackend, SimClock, SimStore

NAMESPACE = "sim"
SETTINGS = replace(
    Settings.from_env({}, broker="memory://", backend="memory://", revoke_store="memory://", namespace=NAMESPACE),
    sync_interval=1.0,
    heartbeat_interval=2.0,
    celery_events=False,
    health_file="off",
    celery_results=None,
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
        self.operations: dict[str, str | None] = {}
        self.runs = 0
        #: (worker, task, attempt) -> the latest run of it
        self.run_of: dict[tuple[str, str, int], str] = {}

    def note(self, kind: str, by: str = "", **facts: Any) -> None:
        if not KERNEL.over:
            self.history.add(Event(kind, KERNEL.now, by, **facts))


#: The world of the schedule that runs.
WORLD: World = World(leases=False, skews=(0.0, 0.0))


def enter(world: World) -> None:
    global WORLD
    WORLD = world


# -- handlers -------------------------------------------------------------------------------------------------------------


def _work(context: TaskContext, steps: int, pause: float, ending: str) -> None:
    world = WORLD
    by = KERNEL.thread.process.worker
    world.runs += 1
    run, task, attempt = f"r{world.runs}", context.task_id, context.attempt
    world.run_of[by, task, attempt] = run
    world.note("started", by, task=task, attempt=attempt, run=run, value="cleans")
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

    def load(self) -> None:
        """Its tasks are there."""

    def __init__(self, world: World, kinds: str) -> None:
        self._world = world
        self.kinds = kinds
        self.registry = REGISTRIES[kinds]
        self.backend = world.backend

    def open_revoke_store(self) -> SimStore:
        return self._world.store


class Resender:
    """What publishes next attempts, as production encodes them."""

    def __init__(self) -> None:
        self._world = WORLD

    def send(self, message: TaskMessage) -> None:
        world = self._world
        assert message.original is not None
        world.net.reach("broker", doubles.BrokerUnavailable)
        world.broker.publish(message, resent(message, message.original))
        world.net.reach("broker", doubles.BrokerUnavailable)

    def close(self) -> None:
        """Nothing is open."""


class NotedCache(RevocationCache):
    """Production's cache; what comes into force is noted."""

    def apply(self, records: Iterable[Revocation], now: datetime) -> Applied:
        records = list(records)
        done = super().apply(records, now)
        if done.applied:
            world, by = WORLD, KERNEL.thread.process.name
            for record in records:
                if record.task_id in done.applied:
                    world.note("applied", by, task=record.task_id, version=record.version, terminate=record.terminate)
        return done


class NotedReception(CommandServer):
    """Production's reception; what is obeyed is noted."""

    def _obey(self, command: Command, say: Any) -> None:
        world = WORLD
        world.note("obeyed", KERNEL.thread.process.name, request=world.operations.get(command.request_id))
        if isinstance(command.order, Shutdown):
            world.note("stopping", KERNEL.thread.process.name)
        super()._obey(command, say)


def _noted_obey(order: Obey, view: Any, budget: Callable[[], float]) -> dict[str, Any]:
    """Production's handler; that a worker answers to a pause is noted."""
    payload = obey(order, view, budget)
    for setting in payload["settings"].get("pause", {}).values():
        if setting["value"] is True and not payload["starting"]:
            WORLD.note("paused", KERNEL.thread.process.name, version=setting["version"])
    return payload


class NotedCensus(ReplyCollector):
    """Production's reply collector; what is counted is noted."""

    def hear(self, reply: Reply, at: float) -> bool:
        counted = super().hear(reply, at)
        if counted:
            world = WORLD
            world.note(
                "heard",
                KERNEL.thread.process.name,
                request=world.operations.get(reply.request_id),
                target=reply.worker,
                value=reply.part,
            )
        return counted


class NotedLifecycle(TaskLifecycle):
    """Production's lifecycle; the loss of a child is noted."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        if outcome.kind is Ending.LOST:
            world, by = WORLD, KERNEL.thread.process.name
            key = (by, job.message.task_id, job.message.attempt)
            world.note("lost", by, task=key[1], attempt=key[2], run=world.run_of.get(key))
        super().ended(job, outcome)


class Places(ClientPlaces):
    """The simulated store and backend."""

    def roster(self) -> Any:
        return WORLD.backend

    def revoke_store(self) -> Any:
        return WORLD.store

    def backend(self) -> Any:
        return WORLD.backend


class Client(ControlClient):
    """Production's client over the simulated services. Where it never saw the roster's clock and its own is off is noted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._places = Places(self.settings)

    def _roster_view(self, notes: list[str], until: float) -> Any:
        view = super()._roster_view(notes, until)
        process = KERNEL.thread.process
        if view is None and process.skew and self._roster_clock.now(longest=float("inf")) is None:
            WORLD.note("fault", target=process.name, value="skewed, and has not seen the roster")
        return view

    def _connection_template(self) -> Any:
        return doubles.Template(WORLD.broker)


def _encode_command(command: Command, keyring: Any = None) -> bytes:
    body = _real_encode(command, keyring)
    world = WORLD
    world.operations[command.request_id] = KERNEL.thread.process.operation
    if isinstance(command.order, Revoke):
        world.broker.revoking[body] = command.order.revocations
    return body


_real_encode = question.encode_command


# -- children -------------------------------------------------------------------------------------------------------------


class PipeHandle:
    """One end of :func:`billiard.Pipe`, until it is given away."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.given = False

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if not self.given:
            threads.FDS.close(self._fd)


class ChildProcess:
    """:class:`billiard.Process`."""

    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...], name: str) -> None:
        self._target = target
        self._args = args
        self.daemon = False

    def start(self) -> None:
        parent = KERNEL.thread.process
        process = self._process = KERNEL.process(f"{parent.name}/child")
        process.worker = parent.name
        self.pid = process.pid
        sentinel = threads.FDS.new(parent)
        self.sentinel = sentinel.fd
        handles: tuple[PipeHandle, PipeHandle] = self._args[:2]
        for handle in handles:
            handle.given = True
            threads.FDS[handle.fileno()].owner = process

        def exited() -> None:
            threads.FDS.close_all_of(process)
            sentinel.hung_up = True
            sentinel.touched()

        process.on_exit.append(exited)

        def main() -> None:
            self._target(*self._args)
            KERNEL.kill(process, 0)

        KERNEL.spawn(process, main, name="child")

    @property
    def exitcode(self) -> int | None:
        return self._process.status

    def join(self, timeout: float | None = None) -> None:
        """Its end is immediate here."""


def _pipe(duplex: bool) -> tuple[PipeHandle, PipeHandle]:
    ours, theirs = threads.FDS.pair(KERNEL.thread.process)
    return PipeHandle(ours.fd), PipeHandle(theirs.fd)


_context = SimpleNamespace(Process=ChildProcess, set_forkserver_preload=lambda modules: None)
_connection = SimpleNamespace(Connection=lambda fd, writable: PipeHandle(fd))
_billiard = SimpleNamespace(Pipe=_pipe, get_context=lambda method: _context, connection=_connection)


class _Groups:
    """Of processes, which are none here: a child is killed alone."""

    open_pidfd = started_at = staticmethod(lambda pid: None)

    @staticmethod
    def kill(pid: int) -> None:
        with suppress(ProcessLookupError):
            threads.os.kill(pid, signal.SIGKILL)

    kill_leaderless = staticmethod(lambda group, since: [])


class _ForkServer:
    """Nothing has to be forked here."""

    def __init__(self, setup: Any) -> None:
        pass

    descriptor = -1
    start = stop = lambda self: None
    in_use = nullcontext


class _NoLeftovers:
    due = float("inf")

    def __init__(self, clock: Any) -> None:
        pass

    def begin(self) -> None:
        """No process has outlived its worker."""

    def tend(self, now: float) -> None:
        """The same."""


# -- wiring ---------------------------------------------------------------------------------------------------------------


def _token(size: int = 16) -> str:
    return f"{int(KERNEL.draw() * (1 << 52)):013x}"


def _presence(process: Any, hostname: str, pid: int, here: Any, our_hostname: str) -> Presence:
    lives = any(process.pid == pid and process.alive for process in KERNEL.processes)
    return Presence.ALIVE if lives else Presence.GONE


class OwnServers(dict[Any, Any]):
    """What a process knows of servers, for each simulated process."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((KERNEL.thread.process, key), default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        return super().setdefault((KERNEL.thread.process, key), default)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__((KERNEL.thread.process, key))


def _current_clock() -> SimClock:
    return SimClock(KERNEL.thread.process)


def wire() -> None:
    """Put the simulated world under production code, for the rest of this process's life."""
    chance = SimpleNamespace(random=lambda: KERNEL.draw(), uniform=lambda low, high: low + KERNEL.draw() * (high - low))
    secret = SimpleNamespace(token_hex=_token)
    clock = SimpleNamespace(
        sleep=KERNEL.sleep,
        utcnow=lambda: _current_clock().utcnow(),
        now=lambda: _current_clock().now(),
        monotonic=lambda: KERNEL.now,
    )
    for module in (
        worker_module, lifecycle, inflight, hydration, heartbeats, holds, leases, recorder, record_writer,
        retry_publisher, consumer, held_directives, directive_loop, active_limits, limit_service, stop_orders,
        thread_pool, listener, lookout, outbox, pool, inline, child_pipe, background,
        stem_kombu.concurrency.wakeup,
    ):  # fmt: skip
        module.threading = threads.threading  # type: ignore[attr-defined]
    for module in (
        stem_kombu.concurrency.wakeup, job_queue, spawning, child_handle, child, child_pipe, inline,
        worker_module, lifecycle, claims, base,
    ):  # fmt: skip
        module.os = threads.os  # type: ignore[attr-defined]
    for module in (job_queue, child_signals, inline, handlers):
        module.monotonic = lambda: KERNEL.now  # type: ignore[attr-defined]
    for module in (delivery_facts, connections, subscription, auditor):
        module.random = chance  # type: ignore[attr-defined]
    for module in (base, question, client_module, auditor, directives_module):
        module.secrets = secret  # type: ignore[attr-defined]
    for module in (heartbeats, agent_view):
        module.rss_bytes = module.load_avg = lambda: None  # type: ignore[attr-defined]
    for module in (question, client_module, directives_module):
        module.default_requester = lambda: "operator"  # type: ignore[attr-defined]
    for module in (ping, stats, child_pipe):
        module.SYSTEM = clock  # type: ignore[attr-defined]

    replaced: dict[Any, dict[str, Any]] = {
        outages: {"_servers": OwnServers()},
        record_writer: {"queue": threads.queue},
        retry_publisher: {"queue": threads.queue},
        pool: {"LeftoverReaper": _NoLeftovers},
        child_watch: {"selectors": threads.selectors},
        spawning: {
            "billiard": _billiard,
            "_main_module_hidden": nullcontext,
            "_right_interpreter": nullcontext,
            "held_back": nullcontext,
            "ForkServer": _ForkServer,
            "is_supported": lambda: True,
        },
        # Where an exception came from is nobody's evidence, and to write it down costs as much as the checker.
        handlers: {"tracebacks": SimpleNamespace(format_exception=lambda *_: ["Traceback"])},
        # Tasks take long here, as everything does: more of them count as short.
        child_handle: {"rss_of": lambda pid: None, "MOST_WORK": 4.0, "groups": _Groups},
        job_queue: {"socket": threads.socket, "billiard": _billiard},
        child_pipe: {"select": threads.select, "end_own_group": lambda status: threads.os._exit(status)},
        child: {
            "leave_signals_to_the_worker": lambda: None,
            "become_a_child": lambda setup, end: end.watch_over() or False,
            "leave_with_the_group": lambda: threads.os._exit(0),
            "finish": lambda hooks, loop: None,
            "load": lambda setup: (REGISTRIES["mixed"], HookTable()),
            "rss_bytes": lambda: None,
        },
        heartbeats: {"Process": SimpleNamespace(here=lambda: None)},
        claims: {"presence": _presence, "socket": SimpleNamespace(gethostname=lambda: "host")},
        lost_workers: {
            "Process": SimpleNamespace(here=lambda: None),
            "presence": _presence,
            "socket": SimpleNamespace(gethostname=lambda: "host"),
        },
        base: {"socket": SimpleNamespace(gethostname=lambda: "host")},
        listener: {"CommandServer": NotedReception},
        dispatch: {"obey": _noted_obey},
        auditor: {"socket": SimpleNamespace(gethostname=lambda: "host")},
        question: {"ReplyCollector": NotedCensus, "encode_command": _encode_command},
        client_connections: {
            "broker_connection": lambda settings: doubles.Template(WORLD.broker),
            "open_transport": doubles.Transport,
        },
        agent_view: {"mask_url": lru_cache(agent_view.mask_url)},
        worker_module: {
            "StartLog": lambda *_: SimpleNamespace(start=lambda: None, stop=lambda: None, note=lambda message: None),
            "broker_connection": lambda settings: doubles.Template(WORLD.broker),
            "open_resender": lambda *_: Resender(),
            "open_outcome_places": lambda states, settings: OutcomePlaces(states),
            "TaskLifecycle": NotedLifecycle,
        },
        resources: {
            "open_transport": doubles.Transport,
            "RevocationCache": NotedCache,
        },
        control_agent: {
            "warn_of_routes": lambda settings: None,
        },
    }
    for module, names in replaced.items():
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
