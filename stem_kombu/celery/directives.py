"""The directives that a Celery worker obeys: pauses of queues, and log levels. Others are refused: Celery has its own ways."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from stem_kombu.agent.directive_loop import DirectiveLoop, level_settings, log_pauses, pause_settings
from stem_kombu.agent.held_directives import HeldDirectives
from stem_kombu.agent.record_sync import Subscriber
from stem_kombu.agent.resources import Resources
from stem_kombu.celery.held_requests import HeldRequests
from stem_kombu.celery.process_levels import here
from stem_kombu.celery.queue_pauses import QueuePauses
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.control.directive_writer import read_directives
from stem_kombu.control.server.worker_view import InForce, Obeyed
from stem_kombu.directive import PLACE, Directive, Kind
from stem_kombu.errors import ControlError
from stem_kombu.stores.records import ControlRecord

logger = logging.getLogger(__name__)

_OBEYED = frozenset({Kind.PAUSE, Kind.LOG_LEVEL})
#: Seconds between two looks at tasks whose start is under way.
_LOOK = 0.005


class GuestDirectives:
    """Of one Celery worker. Its processes read log levels from ``stop_table``."""

    def __init__(self, worker: Any, resources: Resources, requests: HeldRequests, stop_table: SharedStopTable) -> None:
        self.held = HeldDirectives(resources.identity, (), resources.cache.now)
        self.pauses = QueuePauses(worker, self.held, requests)
        self._stop_table, self._clock = stop_table, resources.clock
        self._own_level = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
        self._levels: dict[str, str] = {}
        self._loop = DirectiveLoop(self.held, resources.verifier, self._update)
        #: What hands records of the store over.
        self.subscribers: dict[str, Subscriber] = {PLACE: self._take}

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Nothing is lifted any more, and processes log as they were started. May be called twice, and before a start."""
        self._loop.stop()
        self._set_levels({})

    def obey(self, directives: Sequence[Directive]) -> Obeyed:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`. Raises :class:`ControlError` with the code
        ``unsupported`` where it can't obey all of them; it obeys the others."""
        obeyed = self._loop.obey(_obeyed(directives))
        if others := {one.kind.value for one in directives if one.kind not in _OBEYED}:
            kinds = ", ".join(sorted(others))
            raise ControlError(
                f"a Celery worker obeys pauses and log levels, and no directives of kind {kinds}", code="unsupported"
            )
        return obeyed

    def refresh(self) -> None:
        """Look again: Celery consumes other queues than before."""
        self._loop.obey(())

    def wait_started(self, tokens: Collection[int], timeout: float) -> int:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`."""
        deadline = self._clock.monotonic() + timeout
        while (left := len(self.pauses.starting() & set(tokens))) and self._clock.monotonic() < deadline:
            self._clock.sleep(_LOOK)
        return left

    def settings(self) -> InForce:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`."""
        return {
            Kind.PAUSE.value: pause_settings(self.held),
            Kind.LOG_LEVEL.value: level_settings(self.held, self._own_level),
        }

    def _take(self, records: Sequence[ControlRecord]) -> None:
        self._loop.obey(_obeyed(read_directives(records, self.held.namespace)))

    def _update(self) -> Obeyed:
        held, before = self.held, self.held.paused
        held.queues = tuple(str(queue.name) for queue in self.pauses.queues())
        newly = held.update()
        self._set_levels({name or "": str(one.value) for name, one in held.log_levels().items()})
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


def _obeyed(directives: Iterable[Directive]) -> list[Directive]:
    return [one for one in directives if one.kind in _OBEYED]
