"""The directives that a Celery worker obeys: pauses of queues, log levels, rate limits of tasks, and the size of its pool. Others
are refused: Celery has its own ways."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.agent.directive_loop import DirectiveLoop, level_settings, log_pauses, pause_settings
from stem_kombu.agent.record_sync import Subscriber
from stem_kombu.agent.resources import Resources
from stem_kombu.celery.held_requests import HeldRequests
from stem_kombu.celery.pool_size import PoolSize
from stem_kombu.celery.process_levels import here
from stem_kombu.celery.queue_pauses import QueuePauses
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.celery.task_rates import TaskRates
from stem_kombu.control.server.worker_view import InForce, Obeyed
from stem_kombu.directive import Directive, Kind
from stem_kombu.errors import ControlError
from stem_kombu.worker.active_directives import ActiveDirectives

if TYPE_CHECKING:
    from celery.worker import WorkController

logger = logging.getLogger(__name__)

_OBEYED = frozenset({Kind.PAUSE, Kind.LOG_LEVEL})
_UNSUPPORTED = (
    "a Celery worker obeys pauses, log levels, rate limits with --name and --each, and scale where its pool can grow (prefork,"
    " gevent, eventlet, without --autoscale), no other directives of kind"
)


class GuestDirectives:
    """Of one Celery worker. Its processes read log levels from ``stop_table``."""

    def __init__(
        self, worker: WorkController, resources: Resources, requests: HeldRequests, stop_table: SharedStopTable
    ) -> None:
        self._worker = worker
        self.held = ActiveDirectives(resources.identity, (), resources.cache.now, names=self._names)
        self._rates = TaskRates(worker, self.held)
        self._pool_size = PoolSize(worker, self.held)
        self.pauses = QueuePauses(worker, self.held, requests)
        self._stop_table, self._clock = stop_table, resources.clock
        self._own_level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
        self._levels: dict[str, str] = {}
        self._loop = DirectiveLoop(self.held, resources.verifier, self._update)
        #: What hands records of the store over.
        self.subscribers: dict[str, Subscriber] = self._loop.subscribers

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Nothing is lifted any more, and tasks and processes are again as they were started. May be called twice, and before a
        start."""
        self._loop.stop()
        self._rates.lift()
        self._set_levels({})

    def obey(self, directives: Sequence[Directive]) -> Obeyed:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`. Raises :class:`ControlError` with the code
        ``unsupported`` where it can't obey all of them; it obeys the others."""
        obeyed = self._loop.obey(directives)
        if others := {one.kind.value for one in directives if not self._obeys(one)}:
            raise ControlError(f"{_UNSUPPORTED} {', '.join(sorted(others))}", code="unsupported")
        return obeyed

    def refresh(self) -> None:
        """Look again: Celery consumes other queues than before, or knows other tasks."""
        self._loop.obey(())

    def wait_started(self, tokens: Collection[int], timeout: float) -> int:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`."""
        deadline = self._clock.monotonic() + timeout
        while (left := len(self.pauses.starting() & set(tokens))) and self._clock.monotonic() < deadline:
            self._clock.sleep(timeouts.GUEST_STARTS_LOOK)
        return left

    def settings(self) -> InForce:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`."""
        limits, size = self._rates.settings(), self._pool_size.settings()
        return {
            Kind.PAUSE.value: pause_settings(self.held),
            **({Kind.RATE_LIMIT.value: limits} if limits else {}),
            **({Kind.CONCURRENCY.value: size} if size else {}),
            Kind.LOG_LEVEL.value: level_settings(self.held, self._own_level),
        }

    def _obeys(self, directive: Directive) -> bool:
        return directive.kind in _OBEYED or self._rates.obeys(directive) or self._pool_size.obeys(directive)

    def _names(self) -> list[str]:
        return list(self._worker.app.tasks)

    def _update(self) -> Obeyed:
        held, before = self.held, self.held.paused
        held.queues = tuple(str(queue.name) for queue in self.pauses.queues())
        newly = held.update()
        self._set_levels({name or "": str(one.value) for name, one in held.log_levels().items()})
        self._rates.update()
        self._pool_size.update()
        back = 0
        if held.paused.keys() != before.keys():
            log_pauses(held, before.keys())
            self.pauses.changed()
            back = self.pauses.give_back(newly)
        return Obeyed(0, back, self.pauses.starting() if held.paused else frozenset())

    def _set_levels(self, levels: dict[str, str]) -> None:
        if levels == self._levels:
            return
        self._levels = levels
        logger.warning("log levels: %s", levels or "as the worker was started", extra={"worker": self.held.worker})
        here.set(levels, self._stop_table.set_levels(levels))
