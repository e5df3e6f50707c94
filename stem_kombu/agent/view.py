"""What control handlers see of a worker: what its host shows of tasks, with what its agent knows of store and roster.

A Stem worker and a Celery guest each bring a :class:`TaskHost`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from stem_kombu import machine
from stem_kombu.agent.hydration import Hydration
from stem_kombu.agent.resources import Resources
from stem_kombu.agent.roster_place import RosterPlace
from stem_kombu.concurrency.service import pulses_here
from stem_kombu.control.protocol.fates import TaskFate
from stem_kombu.control.protocol.messages import Shutdown
from stem_kombu.control.server.worker_view import (
    InFlightTask,
    InForce,
    Obeyed,
    RevocationFacts,
    SelectedTask,
    StopStanding,
    WaitingOutcome,
    WorkerFacts,
    WorkerIdentity,
    WorkerSummary,
)
from stem_kombu.directive import Directive
from stem_kombu.measures import CommandCounts
from stem_kombu.redaction import mask_url
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import Applied
from stem_kombu.rule import Rule
from stem_kombu.selector import Selector
from stem_kombu.slots import SlotView
from stem_kombu.transports.store.choice import place_of_control


class HostSummary(NamedTuple):
    """How the host of a worker's tasks stands, at the price of a few attributes. ``state`` is ``running`` or ``draining``.

    A tuple, as each ping makes one: a frozen dataclass costs a call for each field.
    """

    state: str
    concurrency: int
    in_flight: int
    reserved: int
    consuming: bool
    queues: Sequence[str]
    #: Paused queues, each with the version of its directive; the highest version that is known, ``None``: it does not obey
    #: all kinds; whether it was told to obey none.
    paused: Mapping[str, int] = {}
    directives: int | None = None
    ignores_directives: bool = False
    #: How many slots are ``running`` and ``idle``, by mode.
    slots: Mapping[str, Mapping[str, int]] = {}

    def consumed(self) -> dict[str, bool]:
        """Each queue, and whether it is being consumed."""
        if not self.paused:
            return dict.fromkeys(self.queues, self.consuming)
        return {queue: self.consuming and queue not in self.paused for queue in self.queues}


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The rest of it; see :class:`~stem_kombu.control.server.worker_view.WorkerFacts`. ``lease`` is in seconds, ``None`` where
    the broker has no leases."""

    prefetch: int
    pool: Sequence[SlotView]
    transport: str
    lease: float | None
    settling: int = 0
    not_storable: int = 0
    troubles: Mapping[str, str] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    slots: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class TaskHost(Protocol):
    """What runs the tasks of a worker. Every method is quick and safe from any thread unless it says otherwise; those that
    :class:`~stem_kombu.control.server.worker_view.WorkerView` has as well are the same."""

    @property
    def climbs(self) -> bool: ...

    def summary(self) -> HostSummary:
        """How it stands now."""

    def facts(self) -> HostFacts:
        """All else of it now."""

    def totals(self) -> Mapping[str, int]:
        """Counts of tasks since the start, by what became of them."""

    def measured(self) -> tuple[Mapping[str, int], dict[str, object]]:
        """The totals and the measures of one moment, and ``children_lost`` by reason where it has children."""

    def in_flight(self) -> Sequence[InFlightTask]: ...

    def waiting_outcomes(self) -> Sequence[WaitingOutcome]: ...

    def apply(self, revocations: Sequence[Revocation]) -> Applied: ...

    def running(self, revocations: Sequence[Revocation]) -> frozenset[str]: ...

    def selected(self, selector: Selector, before: datetime) -> Sequence[SelectedTask]: ...

    def apply_rules(self, rules: Sequence[Rule]) -> Sequence[int]: ...

    def spared(self, revocations: Sequence[Revocation]) -> frozenset[str]: ...

    def fates(self, task_ids: Collection[str]) -> Sequence[TaskFate]: ...

    def wait_ended(self, task_ids: Collection[str], timeout: float) -> Mapping[str, str]: ...

    def shut_down(self, order: Shutdown) -> StopStanding: ...

    def obey(self, directives: Sequence[Directive]) -> Obeyed: ...

    def wait_started(self, tokens: Collection[int], timeout: float) -> int: ...

    def settings(self) -> InForce: ...


class Dropping(Protocol):
    """What counts the messages that it drops."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many, by reason."""


