"""A step of Celery's consumer, which Celery starts anew with each connection: it leaves out queues that are paused, and shows to
probes that Celery's loop moves."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from stem_kombu import timeouts

if TYPE_CHECKING:
    from celery.worker.consumer import Consumer

    from stem_kombu.celery.agent import CeleryAgent


class ConsumerStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery publishes no types
    """See :meth:`stem_kombu.celery.agent.CeleryAgent.consumes`."""

    requires = frozenset({"celery.worker.consumer.tasks:Tasks"})
    name = "stem-health"

    def __init__(self, consumer: object, **_: object) -> None:
        self._timer: Any = None

    def start(self, consumer: Consumer) -> None:
        agent = getattr(consumer.controller, "stem", None)
        if agent is not None:
            agent.connected(consumer)
            _watch_queues(consumer, agent)
            agent.consumes()
            self._timer = consumer.timer.call_repeatedly(timeouts.GUEST_STAMP, agent.consumes)

    def stop(self, consumer: Consumer) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def _watch_queues(consumer: Consumer, agent: CeleryAgent) -> None:
    """Have a queue that Celery's own `add_consumer` adds obey the pauses that hold for it."""
    add = consumer.add_task_queue
    if hasattr(add, "stem_original"):
        return

    @functools.wraps(add)
    def added(*args: object, **kwargs: object) -> object:
        answer = add(*args, **kwargs)
        agent.directives.refresh()
        return answer

    added.stem_original = add  # type: ignore[attr-defined]
    consumer.add_task_queue = added
