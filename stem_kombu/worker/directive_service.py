"""Carries directives out: what they ask of this worker's tasks begins when they come, and ends when they end (G22, G23).

They come from the store and from broadcasts, by one path: :meth:`DirectiveLoop.obey`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from stem_kombu import timeouts
from stem_kombu.agent.directive_loop import DirectiveLoop, level_settings, log_pauses, pause_settings
from stem_kombu.agent.resources import Resources
from stem_kombu.control.server.worker_view import InForce, Obeyed, Setting
from stem_kombu.directive import Directive, Kind
from stem_kombu.logs import LogLevels
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.delivery_events import Event
from stem_kombu.worker.limit_service import LimitService
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.scaling_service import OwnValues, ScalingService
from stem_kombu.worker.task_lifecycle import TaskLifecycle

logger = logging.getLogger(__name__)

_WAITS = (Phase.HELD, Phase.DEFERRED, Phase.RESERVED)


class DirectiveService:
    """Of one worker, whose tasks are ``lifecycle``'s; ``base`` is what counts without a directive."""

    def __init__(
        self, active: ActiveDirectives, lifecycle: TaskLifecycle, resources: Resources, base: OwnValues
    ) -> None:
        self.active, self._base, self._lifecycle = active, base, lifecycle
        self._limits = LimitService(active, lifecycle, resources)
        self._scaling = ScalingService(active, lifecycle, resources, base)
        self._levels: dict[str, str] = {}
        self._logs = LogLevels()
        self._inflight, self._events = lifecycle.inflight, lifecycle
        #: Wakes the thread that fetches.
        self._changed = lifecycle.recorder.acks.wake
        self._clock = lifecycle.facts.clock
        self._loop = DirectiveLoop(active, resources.verifier, self._update)
        #: What hands records of the store over.
        self.subscribers = self._loop.subscribers

    # -- from any thread ------------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        """How many children there are to be now."""
        return self._scaling.concurrency

    def start(self) -> None:
        """Be ready: the thread begins with the first directive that has an end."""
        self._limits.start()
        self._scaling.start()
        self._loop.start()

    def stop(self) -> None:
        """Directives end no more by themselves. May be called twice, and before a start."""
        self._limits.stop()
        self._scaling.stop()
        self._loop.stop()

    def obey(self, directives: Iterable[Directive]) -> Obeyed:
        """Know and obey these as well. No task that they forbid starts after this, but those in ``starting``."""
        return self._loop.obey(directives)._replace(retiring=self._lifecycle.executor.retiring)

    def wait_started(self, tokens: Collection[int], timeout: float) -> int:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`."""
        deadline = self._clock.monotonic() + timeout
        while (left := sum(map(self._is_starting, tokens))) and self._clock.monotonic() < deadline:
            self._clock.sleep(timeouts.STARTS_LOOK)
        while not self._limits.knows_shares and self._clock.monotonic() < deadline:
            self._clock.sleep(timeouts.STARTS_LOOK)
        return left

    def settings(self) -> InForce:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`."""
        found: dict[str, Mapping[str | None, Setting]] = {Kind.PAUSE.value: pause_settings(self.active)}
        if scaling := self._scaling.settings():
            found[Kind.CONCURRENCY.value] = scaling
        if limits := self._limits.settings():
            found[Kind.RATE_LIMIT.value] = limits
        found[Kind.LOG_LEVEL.value] = level_settings(self.active, self._base.log_level)
        return found

    # -- inside -------------------------------------------------------------------------------------------------------

    def _set_levels(self) -> None:
        """Have worker and children log from the levels on that count now."""
        levels = {name or "": str(one.value) for name, one in self.active.log_levels().items()}
        if levels == self._levels:
            return
        self._levels = levels
        logger.warning("log levels: %s", levels or "as the worker was started", extra={"worker": self.active.worker})
        if self._base.sets_levels:
            self._logs.set(levels)
        self._lifecycle.executor.set_log_levels(levels)

    def _update(self) -> Obeyed:
        before = self.active.paused
        newly = self.active.update()
        self._scaling.update()
        self._set_levels()
        self._limits.update()
        if self.active.paused.keys() != before.keys():
            log_pauses(self.active, before.keys())
            # Before anything is given back, or the broker would send it right here again.
            self._changed()
        back = self._give_back(newly) if newly else 0
        # Of every paused queue: this pause may have been read from the store a moment ago, by another thread.
        return Obeyed(0, back, self._starting() if self.active.paused else frozenset())

    def _give_back(self, queues: Collection[str]) -> int:
        """Give back what waits of these queues; how many deliveries."""
        waiting = [one for one in self._inflight.all() if one.phase in _WAITS and one.message.queue in queues]
        # The last that came first: each goes to the head of its queue, and so they come again in their order.
        for delivery in reversed(waiting):
            self._events.happened(delivery, Event.PAUSED)
        return sum(one.phase is Phase.SETTLING or one.phase is Phase.DONE for one in waiting)

    def _starting(self) -> frozenset[int]:
        """The tokens of paused deliveries that are past the look at what counts, and before their handler."""
        paused = self.active.paused
        return frozenset(
            one.token for one in self._inflight.all() if one.message.queue in paused and self._is_starting(one.token)
        )

    def _is_starting(self, token: int) -> bool:
        delivery = self._inflight.get(token)
        if delivery is None or delivery.phase is not Phase.RUNNING:
            return delivery is not None and delivery.phase is Phase.RESERVED
        return self._lifecycle.executor.is_about_to_begin(token)
