"""The messages that a Celery worker holds: running, and waiting for a slot, an eta or a rate limit."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from celery.worker import state
from celery.worker.request import Request

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """See :class:`stem_kombu.agent.leases.HeldMessage`."""

    token: Any
    handle: Any
    lease_lost: bool
    task_id: str


class HeldRequests:
    """See :class:`stem_kombu.agent.leases.HeldMessages`. ``worker`` is Celery's ``WorkController``."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._lost: weakref.WeakSet[Any] = weakref.WeakSet()

    def all(self) -> list[HeldRequest]:
        return [
            HeldRequest(message.delivery_tag, message, message in self._lost, str(request.id))
            for request in self._requests()
            if not request.acknowledged and (message := request._message) is not None
        ]

    def get(self, token: Any) -> HeldRequest | None:
        return next((held for held in self.all() if held.token == token), None)

    def lost(self, held: HeldRequest) -> None:
        """Celery can't stop it for that, nor keep its outcome back: say so once."""
        self._lost.add(held.handle)
        logger.warning("the lease of task %s is lost: another worker may run it as well", held.task_id)

    def _requests(self) -> list[Any]:
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
