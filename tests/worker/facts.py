"""What a recorder reads before it acts: the real parts, of a worker that knows of no revocation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from stem_kombu.agent.fleet_clock import FleetClock
from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.clock import SYSTEM
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.delivery_facts import DeliveryFacts
from stem_kombu.worker.lost_workers import LostWorkers
from stem_kombu.worker.ownership import Ownership
from stem_kombu.worker.task_history import TaskHistory


def connected_facts(backend: MemoryBackend) -> DeliveryFacts:
    """Of worker ``alpha``, whose broker has no leases, and whose first connection stands."""
    cache, ownership = RevocationCache("stem", clock=SYSTEM), Ownership(None, SYSTEM)
    connection: Any = SimpleNamespace(is_cut=False)
    ownership.connected(connection)
    identity = WorkerIdentity.here("stem", "alpha", SYSTEM.utcnow())
    return DeliveryFacts(
        cache,
        lambda: False,
        TaskHistory(backend, SYSTEM),
        ownership,
        LostWorkers(backend, "stem", identity.boot, most=3, default_max_retries=3),
        ActiveDirectives(identity, ["default"], cache.now),
        FleetClock(SYSTEM, cache),
        default_max_retries=3,
    )