class AgentView:
    """See :class:`stem_kombu.control.server.worker_view.WorkerView`. ``interval`` is that of heartbeats in seconds; ``dropping``
    names what drops messages, beside revocations and heartbeats."""

    def __init__(
        self,
        host: TaskHost,
        resources: Resources,
        hydration: Hydration,
        place: RosterPlace,
        *,
        interval: float,
        dropping: Mapping[str, Dropping],
    ) -> None:
        self.identity: WorkerIdentity = resources.identity
        self._host = host
        self._resources = resources
        self._hydration = hydration
        self._place = place
        self._interval = interval
        self._dropping = dropping
        self._pulses = pulses_here()
        self.commands = CommandCounts()
        settings = resources.settings
        self._backend = None if settings.backend is None else mask_url(settings.backend.value)
        self._revoke_store = mask_url(settings.revoke_store.value)
        # The host's own answers, as they are.
        self.in_flight, self.waiting_outcomes = host.in_flight, host.waiting_outcomes
        self.store_now = resources.cache.now
        self.apply, self.running, self.spared = host.apply, host.running, host.spared
        self.climbs = host.climbs
        self.fates, self.wait_ended = host.fates, host.wait_ended
        self.selected, self.apply_rules = host.selected, host.apply_rules
        self.totals, self.shut_down = host.totals, host.shut_down
        self.obey, self.wait_started, self.settings = host.obey, host.wait_started, host.settings

    def standing(self) -> WorkerSummary:
        host = self._host.summary()
        return WorkerSummary(
            host.state,
            self._uptime(),
            host.concurrency,
            host.in_flight,
            host.reserved,
            host.consuming,
            host.consumed(),
            conflict=self._place.conflict,
            paused=host.paused,
            directives=host.directives,
            ignores_directives=host.ignores_directives,
            slots=host.slots,
        )

    def facts(self) -> WorkerFacts:
        host, facts, resources = self._host.summary(), self._host.facts(), self._resources
        trouble = self._hydration.trouble
        return WorkerFacts(
            state=host.state,
            uptime=self._uptime(),
            concurrency=host.concurrency,
            in_flight=host.in_flight,
            reserved=host.reserved,
            consuming=host.consuming,
            queues=host.consumed(),
            conflict=self._place.conflict,
            paused=host.paused,
            directives=host.directives,
            ignores_directives=host.ignores_directives,
            prefetch=facts.prefetch,
            totals=self.totals(),
            pool=facts.pool,
            rss_bytes=machine.rss_bytes(),
            load_avg=machine.load_avg(),
            broker=resources.broker_url,
            backend=self._backend,
            control_link=place_of_control(resources.transport, resources.settings),
            revoke_store=self._revoke_store,
            transport=facts.transport,
            heartbeat_interval=self._interval,
            bounds={
                "sync_interval_s": resources.settings.sync_interval,
                "heartbeat_interval_s": self._interval,
                "lease_s": facts.lease,
            },
            settling=facts.settling,
            not_storable=facts.not_storable,
            troubles=facts.troubles if trouble is None else {**facts.troubles, "revocations": trouble},
            dropped=self._dropped(),
            restarts=facts.restarts,
            slots=facts.slots,
        )

    def _dropped(self) -> dict[str, dict[str, int]]:
        verifier = self._resources.verifier
        named = {
            "revocations": verifier.revocations,
            "directives": verifier.directives,
            "roster": verifier.roster,
            **self._dropping,
        }
        return {source: dict(each.dropped) for source, each in named.items()}

    def _uptime(self) -> float:
        return (self._resources.clock.utcnow() - self.identity.started_at).total_seconds()

    def measures(self) -> dict[str, object]:
        totals, measured = self._host.measured()
        held, now = self._hydration.facts(), self._resources.clock.monotonic()
        return {
            "totals": totals,
            **measured,
            "commands": self.commands.snapshot(),
            "loop_lag_s": round(max((pulse.lag(now) for pulse in self._pulses.threads), default=0.0), 6),
            "store_up": held.store_error is None,
            "store_age_s": None if held.synced_ago is None else round(held.synced_ago, 3),
        }

    def queue_depths(self) -> Mapping[str, int | None]:
        return self._resources.depths.of(self._host.summary().queues)

    def revocations(self) -> RevocationFacts:
        return self._hydration.facts()

    def revoked_records(self, limit: int, before: int | None = None) -> tuple[list[Revocation], bool]:
        records, truncated = self._resources.cache.newest(limit, before)
        return list(records), truncated
