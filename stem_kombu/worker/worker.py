"""The worker: its parts, and the order in which they start and stop.

Children start first (they must not inherit a socket), then the control agent, and the consumer last: no task is consumed before
the revoke store has been read. They stop in reverse, and commands are answered until the end (G16).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.agent.agent import AgentOptions, ControlAgent
from stem_kombu.agent.leases import Leases
from stem_kombu.agent.resources import Resources
from stem_kombu.agent.start_warnings import warn_of_places
from stem_kombu.app import Stem
from stem_kombu.backends.base import Roster
from stem_kombu.backends.celery_results import open_celery_results
from stem_kombu.celery_monitors.service import CeleryMonitorService
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency.service import watched_by
from stem_kombu.drivers import forking
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.child.setup import ChildOptions
from stem_kombu.execution.executors import Executors
from stem_kombu.logs import LogSetup
from stem_kombu.messages.signatures import task_verifier
from stem_kombu.processors import usable_processors
from stem_kombu.settings import Settings
from stem_kombu.task import Mode
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.existing import beside
from stem_kombu.transports.names import checked_queue_name
from stem_kombu.transports.producer import open_resender
from stem_kombu.worker.admission import FETCHED_LATELY, Admission
from stem_kombu.worker.consumer import Consumer
from stem_kombu.worker.delayed import DelayedDeliveries
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.lifecycle import Lifecycle, State, Step
from stem_kombu.worker.lost_workers import LostWorkers
from stem_kombu.worker.prefetch_policy import Load, PrefetchPolicy
from stem_kombu.worker.recorder import Recorder
from stem_kombu.worker.scheduled import ScheduledRevoked
from stem_kombu.worker.signals import Departure, StopSignals, run_until_stopped
from stem_kombu.worker.start_log import StartLog
from stem_kombu.worker.task_lifecycle import TaskLifecycle
from stem_kombu.worker.totals import Totals
from stem_kombu.worker.view import WorkerParts, WorkerTasks

if TYPE_CHECKING:
    from kombu import Connection
    from kombu.connection import ConnectionPool

logger = logging.getLogger(__name__)

#: Beginnings of the names of threads that a stop waits for, beside those of inline tasks.
_OWN_THREADS = ("stem-control", "stem-consumer", "stem-recorder", "stem-heartbeats", "stem-hydration", "stem-loop")


class Worker:
    """Runs an application's tasks and answers control commands, in the background of this process.

    ``start()`` returns once it consumes and may be called twice; ``stop()`` returns once it is down and may be called before
    start and twice; ``with worker:`` does both. It installs no signal handlers and needs no main thread; :meth:`run` is the
    blocking form that the command line uses. A worker starts once: make a new one to start again.

    ``connection`` is an existing Kombu connection to work beside, a pool of them, or the text of a URL: it is cloned, never
    used itself, and its clones get heartbeat, timeouts and lease of Stem's own. ``concurrency`` is the number of processors
    that this process may use unless given; slots, prefetch, queues and heartbeat are then those of the settings. Spans are
    seconds, ``max_rss_per_child`` bytes. ``start_method`` is billiard's (``forkserver``, ``spawn``, ``fork``), ``preload``
    what its fork server imports, ``log`` how children log. This process's own logging is left alone.
    """

    def __init__(
        self,
        app: Stem,
        *,
        connection: Connection | ConnectionPool | str | None = None,
        name: str | None = None,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        inline_slots: int | None = None,
        prefetch_multiplier: int | None = None,
        heartbeat_interval: float | None = None,
        allow_unsynced: bool = False,
        max_tasks_per_child: int | None = None,
        max_rss_per_child: int | None = None,
        start_method: str = "forkserver",
        preload: str = "auto",
        log: LogSetup | None = None,
        hydration_timeout: float = timeouts.HYDRATION,
        clock: Clock = SYSTEM,
    ) -> None:
        app.load()
        settings = app.settings
        counts = {"concurrency": concurrency, "inline_slots": inline_slots, "prefetch_multiplier": prefetch_multiplier}
        for option, number in counts.items():
            if number is not None and number < 1:
                raise ConfigurationError(f"{option} {number!r} must be at least 1")
        self.app = app
        self.settings: Settings = settings
        self.clock = clock
        self.queues = tuple(map(checked_queue_name, queues or settings.worker_queues or (settings.default_queue,)))
        self.concurrency = concurrency or usable_processors()
        self._options = AgentOptions(
            settings.heartbeat_interval if heartbeat_interval is None else heartbeat_interval,
            hydration_timeout,
            allow_unsynced,
            sweeps=True,
            commands=app.control_commands,
        )
        self._multiplier = settings.prefetch_multiplier if prefetch_multiplier is None else prefetch_multiplier
        self._connection, self._name = connection, name
        self._inline_slots = inline_slots or settings.inline_slots
        self._children = ChildOptions(max_tasks_per_child, max_rss_per_child, start_method, preload, log)
        self._make()

    def _make(self) -> None:
        """Make the parts, for a worker of this process; none of them connects or starts a thread yet."""
        self._is_left = False
        self._departure = Departure(self.stop)
        with watched_by(self._departure.watch):
            self._open()
            self._make_tasks()
            self._make_agent()
        forking.renew_in_children(self)

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`: this worker stays the parent's."""
        if self._life.state is not State.NEW and not self._is_left:
            # Once: in what this process forks in turn, the same numbers may be pipes of other parts.
            self._is_left = True
            self.executor.leave_to_parent()

    def _open(self) -> None:
        app, settings, given = self.app, self.settings, self._connection
        template: Any = broker_connection(settings) if given is None else beside(given, settings)
        self._resender = open_resender(template, settings)
        roster: Roster | None = app.backend  # before the store, which may be at the URL of a backend that is refused
        self.resources = Resources(
            settings, template, app.open_revoke_store(), roster, name=self._name, clock=self.clock
        )
        self.identity, self.cache = self.resources.identity, self.resources.cache
        self.broker_url, self.store_url = self.resources.broker_url, self.resources.store.url
        self.transport = self.resources.transport.name
        self._life = Lifecycle(self, self.identity.worker)

    def _make_tasks(self) -> None:
        app, settings, clock, resources = self.app, self.settings, self.clock, self.resources
        broker, worker = resources.transport, self.identity.worker
        self.totals = Totals()
        self.inflight = InFlight(clock)
        self.steering = TaskLifecycle(
            worker,
            self.inflight,
            self.cache,
            self.totals,
            default_max_retries=settings.default_max_retries,
            reject=lambda raw: raw.reject(),
            ensure_fresh=self._ensure_fresh,
            still_held=lambda generation: leasing is not None or self.consumer.still_holds(generation),
            clock=clock,
        )
        self.hydration = resources.hydration(self.steering)
        modes = {task.mode for task in app.registry}
        isolates = self.concurrency if Mode.ISOLATE in modes else 0
        inline = self._inline_slots if Mode.INLINE in modes or not isolates else 0
        self.executor = Executors.build(
            app,
            self.steering,
            isolates=isolates,
            inline=inline,
            children=self._children.of_worker(worker),
            clock=clock,
        )
        self._credit = PrefetchPolicy(isolates, inline, self._multiplier)
        self.intake_holds = DelayedDeliveries(
            due=self.steering.due,
            repark=self.steering.repark,
            give_back=self.steering.give_back,
            changed=lambda: self.consumer.wake(),
            longest=broker.capabilities.longest_hold,
            low_first=broker.capabilities.low_priority_first,
            clock=clock,
        )
        leasing = broker.leases()
        self.steering.lost_workers = LostWorkers(
            resources.roster,
            settings.namespace,
            self.identity.boot,
            most=settings.max_lost_workers,
            default_max_retries=settings.default_max_retries,
        )
        self.steering.starts = StartLog(app.backend, settings.namespace, worker, self.identity.boot, clock)
        self.intake = Admission(
            app.registry,
            self.inflight,
            self.cache,
            app.backend,
            self.intake_holds,
            self.steering,
            ensure_fresh=self._ensure_fresh,
            still_held=lambda raw, generation, looked: (
                self.leases.still_holds(raw, clock.monotonic() - self.consumer.fetched_at)
                and (leasing is not None or not looked or self.consumer.still_holds(generation))
            ),
            leased=leasing is not None,
            lost_workers=self.steering.lost_workers,
            worker=worker,
            clock=clock,
            signed=task_verifier(settings.signing, resources.verifier.keyring),
            has_dead_letters=broker.has_dead_letters,
        )
        self.consumer = Consumer(
            broker,
            self.queues,
            self.inflight,
            allowance=self._allowance,
            receive=self.intake.receive,
            garbage=self.intake.garbage,
            reconnected=self.hydration.nudge,
            lost=self.steering.connection_lost if leasing is None else lambda: None,
            clock=clock,
            scheduled=ScheduledRevoked(self.cache, clock).look,
        )
        self.recorder = Recorder(
            app.backend,
            self.inflight,
            send=self._resender.send,
            finish=self.consumer.finish,
            clock=clock,
            worker=worker,
            broker_url=self.broker_url,
            celery=open_celery_results(settings.celery_results, settings.tls),
            still_held=lambda held: leasing is not None or self.consumer.still_holds(held.generation),
        )
        steering = self.steering
        self.leases: Leases[Delivery] = Leases(leasing, self.inflight, lost=steering.lease_lost, clock=clock)
        steering.executor, steering.recorder, steering.past = self.executor, self.recorder, self.intake.past
        steering.holds, steering.leases, steering.credit = self.intake_holds, self.leases, self._credit

    def _make_agent(self) -> None:
        clock, resources = self.clock, self.resources
        monitors = DropCounter("messages of Celery's remote control", clock)
        tasks = WorkerTasks(
            WorkerParts(
                self._life,
                self._departure.watch,
                self.inflight,
                self.steering,
                self.executor,
                self.consumer,
                self.totals,
                concurrency=self.concurrency,
                transport=self.transport,
                lease=self.leases.lifetime,
                clock=clock,
            )
        )
        options = replace(self._options, dropping={"tasks": self.intake, "celery": monitors})
        self.agent = ControlAgent(resources, self.hydration, tasks, options)
        self.view = self.agent.view
        self._celery_monitors: CeleryMonitorService | None = None
        exchange = resources.transport.capabilities.monitor_exchange
        if self.settings.celery_events and exchange is not None:
            self._celery_monitors = CeleryMonitorService(
                resources.template,
                self.view,
                self.app.registry.names,
                self.agent.revoke,
                clock=clock,
                drops=monitors,
                exchange=exchange,
                closed=resources.verifier.keyring is not None,
            )
            self.steering.events = self._celery_monitors.events

    # -- life -----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``new``, ``starting``, ``running``, ``draining`` or ``stopped``."""
        return str(self._life.state.value)

    def start(self) -> Worker:
        """Return once this worker is on the roster and consumes; or, where :meth:`stop` was called meanwhile, is down again.

        A worker that was made before a fork is another one in each child that starts it.
        Raises :class:`~stem_kombu.errors.StoreUnavailable` when the revoke store could not be read in time,
        :class:`~stem_kombu.errors.BrokerUnavailable`, :class:`~stem_kombu.errors.ExecutionError` when children can't
        start, or :class:`ConfigurationError` for a worker id that is taken; then nothing is left running.
        """
        if self._life.is_copy and self._life.state is State.NEW:
            self._make()
        self._life.start()
        return self

    def stop(self, timeout: float | None = None) -> None:
        """Stop fetching, let what runs finish, and return when everything is down (G20).

        After ``timeout`` seconds what still runs goes back to the queue: asked to stop at its next checkpoint, then
        isolates are killed. Nothing is ever recorded as cancelled by this. A :meth:`start` that waits in another thread raises.

        It returns at once, and the worker stops all the same, where it would wait for its own caller: in a signal handler
        that interrupts a start or a stop, and in a task of this worker. In a forked child it does nothing.
        """
        self._life.stop(timeout)

    def steps(self) -> list[Step]:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`."""
        return [
            (partial(self.app.hooks.start_worker, self), partial(self.app.hooks.stop_worker, self)),
            (self.executor.start, lambda: self.executor.stop(0.0)),
            *self.agent.steps(),
            (self.recorder.start, lambda: self.recorder.stop(0.0)),
            (self.leases.start, self.leases.stop),
            (self.intake_holds.start, self.intake_holds.stop),
            (self.steering.starts.start, self.steering.starts.stop),
            (self.consumer.start, self.consumer.stop),
            *([(self._celery_monitors.start, self._celery_monitors.stop)] if self._celery_monitors is not None else []),
        ]

    def drain(self, timeout: float | None) -> None:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`; :meth:`stop` is what to call."""
        self.agent.heartbeats.nudge()
        self.steering.stopping()
        self.consumer.quiesce()
        self.steering.release_held()
        self.executor.stop(timeout)
        self.intake_holds.stop()
        self.steering.release_held()
        self.recorder.stop(None if timeout is None else max(5.0, timeout))
        self.consumer.stop()
        self.leases.stop()
        self.agent.leave()
        if self._celery_monitors is not None:
            self._celery_monitors.stop()
        self.agent.stop()
        self.close()
        self.app.hooks.stop_worker(self)

    def release(self) -> None:
        """While :meth:`stop` waits: send what runs, and what a backend that is away can't record, back to the queue now
        (the second signal)."""
        if self._life.is_copy:
            return
        self.steering.release_running()
        self.executor.hurry()
        self.recorder.hurry()

    def run(self, on_ready: Callable[[Worker], None] | None = None, *, signals: bool | StopSignals = True) -> None:
        """Start, call ``on_ready(self)``, and return when the worker was stopped, by :meth:`stop` or a signal. Raises
        :class:`~stem_kombu.errors.ExecutionError` when it stopped because one of its threads could not go on.

        With ``signals`` the first SIGTERM, SIGINT or SIGHUP drains, a later one returns what runs to the queue.
        """
        run_until_stopped(
            self,
            lambda: self._life.ended,
            partial(self._is_ready, on_ready),
            gave_up=lambda: self.hydration.gave_up,
            signals=signals,
        )
        self._departure.check()

    def __repr__(self) -> str:
        return f"<Worker {self.identity.worker}: {self.state}, queues {', '.join(self.queues)}>"

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _is_ready(self, on_ready: Callable[[Worker], None] | None) -> None:
        warn_of_places(self.identity, self.resources.template, self.resources.store, self.app.backend)
        if on_ready is not None:
            on_ready(self)

    # -- inside -------------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`."""
        self.agent.give_up()
        if self._life.state is State.STARTING:  # it may be waiting for queues that the broker does not give
            threading.Thread(target=self.consumer.stop, name="stem-give-up", daemon=True).start()

    def is_own_thread(self) -> bool:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`."""
        return self.executor.runs_caller() or threading.current_thread().name.startswith(_OWN_THREADS)

    def _allowance(self) -> int:
        # What waits for its eta takes no slot, so it must not use up the allowance.
        load = self.inflight.load() if self._credit.is_mixed else Load(0, 0)
        return self._credit.allowance(load, self.clock.monotonic(), self.intake_holds.aside) + self.intake_holds.count

    def _ensure_fresh(self) -> bool:
        # Whether to look at the connection too: the store may have taken its time, or nothing was read from it for a while.
        return self.hydration.ensure_fresh() or self.clock.monotonic() - self.consumer.fetched_at > FETCHED_LATELY

    def close(self) -> None:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`."""
        self._resender.close()
        self.resources.close()
