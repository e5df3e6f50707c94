"""How many isolate children there are to be: the worker's own number, that of ``scale``, or what ``autoscale`` makes of the work
that waits (G25).

Under ``autoscale`` a thread looks every two seconds: at the messages that wait in each queue, of which the live workers that
consume it have equal shares, and at the children that are busy. Otherwise no thread runs, and nothing is asked.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from stem_kombu import timeouts
from stem_kombu.agent.resources import Resources
from stem_kombu.autoscale import Autoscale, Autoscaler, Look
from stem_kombu.backends.heartbeat import Liveness
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.rounds import Rounds
from stem_kombu.control.server.worker_view import Setting
from stem_kombu.directive import Directive, Kind
from stem_kombu.errors import StoreError
from stem_kombu.fields import FieldError
from stem_kombu.task import Mode
from stem_kombu.worker.active_directives import ActiveDirectives
from stem_kombu.worker.task_lifecycle import TaskLifecycle

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OwnValues:
    """What counts for a worker without directives: how many children it was started with, where that came from, and how many
    it may have at most; and from which level on it logs. ``sets_levels``: this process's logging is the worker's as well."""

    concurrency: int
    source: str = "default"
    most: int | None = None
    log_level: str = "info"
    sets_levels: bool = False


class ScalingService:
    """Of one worker, whose tasks are ``lifecycle``'s; ``base`` counts without a directive."""

    def __init__(
        self, active: ActiveDirectives, lifecycle: TaskLifecycle, resources: Resources, base: OwnValues
    ) -> None:
        self._active, self._lifecycle, self._base = active, lifecycle, base
        self._depths, self._roster = resources.depths, resources.roster
        self._clock = lifecycle.facts.clock
        #: How many children there are to be now.
        self.concurrency = base.concurrency
        self._lock = threads.Lock()
        #: The directive that asks for autoscale, and what it came to.
        self._obeyed: Directive | None = None
        self._scaler: Autoscaler | None = None
        self._consumers: Mapping[str, int] = {}
        self._read_at = float("-inf")
        self._extra = {"worker": active.worker}
        self._background = Rounds(self._look, "stem-autoscale")

    # -- from any thread ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Be ready: the thread begins with the first directive that asks for autoscale."""
        self._background.start_when_needed()
        if self._scaler is not None:
            self._background.needed()

    def stop(self) -> None:
        """There are as many children as there are. May be called twice, and before a start."""
        self._background.stop()

    def update(self) -> None:
        """Have as many children as the directive that counts asks for, or as many as this worker was started with."""
        if self._lifecycle.executor.isolates is None:
            return
        with self._lock:
            directive = self._active.winner(Kind.CONCURRENCY)
            is_new = directive is None or self._obeyed is None or directive.version != self._obeyed.version
            if is_new:
                self._obeyed, self._scaler = directive, _scaler(directive)
            self._resize(self._wanted())
        if is_new and self._scaler is not None:
            logger.warning("isolate children by the work that waits: %s", self._scaler.scaling, extra=self._extra)
            self._background.needed()
            self._background.wake()

    def settings(self) -> Mapping[str | None, Setting]:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`; empty where no task is an isolate."""
        if self._lifecycle.executor.isolates is None:
            return {}
        with self._lock:
            base, directive, scaler = self._base, self._active.winner(Kind.CONCURRENCY), self._scaler
            if directive is None:
                return {None: Setting(base.concurrency, base.concurrency, base.source)}
            if scaler is not None:
                asked: object = {**scaler.scaling.value(), "children": self.concurrency}
                clamped = self._ceiling(scaler.scaling.most) != scaler.scaling.most
            else:
                asked = self._wanted()
                clamped = asked != directive.value
            return {None: Setting(asked, base.concurrency, base.source, directive, clamped=clamped)}

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _look(self) -> float | None:
        if (scaler := self._scaler) is None:
            return None
        backlog = self._backlog()
        with self._lock:
            if scaler is self._scaler:
                look = Look(self.concurrency, self._busy(), backlog)
                self._resize(self._ceiling(scaler.decide(look, self._clock.monotonic())))
        return timeouts.AUTOSCALE_LOOK

    def _busy(self) -> int:
        slots = self._lifecycle.executor.views().get(Mode.ISOLATE, ())
        return sum(slot.task_id is not None for slot in slots)

    def _backlog(self) -> float | None:
        """This worker's share of the messages that wait in the queues that it fetches from; ``None`` where one of them can't
        be counted."""
        skipped = {*self._active.paused, *self._active.limits.closed}
        queues = [queue for queue in self._active.queues if queue not in skipped]
        depths = self._depths.of(queues)
        consumers = self._sharing()
        shares = [(depths.get(queue), consumers.get(queue)) for queue in queues]
        known = [depth / count for depth, count in shares if depth is not None and count is not None]
        return sum(known) if len(known) == len(queues) else None

    def _sharing(self) -> Mapping[str, int]:
        """How many live workers consume each queue, this one included; as it was, while the roster can't be read."""
        now = self._clock.monotonic()
        if now - self._read_at >= timeouts.AUTOSCALE_ROSTER:
            self._read_at = now
            try:
                view = self._roster.view(self._active.namespace)
            except StoreError as error:
                logger.info("who shares the queues can't be read: the shares stay as they are: %s", error)
            else:
                own = self._active.worker
                others = [
                    beat for beat in view.heartbeats if beat.worker != own and beat.liveness(view.now) is Liveness.LIVE
                ]
                counted = Counter(queue for beat in others for queue in beat.queues if queue not in beat.paused)
                self._consumers = {queue: 1 + counted[queue] for queue in self._active.queues}
        return self._consumers

    # -- inside -------------------------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        """How many children there are to be. Under the lock."""
        directive, scaler = self._obeyed, self._scaler
        if scaler is not None:
            return self._ceiling(scaler.bounded(self.concurrency))
        if directive is None or not isinstance(directive.value, int):
            return self._base.concurrency
        return self._ceiling(directive.value)

    def _ceiling(self, children: int) -> int:
        return max(1, children if self._base.most is None else min(children, self._base.most))

    def _resize(self, wanted: int) -> None:
        """Under the lock."""
        if wanted != self.concurrency:
            logger.warning("%d children instead of %d", wanted, self.concurrency, extra=self._extra)
            self.concurrency = wanted
            self._lifecycle.resize(wanted)


def _scaler(directive: Directive | None) -> Autoscaler | None:
    """What carries a directive out that asks for autoscale."""
    if directive is None or not isinstance(directive.value, Mapping):
        return None
    try:
        return Autoscaler(Autoscale.of_value(directive.value))
    except FieldError:
        return None
