"""What a worker's control agent opens before anything else: keys, identity, broker template, revoke store, roster, cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from stem_kombu.agent.fleet_clock import FleetClock
from stem_kombu.agent.hydration import Hydration
from stem_kombu.agent.record_sync import RecordSync, Subscriber
from stem_kombu.backends.base import Roster
from stem_kombu.backends.registry import open_roster
from stem_kombu.clock import Clock
from stem_kombu.control import undo
from stem_kombu.control.auditor import Auditor
from stem_kombu.control.directive_writer import DirectiveWriter
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.control.standing import roster_only
from stem_kombu.control.verification import Verifier
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied, RevocationCache
from stem_kombu.settings import Settings
from stem_kombu.signing.keyring import Scope
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import ControlRecord
from stem_kombu.transports.registry import open_transport

if TYPE_CHECKING:
    from kombu import Connection


class RevocationTarget(Protocol):
    """What revocations take effect on: the tasks of this worker."""

    def apply(self, revocations: Sequence[Revocation]) -> Applied:
        """Take the revocations into the cache, withdraw what is reserved, and stop running tasks where asked."""


class Resources:
    """Nothing of it connects or starts a thread when it is made; it may be closed twice, and used again after that.

    ``template`` is a Kombu connection that is cloned, never used. ``name`` is the worker's id, ``None`` for one that no other
    worker has. ``roster`` stays the caller's; without one that of the settings is opened here. Raises
    :class:`~stem_kombu.errors.ConfigurationError` for a key without the scope ``work``, a name that is no worker id, and a
    roster's URL that can't be used.
    """

    def __init__(
        self,
        settings: Settings,
        template: Connection,
        store: RevokeStore,
        roster: Roster | None,
        *,
        name: str | None,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.template = template
        self.clock = clock
        self.verifier = Verifier.of(settings.signing, scope=Scope.WORK, what="act as a worker", clock=clock)
        self.identity = WorkerIdentity.here(settings.namespace, name, clock.utcnow(), durable=settings.durable)
        self.cache = RevocationCache(settings.namespace, clock=clock)
        self.store = store
        at = settings.roster
        self.roster = roster or open_roster(at.value, name=at.name, tls=settings.tls)
        self._owns_roster = roster is None
        self.transport = open_transport(
            template, generic=settings.transport == "generic", accept_loss=settings.accept_loss
        )
        self.depths = self.transport.depths()
        self.fleet_clock = FleetClock(clock, None if self.transport.capabilities.keeps_etas else self.cache)
        self._fleet = fleet = roster_only(self.roster, settings.namespace)
        self.revoker = Revoker(store, settings.namespace, self.verifier, fleet, keep=settings.audit_keep)
        #: Without its password.
        self.broker_url = self.transport.url

    def hydration(self, target: RevocationTarget, subscribers: Mapping[str, Subscriber] | None = None) -> Hydration:
        """What keeps the cache in step with the store; ``target`` gets the records that keys of the fleet signed, and each of
        ``subscribers`` the control records of its place."""
        namespace, keyring = self.settings.namespace, self.verifier.keyring

        def undone(records: Sequence[ControlRecord]) -> None:
            target.apply(undo.lifted(records, namespace, keyring))

        places: dict[str, Subscriber] = {undo.UNDO: undone, **(subscribers or {})}
        return Hydration(
            self.store,
            namespace,
            self.cache,
            _VerifiedRecords(self, target).apply,
            interval=self.settings.sync_interval,
            clock=self.clock,
            worker=self.identity.worker,
            records=RecordSync(self.store, namespace, places),
        )

    def directive_writer(self) -> DirectiveWriter:
        """What stores directives for this worker: where the fleet has keys, only with one that may give them."""
        settings, verifier = self.settings, self.verifier
        auditor = Auditor(self.store, settings.namespace, verifier.keyring, keep=settings.audit_keep)
        return DirectiveWriter(self.store, settings.namespace, verifier, self._fleet, lambda: auditor)

    def close(self) -> None:
        """Let the connections go."""
        self.depths.close()
        self.store.close()
        if self._owns_roster:
            self.roster.close()


class _VerifiedRecords:
    """Between the store and a target: leaves out what no key of the fleet signed."""

    def __init__(self, resources: Resources, target: RevocationTarget) -> None:
        self._verifier, self._cache = resources.verifier, resources.cache
        self._target = target

    def apply(self, records: Sequence[Revocation]) -> Applied:
        return self._target.apply(self._verifier.proven(records, self._cache.now())[0])
