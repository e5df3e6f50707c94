"""Stem beside a running Celery worker: the parts that hydrate, listen, beat and renew, with connections of their own.

Everything is born after Celery's children (they must inherit neither sockets nor threads) and before the first delivery,
and dies after the pool, so that a draining worker still answers (G16).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from celery.concurrency.base import BasePool
from celery.worker import state
from celery.worker.request import Request

from stem_kombu.agent.heartbeats import Heartbeats, beat_of
from stem_kombu.agent.hydration import Hydration
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.registry import open_roster
from stem_kombu.celery import revoked
from stem_kombu.celery.control import THROUGH_CELERY
from stem_kombu.celery.saving import Saver
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.celery.view import CeleryView
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.concurrency.service import Service
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.server.listener import ControlListener
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.control.standing import RosterOnly
from stem_kombu.control.verification import Verifier
from stem_kombu.drivers.routes import warn_of_routes
from stem_kombu.drivers.tls import checked_tls
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import BrokerError, ConfigurationError, StoreError
from stem_kombu.revocation import Revocation, RevocationDraft, storable_ids
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.settings import Settings
from stem_kombu.signing.configuration import REQUIRE, task_signing
from stem_kombu.signing.keyring import Scope
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.errors import shown_url
from stem_kombu.transports.leases import open_leasing
from stem_kombu.transports.queue_depths import QueueDepths
from stem_kombu.worker.totals import Totals

logger = logging.getLogger(__name__)

#: Seconds within which the revoke store must have been read before Celery consumes.
HYDRATION_TIMEOUT = 30.0
#: Seconds for which Celery's event loop may wait for the revoke store, once in each outage, and which a worker that stops gives
#: to revocations that are not stored yet.
_PATIENCE, _LAST_SAVES = 0.25, 2.0


class Agent:
    """Stem's side of one Celery worker. ``start()`` returns once it hears and everything revoked is known; what was stopped
    may be started again. The ``board`` is its owner's to close."""

    def __init__(
        self, worker: Any, settings: Settings, board: SharedStopTable, totals: Totals, *, clock: Clock = SYSTEM
    ) -> None:
        self._clock = clock
        self._worker = worker
        self.settings = settings
        checked_tls(settings.tls)
        self.board = board
        self.cache = RevocationCache(settings.namespace)
        self.trust = Verifier.of(settings.signing, scope=Scope.WORK, what="speak for a worker", clock=clock)
        if task_signing(settings.signing) == REQUIRE:
            raise ConfigurationError(
                "STEM_SIGNING_TASKS: a Celery worker can't require that tasks are signed: Celery itself takes them in",
                hint="set it to sign or off for Celery's workers, and require where Stem's workers consume",
            )
        #: Celery's own remote control: what of it was refused, because nobody signs it.
        self.refused = DropCounter("Celery's remote control", clock)
        self._store = open_revoke_store(settings.revoke_store.value, name=settings.revoke_store.name, tls=settings.tls)
        roster = settings.roster
        self._roster = open_roster(roster.value, name=roster.name, tls=settings.tls)
        fleet = RosterOnly(self._roster, settings.namespace)
        self._revoker = Revoker(self._store, settings.namespace, self.trust, fleet)
        self._template = broker_connection(settings)
        self.identity = WorkerIdentity.here(settings.namespace, str(worker.hostname), clock.utcnow())
        self._depths = QueueDepths(self._template)
        self.view = CeleryView(
            worker,
            self.identity,
            settings,
            self.cache,
            board,
            totals,
            hydration=lambda: self.hydration,
            depths=self._depths.of,
            broker_url=shown_url(self._template),
            clock=clock,
        )
        self.hydration = Hydration(
            self._store,
            settings.namespace,
            self.cache,
            lambda records: self.view.apply(self.trust.proven(records, self.cache.now())[0]),
            interval=settings.sync_interval,
            clock=clock,
            worker=self.identity.worker,
        )
        self.heartbeats = Heartbeats(
            self._roster,
            self._heartbeat,
            lambda beat: self.listener.publish_heartbeat(beat),
            lambda: None,
            interval=settings.heartbeat_interval,
            clock=clock,
            sign=self.trust.sign,
            believed=self.trust.believed,
            insist=False,  # a guest must not keep Celery from its work: another worker of this id is shown, not refused
        )
        self.listener = ControlListener(
            self._template,
            self.view,
            commands={},
            roster_now=self.heartbeats.roster_now,
            reconnected=self.hydration.nudge,
            clock=clock,
            trust=self.trust,
            born=lambda: self.heartbeats.born,
        )
        self.view.conflict = lambda: self.heartbeats.conflict
        self.view.dropped = lambda: {
            "control": self.listener.admission.dropped,
            "revocations": self.trust.revocations.dropped,
            "roster": self.trust.roster.dropped,
            "celery": self.refused.dropped,
        }
        # With the options of Celery's own consumer: its messages stand in the index that those name.
        self._leasing = open_leasing(worker.app.connection_for_read())
        self.view.lease = None if self._leasing is None else self._leasing.lifetime
        self._saver = Saver(self._save, patience=_PATIENCE, clock=clock)
        self._stopped = threading.Event()
        self._renewal = Service(self._renew, "stem-leases", begin=self._stopped.clear, wake=self._stopped.set)
        self._lifecycle = threading.RLock()
        self._running = False

    def start(self) -> None:
        """Raises what :meth:`Hydration.start`, :meth:`Heartbeats.claim` and :meth:`ControlListener.start` raise; then
        nothing is left running. May be called twice."""
        with self._lifecycle:
            if not self._running:
                self._start()
                self._running = True

    def _start(self) -> None:
        warn_of_routes(self.settings)
        self.view.draining = False
        try:
            self.hydration.start(timeout=HYDRATION_TIMEOUT)
            revoked.install(self.cache, alone=self.trust.keyring is not None)
            self.heartbeats.claim()
            self.listener.start()
            self.heartbeats.start()
            if self._leasing is not None:
                self._renewal.start()
        except BaseException:
            self.stop()
            raise
        logger.info(
            "stem: worker %s of namespace %s, revoke store %s at revision %d",
            self.identity.worker,
            self.identity.namespace,
            self._store.url,
            self.cache.revision,
        )

    def drain(self) -> None:
        """Say to everyone that this worker takes nothing more."""
        self.view.draining = True
        self.heartbeats.nudge()

    def stop(self) -> None:
        """Leave the roster and let everything go. May be called twice; a :meth:`start` that waits for the revoke store in
        another thread raises instead of waiting on."""
        self.hydration.stop()
        with self._lifecycle:
            self._stop()
            self._running = False

    def _stop(self) -> None:
        self.heartbeats.stop()
        self.listener.stop()
        self.hydration.stop()
        self._renewal.stop()
        if self._leasing is not None:
            self._leasing.close()
        revoked.uninstall()
        self._depths.close()
        self._saver.close(_LAST_SAVES)
        self._store.close()
        self._roster.close()

    @property
    def kills(self) -> bool:
        """Whether Celery can end a running task of this worker's pool: by its process, or its greenlet."""
        # Prefork pools have one of their process pool's, once they have started.
        return getattr(self._worker.pool.terminate_job, "__func__", None) is not BasePool.terminate_job

    def make_durable(self, task_ids: list[str], *, terminate: bool) -> str | None:
        """Store what Celery's own ``revoke`` is about to put into its memory, unless it is stored already. ``None`` when it is,
        else why it is not durable yet; it is stored as soon as the store answers, for which Celery's event loop does not wait.

        ``terminate`` stops what runs at its next checkpoint, stored or not. Raises :class:`~stem_kombu.errors.StemError`.
        """
        good = storable_ids(task_ids)  # one that no store can hold is left to Celery, and named in the log
        new = [one for one in good if (held := self.cache.get(one)) is None or (terminate and not held.terminate)]
        drafts = [RevocationDraft(task_id, terminate, THROUGH_CELERY, None, None) for task_id in new]
        trouble = self._saver.save(drafts)
        if trouble is not None and terminate:
            now, namespace = self._clock.utcnow(), self.settings.namespace
            self.view.tell([Revocation(namespace, task_id, 0, now, True, THROUGH_CELERY) for task_id in new])
        return trouble

    def _save(self, drafts: Sequence[RevocationDraft]) -> None:
        self.view.apply(self._revoker.save(drafts))

    def _heartbeat(self) -> Heartbeat:
        now, interval = self._clock.utcnow(), self.settings.heartbeat_interval
        facts = self.view.facts()
        return beat_of(self.identity, facts, facts.totals, inbox=self.listener.inbox, interval=interval, now=now)

    def _requests(self) -> list[Any]:
        """What this worker holds: running, waiting for a slot or an eta, and waiting for a rate limit."""
        known = {request.id: request for request in [*self._on_timer(), *list(state.requests.values())]}
        buckets = list(getattr(self._worker.consumer, "task_buckets", {}).values())
        waiting = [held[0] for bucket in buckets if bucket for held in list(bucket.contents)]
        return [*known.values(), *waiting]

    def _on_timer(self) -> Iterator[Any]:
        """What waits for an eta: Celery before 5.7 knows it only as arguments of its timer's entries."""
        timer = getattr(self._worker.consumer, "timer", None)
        for waiting in list(timer.schedule.queue) if timer is not None else ():
            arguments = getattr(waiting.entry, "args", None) or ()
            if arguments and isinstance(arguments[0], Request):
                yield arguments[0]

    def _renew(self) -> None:
        assert self._leasing is not None
        while not self._stopped.wait(self._leasing.lifetime / 3):
            held = [request._message for request in self._requests() if not request.acknowledged]
            if not held:
                continue
            try:
                self._leasing.renew(held)
            except (BrokerError, StoreError) as error:
                logger.warning("leases of %d messages can't be renewed: %s", len(held), error)
            except Exception:
                # The boundary of the thread that keeps long tasks from running twice.
                logger.exception("leases of %d messages can't be renewed", len(held))
