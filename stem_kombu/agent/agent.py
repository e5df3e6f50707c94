"""What a process needs to be controlled: it reads revocations, sends heartbeats, and answers commands.

Built once for each worker, by a Stem worker and by a Celery guest alike. It starts after the processes that run tasks, as they
must inherit neither sockets nor threads, and before the first task is consumed. It stops after the last task has ended, so that
a worker that drains still answers (G16).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from stem_kombu import timeouts
from stem_kombu.agent.health_file import HealthFile
from stem_kombu.agent.heartbeats import HeartbeatOptions, Heartbeats
from stem_kombu.agent.hydration import Hydration
from stem_kombu.agent.resources import Resources
from stem_kombu.agent.roster_place import RosterPlace
from stem_kombu.agent.starvation import StarvationWatch
from stem_kombu.agent.view import AgentView, Dropping, TaskHost
from stem_kombu.concurrency.service import pulses_here
from stem_kombu.control.server.listener import ControlListener, ListenerOptions
from stem_kombu.directive import Kind
from stem_kombu.drivers.routes import warn_of_routes
from stem_kombu.errors import BrokerError, StoreError
from stem_kombu.revocation import RevocationDraft
from stem_kombu.revocation_cache import Applied
from stem_kombu.transports.store.choice import fleet_control_link

logger = logging.getLogger(__name__)

#: What a part does when it starts, and what undoes that.
Step = tuple[Callable[[], object], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent starts, and what it does beside. Spans are seconds.

    ``insists_on_id``: a worker whose id another live worker has does not start. ``sweeps``: what dead workers left at the broker
    is removed now and then. ``commands`` are the application's own; ``dropping`` is what counts messages that the host drops.
    ``beside()`` is called after each heartbeat. ``linger``: for how long the thread that sends replies and heartbeats waits for
    the next of them, ``None`` for ever.
    """

    heartbeat_interval: float
    hydration_timeout: float = timeouts.HYDRATION
    allow_unsynced: bool = False
    insists_on_id: bool = True
    sweeps: bool = False
    commands: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    dropping: Mapping[str, Dropping] = field(default_factory=dict)
    beside: Callable[[], object] | None = None
    linger: float | None = None


class ControlAgent:
    """The control side of one worker, over ``resources`` that stay the caller's. ``host`` is what runs the tasks."""

    def __init__(self, resources: Resources, hydration: Hydration, host: TaskHost, options: AgentOptions) -> None:
        self._resources = resources
        self._options = options
        self._apply = host.apply
        self.hydration = hydration
        place = RosterPlace(resources.clock)
        dropping = dict(options.dropping)
        self.view = AgentView(host, resources, hydration, place, interval=options.heartbeat_interval, dropping=dropping)
        self.listener = ControlListener(
            fleet_control_link(resources.transport, resources.settings, clock=resources.clock),
            self.view,
            commands=options.commands,
            place=place,
            reconnected=hydration.nudge,
            clock=resources.clock,
            trust=resources.verifier,
            options=ListenerOptions(linger=options.linger),
        )
        dropping["control"] = self.listener.admission
        #: The host starts it, before all else, and shows in it that the worker consumes, and that it drains.
        self.health = HealthFile(resources.settings, resources.identity, pulses_here())
        self.starvation = StarvationWatch(self.view, self.health.show_starving, resources.depths.close, resources.clock)
        self._sweep = _BrokerSweep(resources) if options.sweeps else None
        self.heartbeats = Heartbeats(
            resources,
            self.view,
            self.listener,
            place,
            HeartbeatOptions(options.heartbeat_interval, options.insists_on_id),
            tick=self._tick,
        )

    def steps(self) -> list[Step]:
        """What starts the agent, in order, each with what undoes it.

        They raise what :meth:`Hydration.start`, :meth:`Heartbeats.claim` and :meth:`ControlListener.start` raise. On their return
        everything revoked is known, commands reach this worker, and it is on the roster.
        """
        options = self._options
        warn_of_routes(self._resources.settings)
        hydrate = partial(
            self.hydration.start, timeout=options.hydration_timeout, allow_unsynced=options.allow_unsynced
        )
        return [
            (hydrate, self.hydration.stop),
            (self.heartbeats.claim, self.heartbeats.stop),
            (self.health.claim, self.health.stop),
            (self.listener.start, self.listener.stop),
            (self.heartbeats.start, self.heartbeats.stop),
        ]

    def give_up(self) -> None:
        """Make a step that waits raise soon. From any thread, and in a signal handler."""
        self.hydration.give_up()
        self.heartbeats.give_up()

    def leave(self) -> None:
        """Leave the roster, so that no client waits for this worker; it still answers commands."""
        self.heartbeats.stop()

    def stop(self) -> None:
        """Return when no command is answered any more. May be called twice, and before a start."""
        self.leave()
        self.listener.stop()
        self.hydration.stop()
        self.health.stop()

    def _tick(self) -> None:
        paused = self.view.standing().paused
        self.health.keep()
        self.health.show_paused(paused.keys())
        if self.health.path is not None:
            self.starvation.is_excused = bool(paused) or Kind.RATE_LIMIT.value in self.view.settings()
            self.starvation.tick()
        if self._sweep is not None:
            self._sweep.tick()
        if self._options.beside is not None:
            self._options.beside()

    def revoke(self, drafts: Sequence[RevocationDraft]) -> Applied:
        """Store revocations, then let them take effect here: durable before they are visible (G1). Raises as
        :meth:`~stem_kombu.control.revoker.Revoker.save` does, and then nothing took effect."""
        return self._apply(self._resources.revoker.save(drafts))


class _BrokerSweep:
    """Removes what dead workers left at the broker, once in a while."""

    def __init__(self, resources: Resources) -> None:
        who = resources.identity
        self._namespace = who.namespace
        self._roster, self._clock = resources.roster, resources.clock
        self._janitor = resources.transport.housekeeping(who.namespace, who.worker)
        self._next = 0.0

    def tick(self) -> None:
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + timeouts.BROKER_SWEEP
        try:
            view = self._roster.view(self._namespace)
            self._janitor.sweep({beat.worker for beat in view.heartbeats})
        except (StoreError, BrokerError) as error:
            logger.info("could not sweep what dead workers left at the broker: %s", error)
