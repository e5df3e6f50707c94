"""The worker: its parts, and the order in which they start and stop.

Children start first (they must not inherit a socket), then the control agent, and the consumer last: no task is consumed before
the revoke store has been read. They stop in reverse, and commands are answered until the end (G16).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.agent.active_rules import rule_subscribers
from stem_kombu.agent.agent import AgentOptions, ControlAgent
from stem_kombu.agent.resources import Resources
from stem_kombu.agent.start_warnings import warn_of_places
from stem_kombu.app import Stem, load
from stem_kombu.backends.base import Roster
from stem_kombu.celery_monitors.events import Events, node_name
from stem_kombu.celery_monitors.service import CeleryMonitorService
from stem_kombu.celery_monitors.verbs import Changes
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import watched_by
from stem_kombu.drivers import forking
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.child.setup import ChildOptions
from stem_kombu.execution.executors import Executors
from stem_kombu.health_page import DRAINING, RUNNING
from stem_kombu.logs import LogSetup
from stem_kombu.measures import Totals
from stem_kombu.messages.signatures import task_verifier
from stem_kombu.processors import usable_processors
from stem_kombu.publishing import DeclaredQueue
from stem_kombu.settings import Settings
from stem_kombu.task import Mode
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.existing import beside
from stem_kombu.transports.producer import open_resender
from stem_kombu.worker.ack_queue import AckQueue
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.admission import Admission
from stem_kombu.worker.consumer import Consumer
from stem_kombu.worker.delayed import HoldRules
from stem_kombu.worker.deliveries import InFlight
from stem_kombu.worker.delivery_facts import DeliveryFacts
from stem_kombu.worker.directive_service import DirectiveService
from stem_kombu.worker.intake import ConsumedQueues, Intake
from stem_kombu.worker.lifecycle import Lifecycle, State, Step
from stem_kombu.worker.lost_workers import LostWorkers
from stem_kombu.worker.notices import TaskNotices
from stem_kombu.worker.outcome_places import open_outcome_places
from stem_kombu.worker.ownership import Ownership
from stem_kombu.worker.prefetch_policy import PrefetchPolicy
from stem_kombu.worker.queue_choice import chosen_queues, declared_of
from stem_kombu.worker.recorder import Recorder
from stem_kombu.worker.scaling_service import OwnValues
from stem_kombu.worker.scheduled import ScheduledRevoked
from stem_kombu.worker.signals import Departure, StopSignals, run_until_stopped
from stem_kombu.worker.start_log import StartLog
from stem_kombu.worker.stop_orders import StopOrders
from stem_kombu.worker.task_history import TaskHistory
from stem_kombu.worker.task_lifecycle import TaskLifecycle
from stem_kombu.worker.view import WorkerParts, WorkerTasks

if TYPE_CHECKING:
    from kombu import Connection
    from kombu.connection import ConnectionPool

logger = logging.getLogger(__name__)

#: Beginnings of the names of threads that a stop waits for, beside those of inline tasks.
_OWN_THREADS = ("stem-control", "stem-consumer", "stem-records", "stem-heartbeats", "stem-hydration", "stem-loop")


class Worker:
    """Runs an application's tasks and answers control commands, in the background of this process.

    ``start()`` returns once it consumes and may be called twice; ``stop()`` returns once it is down and may be called before
    start and twice; ``with worker:`` does both. It installs no signal handlers and needs no main thread; :meth:`run` is the
    blocking form that the command line uses. A worker starts once: make a new one to start again.

    ``connection`` is an existing Kombu connection to work beside, a pool of them, or the text of a URL: it is cloned, never
    used itself, and its clones get heartbeat, timeouts and lease of Stem's own. ``concurrency`` is the number of processors
    that this process may use unless given, and no directive passes ``max_concurrency``; slots, prefetch, queues and heartbeat
    are then those of the settings. Spans are seconds, ``max_rss_per_child`` bytes. ``start_method`` is billiard's
    (``forkserver``, ``spawn``, ``fork``), ``preload``
    what its fork server imports, ``log`` how children log. This process's own logging is left alone.
    """

    def __init__(
        self,
        app: Stem,
        *,
        connection: Connection | ConnectionPool | str | None = None,
        name: str | None = None,
        queues: Sequence[str | DeclaredQueue] | None = None,
        concurrency: int | None = None,
        max_concurrency: int | None = None,
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
        ignore_directives: bool = False,
        clock: Clock = SYSTEM,
    ) -> None:
        load(app)
        settings = app.settings
        counts = {"concurrency": concurrency, "inline_slots": inline_slots, "prefetch_multiplier": prefetch_multiplier}
        for option, number in {**counts, "max_concurrency": max_concurrency}.items():
            if number is not None and number < 1:
                raise ConfigurationError(f"{option} {number!r} must be at least 1")
        self.app = app
        self.settings: Settings = settings
        self.clock = clock
        self.queues = chosen_queues(app, queues)
        self.concurrency = min(concurrency or usable_processors(), max_concurrency or 2**16)
        source, level = "flag" if concurrency else "default", (log or LogSetup.of_this_process()).level_name
        self._base = OwnValues(self.concurrency, source, max_concurrency, level, sets_levels=log is not None)
        self._options = AgentOptions(
            settings.heartbeat_interval if heartbeat_interval is None else heartbeat_interval,
            hydration_timeout,
            allow_unsynced,
            sweeps=True,
            commands=app.control_commands,
        )
        self._multiplier = settings.prefetch_multiplier if prefetch_multiplier is None else prefetch_multiplier
        self._connection, self._name, self._ignores_directives = connection, name, ignore_directives
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
        store = app.open_revoke_store()
        self.resources = Resources(settings, template, store, roster, name=self._name, clock=self.clock)
        self.identity, self.cache = self.resources.identity, self.resources.cache
        self.broker_url, self.store_url = self.resources.broker_url, self.resources.store.url
        self.transport = self.resources.transport.name
        self._life = Lifecycle(self, self.identity.worker)
        self._events: Events | None = None
        if settings.celery_events and self.resources.transport.capabilities.monitor_exchange is not None:
            node = node_name(self.identity.worker, self.identity.hostname)
            has_keys = self.resources.verifier.keyring is not None
            self._events = Events(node, self.identity.pid, self.clock, closed=has_keys)

    def _make_tasks(self) -> None:
        app, settings, clock, resources = self.app, self.settings, self.clock, self.resources
        broker, worker = resources.transport, self.identity.worker
        self.totals, self.inflight, self.acks = Totals(), InFlight(clock), AckQueue()
        self.ownership = Ownership(broker.leases(), clock)
        directives = ActiveDirectives(
            self.identity,
            self.queues,
            self.cache.now,
            names=app.registry.names,
            ignores=self._ignores_directives,
        )
        boot, retries, most = self.identity.boot, settings.default_max_retries, settings.max_lost_workers
        facts = DeliveryFacts(
            self.cache,
            self._ensure_fresh,
            TaskHistory(app.backend, clock),
            self.ownership,
            LostWorkers(resources.roster, settings.namespace, boot, most=most, default_max_retries=retries),
            directives,
            resources.fleet_clock,
            default_max_retries=retries,
        )
        self.recorder = Recorder(
            open_outcome_places(app.backend, settings),
            self.inflight,
            self.acks,
            facts,
            send=self._resender.send,
            broker_url=self.broker_url,
        )
        modes = {task.mode for task in app.registry}
        isolates = self.concurrency if Mode.ISOLATE in modes else 0
        inline = self._inline_slots if Mode.INLINE in modes or not isolates else 0
        self.lifecycle = TaskLifecycle(
            self.inflight,
            facts,
            self.recorder,
            TaskNotices(worker, self.totals, clock, self._events),
            PrefetchPolicy(isolates, inline, self._multiplier),
            StartLog(app.backend, settings.namespace, worker, boot, clock),
            partial(
                Executors.build,
                app,
                isolates=isolates,
                inline=inline,
                children=self._children.of_worker(worker),
                clock=clock,
            ),
            HoldRules(broker.capabilities.longest_hold, broker.capabilities.low_priority_first),
        )
        self.executor, self.holds, self.leases = self.lifecycle.executor, self.lifecycle.holds, self.lifecycle.leases
        self.directives = DirectiveService(directives, self.lifecycle, resources, self._base)
        rules = rule_subscribers(self.lifecycle.apply_rules, resources)
        self.hydration = resources.hydration(self.lifecycle, self.directives.subscribers | rules)
        self.admission = Admission(
            app.registry,
            self.lifecycle,
            signed=task_verifier(settings.signing, resources.verifier.keyring),
            has_dead_letters=broker.has_dead_letters,
            adapters=app.adapters,
        )
        self.consumer = Consumer(
            broker,
            ConsumedQueues(self.queues, declared_of(app, self.queues)),
            self.inflight,
            self.acks,
            self.ownership,
            directives,
            Intake(
                self.lifecycle.allowance,
                self.admission.receive,
                self.admission.malformed,
                self.hydration.nudge,
                self.lifecycle.connection_lost,
                ScheduledRevoked(self.cache, clock).look,
            ),
            clock,
        )

    def _make_agent(self) -> None:
        clock, resources = self.clock, self.resources
        self.stops = StopOrders(self, self.lifecycle, self.identity.worker, clock)
        monitors = DropCounter("messages of Celery's remote control", clock)
        tasks = WorkerTasks(
            WorkerParts(
                self._life,
                self._departure.watch,
                self.inflight,
                self.lifecycle,
                self.executor,
                self.consumer,
                self.totals,
                self.directives,
                transport=self.transport,
                lease=self.leases.lifetime,
                clock=clock,
                stops=self.stops,
            )
        )
        options = replace(self._options, dropping={"tasks": self.admission, "celery": monitors})
        self.agent = ControlAgent(resources, self.hydration, tasks, options)
        self.view = self.agent.view
        self._celery_monitors: CeleryMonitorService | None = None
        exchange = resources.transport.capabilities.monitor_exchange
        if self._events is not None and exchange is not None:
            self._celery_monitors = CeleryMonitorService(
                resources.template,
                self.view,
                self.app.registry.names,
                Changes(self.agent.revoke, resources.directive_writer),
                self._events,
                clock=clock,
                drops=monitors,
                exchange=exchange,
            )

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
        that interrupts a call into Stem (this one or a start as well), and in a task of this worker. In a forked child it does
        nothing.
        """
        self._life.stop(timeout)

    def steps(self) -> list[Step]:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`."""
        self.resources.transport.refuse_unfit()
        return [
            (self.agent.health.start, self.agent.health.stop),
            (partial(self.app.hooks.start_worker, self), partial(self.app.hooks.stop_worker, self)),
            (self.executor.start, partial(self.executor.stop, 0.0)),
            *self.agent.steps(),
            (self.recorder.start, partial(self.recorder.stop, 0.0)),
            (self.leases.start, self.leases.stop),
            (self.holds.start, self.holds.stop),
            (self.directives.start, self.directives.stop),
            (self.lifecycle.starts.start, self.lifecycle.starts.stop),
            *([(self._celery_monitors.start, self._celery_monitors.stop)] if self._celery_monitors is not None else []),
            (self.consumer.start, self.consumer.stop),
            (partial(self.agent.health.show, RUNNING, self.queues), partial(self.agent.health.show, DRAINING)),
        ]

    def drain(self, timeout: float | None) -> None:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`; :meth:`stop` is what to call."""
        self.agent.health.show(DRAINING)
        self.agent.heartbeats.nudge()
        self.lifecycle.stopping()
        self.consumer.quiesce()
        self.lifecycle.release_held()
        self.executor.stop(timeout)
        self.holds.stop()
        self.directives.stop()
        self.lifecycle.release_held()
        self.recorder.stop(None if timeout is None else max(5.0, timeout))
        self.lifecycle.notices.log.flush()
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
        self.lifecycle.release_running()
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
            pulse=self._departure.watch.pulses.thread("main", timeouts.LOOKS),
        )
        self._departure.check()

    def __repr__(self) -> str:
        return f"<Worker {self.identity.worker}: {self.state}, queues {', '.join(self.queues)}>"

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _is_ready(self, on_ready: Callable[[Worker], None] | None) -> None:
        own = self.resources
        warn_of_places(self.identity, own.transport, own.template, own.store, self.app.backend, self.app.registry)
        if on_ready is not None:
            on_ready(self)

    # -- inside -------------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`."""
        self.agent.give_up()
        if self._life.state is State.STARTING:  # it may be waiting for queues that the broker does not give
            threads.Thread(target=self.consumer.stop, name="stem-give-up", daemon=True).start()

    def is_own_thread(self) -> bool:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`."""
        return self.executor.runs_caller() or threads.current_thread().name.startswith(_OWN_THREADS)

    def _ensure_fresh(self) -> bool:
        return self.hydration.ensure_fresh()

    def close(self) -> None:
        """See :class:`~stem_kombu.worker.lifecycle.Owner`."""
        self._resender.close()
        self.resources.close()
