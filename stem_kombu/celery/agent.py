"""Stem beside a running Celery worker: its control agent, with connections of its own, and durable revokes.

It starts after Celery's children, which must inherit neither sockets nor threads, and before the first delivery. It stops after
the pool, so that a worker that drains still answers (G16).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from celery.concurrency.base import BasePool
from celery.concurrency.solo import TaskPool as SoloPool

from stem_kombu import timeouts
from stem_kombu.agent.active_rules import rule_subscribers
from stem_kombu.agent.agent import AgentOptions, ControlAgent
from stem_kombu.agent.leases import Leases
from stem_kombu.agent.resources import Resources
from stem_kombu.celery import revoked, task_api
from stem_kombu.celery.control import THROUGH_CELERY
from stem_kombu.celery.directives import GuestDirectives
from stem_kombu.celery.held_requests import HeldRequest, HeldRequests
from stem_kombu.celery.requests import RequestParts
from stem_kombu.celery.rules import GuestRules
from stem_kombu.celery.saving import Saver
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.celery.view import CeleryTasks
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency.service import Watch, watched_by
from stem_kombu.control.stamped_rules import StampDraft, save_stamped, stamps_of
from stem_kombu.drivers.tls import checked_tls
from stem_kombu.drop_counter import DropCounter
from stem_kombu.environment import environment
from stem_kombu.errors import ConfigurationError, StemError
from stem_kombu.health_page import DRAINING, RUNNING
from stem_kombu.measures import Totals
from stem_kombu.metric_exporters import metric_exporters
from stem_kombu.revocation import Revocation, RevocationDraft, storable_ids
from stem_kombu.settings import Settings
from stem_kombu.signing.configuration import REQUIRE, task_signing
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.registry import open_transport
from stem_kombu.volatile import HOW_DURABLE, NOT_DURABLE

if TYPE_CHECKING:
    from celery.worker import WorkController
    from celery.worker.consumer import Consumer

    from stem_kombu.celery.native_revokes import NativeRevokes

logger = logging.getLogger(__name__)


def _volatile_tasks() -> Callable[..., CeleryTasks]:
    from stem_kombu.celery.volatile import VolatileTasks  # which workers with a store don't need

    return VolatileTasks


def _gave_up(thread: str, error: BaseException) -> None:
    """Celery goes on; the log has told, and probes see that the thread does not move."""


class CeleryAgent:
    """Stem's side of one Celery worker, which may be started again after a stop. ``stop_table`` stays the caller's to close.

    Raises :class:`ConfigurationError` for settings that a Celery worker can't keep.
    """

    def __init__(
        self,
        worker: WorkController,
        settings: Settings,
        stop_table: SharedStopTable,
        totals: Totals,
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        checked_tls(settings.tls)
        if task_signing(settings.signing) == REQUIRE:
            raise ConfigurationError(
                "STEM_SIGNING_TASKS: a Celery worker can't require signed tasks, as Celery itself receives them",
                hint="set it to sign or off for Celery's workers, and require where Stem's workers consume",
            )
        self._clock = clock
        self._worker = worker
        self.settings = settings
        source = settings.revoke_store
        store = open_revoke_store(source.value, name=source.name, tls=settings.tls)
        template = broker_connection(settings)
        self._resources = Resources(settings, template, store, None, name=str(worker.hostname), clock=clock)
        self.identity, self.cache = self._resources.identity, self._resources.cache
        self.verifier = self._resources.verifier
        #: What was refused of Celery's own remote control, because it is not signed.
        self.refused = DropCounter("Celery's remote control", clock)
        # With the options of Celery's own consumer: its messages stand in the index that those name. Kombu reads them, so
        # that only leases of Kombu's own count.
        consumed = open_transport(worker.app.connection_for_read(), generic=True)
        leasing = consumed.leases()
        lease = None if leasing is None else leasing.lifetime
        requests = HeldRequests(worker)
        self.directives = GuestDirectives(worker, self._resources, requests, stop_table)
        tasks = CeleryTasks if settings.durable else partial(_volatile_tasks(), store)
        rules = GuestRules(requests, self.cache.now)
        #: What the requests of this worker know of it.
        self.parts = RequestParts(totals, stop_table, self.directives.pauses, rules)
        self._tasks = tasks(
            worker, self.cache, self.parts, self.directives, transport=consumed.name, lease=lease, clock=clock
        )
        self._leases: Leases[HeldRequest] = Leases(leasing, requests, lost=requests.lost, clock=clock)
        watch = Watch(_gave_up)
        self._pulses = watch.pulses
        with watched_by(watch):
            of_rules = rule_subscribers(self._tasks.apply_rules, self._resources)
            self.hydration = self._resources.hydration(self._tasks, {**self.directives.subscribers, **of_rules})
            # A guest must not keep Celery from its work: another worker of this id is shown, not refused.
            self._renews_seldom = lease is not None and lease >= timeouts.LONG_LEASE
            options = AgentOptions(
                settings.heartbeat_interval,
                insists_on_id=False,
                dropping={"celery": self.refused},
                beside=self._leases.renew_when_due if self._renews_seldom else None,
                linger=timeouts.GUEST_LINGER,
            )
            self._agent = ControlAgent(self._resources, self.hydration, self._tasks, options)
        self.view = self._agent.view
        self._saver = Saver(self._agent.revoke, patience=timeouts.GUEST_SAVE, clock=clock)
        self._stamp_saver = Saver(self._save_stamped, patience=timeouts.GUEST_SAVE, clock=clock)
        self._revokes: NativeRevokes | None = None
        #: What sends metrics elsewhere, while this runs.
        self._exporters = ExitStack()
        self._lifecycle = threading.RLock()
        self._running = False

    def start(self) -> None:
        """Return once everything revoked is known and commands reach this worker. May be called twice.

        Raises what the steps of :meth:`ControlAgent.steps` raise; then nothing is left running.
        """
        with self._lifecycle:
            if not self._running:
                self._start()
                self._running = True

    def _start(self) -> None:
        self._tasks.draining = False
        try:
            self._exporters.enter_context(metric_exporters(self.view, environment()))
            self._agent.health.start()
            self.directives.start()
            for start, _ in self._agent.steps():
                start()
            revoked.install(self.cache, alone=self.verifier.keyring is not None)
            if not self._renews_seldom:
                self._leases.start()
                self._leases.wake()
            if isinstance(self._worker.pool, SoloPool) and self.verifier.keyring is None:
                self._read_revokes()
        except BaseException:
            self.stop()
            raise
        if not self.settings.durable:
            logger.warning("stem: %s (%s)", NOT_DURABLE, HOW_DURABLE)
        logger.info(
            "stem: worker %s of namespace %s, revoke store %s at revision %d",
            self.identity.worker,
            self.identity.namespace,
            self._resources.store.url,
            self.cache.revision,
        )

    def drain(self) -> None:
        """Show on the roster that this worker takes no more tasks."""
        self._tasks.draining = True
        self._agent.health.show(DRAINING)
        self._agent.heartbeats.nudge()

    def connected(self, consumer: Consumer) -> None:
        """Celery is about to consume with a new connection: what is paused is left out, and tasks that were registered meanwhile
        have their limits. Called by its loop."""
        self.directives.refresh()
        self.directives.pauses.leave(consumer)

    def consumes(self) -> None:
        """Celery's own loop had a turn with its broker: show it to probes. Called every two seconds, by that loop."""
        if not self._tasks.is_draining and (queues := self._tasks.consumed_queues()):
            self._agent.health.show(RUNNING, queues)
            self._pulses.consumed.beat()

    def stop(self) -> None:
        """Leave the roster and close every connection. May be called twice; a :meth:`start` that waits for the revoke store in
        another thread raises."""
        self.hydration.stop()
        with self._lifecycle:
            self._stop()
            self._running = False

    def _stop(self) -> None:
        if self._revokes is not None:
            self._revokes.stop()
        self._exporters.close()
        self._agent.stop()
        self.directives.stop()
        self._leases.stop()
        revoked.uninstall()
        for saver in (self._saver, self._stamp_saver):
            saver.close(timeouts.GUEST_LAST_SAVES)
        self._resources.close()

    @property
    def kills(self) -> bool:
        """Whether Celery can end a running task of this worker's pool: by its process, or its greenlet."""
        # Prefork pools have one of their process pool's, once they have started.
        return getattr(self._worker.pool.terminate_job, "__func__", None) is not BasePool.terminate_job

    def _read_revokes(self) -> None:
        from stem_kombu.celery.native_revokes import NativeRevokes  # which other pools don't need

        worker = self._worker
        if self._revokes is None:
            self._revokes = NativeRevokes(
                worker.app, str(worker.hostname), self._obey, self._obey_stamps, clock=self._clock
            )
        self._revokes.start()

    def _obey(self, task_ids: Sequence[str], terminate: bool) -> None:
        """What Celery's own ``revoke`` asks for, while its event loop waits for a task."""
        try:
            trouble = self.make_durable(list(task_ids), terminate=terminate)
        except StemError as error:
            trouble = str(error)
        if trouble is not None and self.settings.durable:
            logger.warning("revoke of %d tasks: %s", len(task_ids), trouble)

    def _obey_stamps(self, headers: object, terminate: bool) -> None:
        stamps = stamps_of(headers)
        try:
            trouble = self.make_stamps_durable(stamps, terminate=terminate)
        except StemError as error:
            trouble = str(error)
        if trouble is not None and self.settings.durable:
            logger.warning("revoke of %d stamps: %s", len(stamps), trouble)

    def make_durable(self, task_ids: list[str], *, terminate: bool) -> str | None:
        """Store what Celery's own ``revoke`` is about to put into its memory, unless it is stored already. ``None`` when it is,
        else a sentence that says why not; it is stored as soon as the store answers, for which Celery's event loop does not wait.

        ``terminate`` stops what runs at its next checkpoint, stored or not. Raises :class:`~stem_kombu.errors.StemError`.
        """
        good = storable_ids(task_ids)  # an id that no store can hold is left to Celery, and named in the log
        new = [
            task_id
            for task_id in good
            if (held := self.cache.get(task_id)) is None or (terminate and not held.terminate)
        ]
        drafts = [RevocationDraft(task_id, terminate, THROUGH_CELERY, self._who, None) for task_id in new]
        trouble = self._saver.save(drafts)
        if not self.settings.durable:
            return NOT_DURABLE
        if trouble is not None and terminate:
            self._tasks.mark([self._unstored(task_id, terminate=True) for task_id in new])
        return None if trouble is None else f"not durable yet: {trouble}"

    def why(self, task_id: str) -> str:
        """What the result of a task says that Celery's own ``revoke`` named: who revoked it, when and why."""
        return task_api.told(self.cache.get(task_id) or self._unstored(task_id, terminate=False))

    def _unstored(self, task_id: str, *, terminate: bool) -> Revocation:
        now, namespace = self._clock.utcnow(), self.settings.namespace
        return Revocation(namespace, task_id, 0, now, terminate, THROUGH_CELERY, self._who)

    @property
    def _who(self) -> str:
        return f"Celery, through worker {self.identity.worker}"  # its commands do not say who gave them

    def make_stamps_durable(self, stamps: Sequence[tuple[str, str]], *, terminate: bool) -> str | None:
        """The same for what Celery's own ``revoke_by_stamped_headers`` asks for: a rule for each value of a stamp."""
        drafts = [StampDraft(*stamp, terminate, THROUGH_CELERY, self._who) for stamp in stamps]
        trouble = self._stamp_saver.save(drafts) if self.settings.durable else NOT_DURABLE
        if trouble is not None and terminate:
            self._tasks.mark(self.parts.rules.stamped(drafts, self.settings.namespace, self._clock.utcnow()))
        return trouble if trouble is None or not self.settings.durable else f"not durable yet: {trouble}"

    def _save_stamped(self, drafts: Sequence[StampDraft]) -> None:
        resources = self._resources
        namespace, revoker = self.settings.namespace, resources.revoker
        self._tasks.apply_rules(save_stamped(drafts, revoker, resources.store, namespace, resources.verifier))
