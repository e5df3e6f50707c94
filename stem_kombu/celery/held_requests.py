"""The messages that a Celery worker holds: running, and waiting for a slot, an eta or a rate limit."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.worker import state
from celery.worker.request import Request

from stem_kombu.transports.topics import topic_matches

if TYPE_CHECKING:
    from celery.worker import WorkController
    from celery.worker.consumer import Consumer
    from kombu import Queue

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """See :class:`stem_kombu.agent.leases.HeldMessage`."""

    token: object
    handle: object
    lease_lost: bool
    task_id: str


class HeldRequests:
    """See :class:`stem_kombu.agent.leases.HeldMessages`. ``worker`` is Celery's ``WorkController``."""

    def __init__(self, worker: WorkController) -> None:
        self._worker = worker
        self._lost: weakref.WeakSet[Request] = weakref.WeakSet()

    def all(self) -> list[HeldRequest]:
        return [
            HeldRequest(message.delivery_tag, message, message in self._lost, str(request.id))
            for request in self.requests()
            if not request.acknowledged and (message := request._message) is not None
        ]

    def get(self, token: object) -> HeldRequest | None:
        return next((held for held in self.all() if held.token == token), None)

    def lost(self, held: HeldRequest) -> None:
        """Celery can't stop it for that, nor keep its outcome back: say so once."""
        self._lost.add(held.handle)
        logger.warning("the lease of task %s is lost: another worker may run it as well", held.task_id)

    def requests(self) -> list[Request]:
        """Celery's requests: what came first is first, of those that wait for the same."""
        waiting_for_eta = [request for _, request in self._on_timer()]
        known = {request.id: request for request in [*waiting_for_eta, *list(state.requests.values())]}
        return [*known.values(), *self._limited()]

    def waiting(self) -> list[object]:
        """Those that wait for an eta or a rate limit."""
        return [*(request for _, request in self._on_timer()), *self._limited()]

    def _limited(self) -> list[object]:
        buckets = list(getattr(self._worker.consumer, "task_buckets", {}).values())
        return [held[0] for bucket in buckets if bucket for held in list(bucket.contents)]

    def withdraw(self, consumer: Consumer, request: object) -> None:
        """Have a request wait no longer for its eta or a rate limit; called by Celery's loop."""
        for entry, waiting in self._on_timer():
            if waiting is request:
                consumer.timer.cancel(entry)
                consumer.qos.decrement_eventually()
        for bucket in consumer.task_buckets.values():
            for held in list(bucket.contents) if bucket else ():
                if held[0] is request:
                    bucket.contents.remove(held)

    def _on_timer(self) -> Iterator[tuple[object, object]]:
        """What waits for an eta, with its entry: Celery before 5.7 knows it only as arguments of its timer's entries."""
        timer = getattr(self._worker.consumer, "timer", None)
        # Its sorted view can't be had of greenlets, which are all that a green pool's timer keeps.
        for waiting in list(getattr(timer.schedule, "_queue", ())) if timer is not None else ():
            arguments = getattr(waiting.entry, "args", None) or ()
            if arguments and isinstance(arguments[0], Request):
                yield waiting.entry, arguments[0]


def snapshot(requests: Iterable[object]) -> list[Request]:
    """What is in one of Celery's sets of requests now. Its pool and its loop change them while other threads look."""
    while True:
        try:
            return list(requests)
        except RuntimeError:  # it changed its size meanwhile
            continue


def consumed_from(info: Mapping[str, object], queues: Sequence[Any]) -> str:
    """The name of the one of Kombu's ``queues`` that a message was in, by the exchange and routing key of its delivery: Celery
    keeps no more of it. The routing key, where no queue fits."""
    exchange, key = str(info.get("exchange") or ""), str(info.get("routing_key") or "")
    bound = [queue for queue in queues if exchange and queue.exchange is not None and queue.exchange.name == exchange]
    fitting = [queue for queue in bound if _fits(queue, key)]
    return str((fitting or bound)[0].name) if bound else key


def _fits(queue: Queue, key: str) -> bool:
    pattern = str(queue.routing_key or "")
    return topic_matches(pattern, key) if queue.exchange.type == "topic" else pattern == key
