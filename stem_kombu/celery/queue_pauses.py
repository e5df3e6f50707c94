"""Paused queues of a Celery worker: it stops consuming them, and what waits of them goes back to the broker (G22).

What may not start is decided under a lock, in any thread, before a task is handed to the pool. What changes at the broker is
done by Celery's own loop, which owns the connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from celery.worker import state

from stem_kombu.agent.held_directives import HeldDirectives
from stem_kombu.celery.held_requests import HeldRequests, consumed_from, snapshot

if TYPE_CHECKING:
    from celery.worker import WorkController
    from celery.worker.consumer import Consumer
    from celery.worker.request import Request
    from kombu import Queue

logger = logging.getLogger(__name__)


class QueuePauses:
    """Of one worker: ``worker`` is Celery's ``WorkController``, ``held`` says which queues are paused."""

    def __init__(self, worker: WorkController, held: HeldDirectives, requests: HeldRequests) -> None:
        self._worker, self._held, self._requests = worker, held, requests
        self._lock = threading.Lock()
        #: The queues that were left because they are paused, at the connection that Celery has now.
        self._left: set[str] = set()

    # -- from any thread ------------------------------------------------------------------------------------------------

    def queues(self) -> list[Queue]:
        """Kombu's queues that this worker consumes, or would if they were not paused."""
        selected = {queue.name: queue for queue in self._worker.app.amqp.queues.consume_from.values()}
        consumer = getattr(self._worker.consumer, "task_consumer", None)
        if consumer is None:
            return list(selected.values())
        paused = [queue for name, queue in selected.items() if name in self._held.paused]
        return list({queue.name: queue for queue in [*consumer.queues, *paused]}.values())

    def admits(self, request: Request) -> bool:
        """Whether this request of Celery's may be handed to the pool; what may not goes back to its queue."""
        if request.stem_given_back:
            return False
        # Before the look at what is paused: a pause that comes now then finds that the request was handed on.
        request.stem_handed = True
        if not self._held.paused:
            return True
        with self._lock:
            if request.stem_given_back:
                return False
            if self._queue_of(request) not in self._held.paused:
                return True
            request.stem_given_back, request.stem_handed = True, False
        self._settle([request])
        return False

    def give_back(self, queues: Collection[str]) -> int:
        """Give back what waits of these queues: for a slot, an eta or a rate limit. How many tasks."""
        with self._lock:
            waiting = [one for one in self._requests.requests() if self._waits(one) and self._queue_of(one) in queues]
            for request in waiting:
                request.stem_given_back = True
        self._settle(waiting)
        return len(waiting)

    def starting(self) -> frozenset[int]:
        """The tokens of tasks of paused queues that the pool was given, and has not begun yet."""
        with self._lock:
            return frozenset(
                id(request)
                for request in snapshot(state.reserved_requests)
                if getattr(request, "stem_handed", False)
                and request not in state.active_requests
                and self._queue_of(request) in self._held.paused
            )

    def changed(self) -> None:
        """Have Celery's loop consume what is to be consumed now."""
        self._settle([])

    # -- Celery's loop --------------------------------------------------------------------------------------------------

    def leave(self, consumer: object) -> None:
        """Before Celery begins to consume, with each new connection: leave out what is paused."""
        self._left = set()
        self._consume(consumer)

    def _consume(self, consumer: Consumer) -> None:
        tasks = consumer.task_consumer
        if tasks is None:
            return
        paused = self._held.paused
        for queue in list(tasks.queues):
            if queue.name in paused:
                tasks.cancel_by_queue(queue.name)
                self._left.add(queue.name)
        back = self._left - paused.keys()
        self._left -= back
        # What operators have cancelled with Celery's own command meanwhile is not selected any more.
        again = [queue for queue in self._worker.app.amqp.queues.consume_from.values() if queue.name in back]
        for queue in again:
            if not tasks.consuming_from(queue.name):
                tasks.add_queue(queue)
        if again:
            tasks.consume()

    def _return(self, consumer: Consumer, requests: Sequence[Request]) -> None:
        self._consume(consumer)  # first, or the broker would send it right here again
        # The last that came first: each goes to the head of its queue, and so they come again in their order.
        for request in reversed(requests):
            self._requests.withdraw(consumer, request)
            state.task_ready(request)
            if not request.acknowledged:
                request._message.reject_log_error(logger, consumer.connection_errors, requeue=True)
                request.acknowledged = True
                request.send_event("task-rejected", requeue=True)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _settle(self, requests: Sequence[object]) -> None:
        consumer = getattr(self._worker, "consumer", None)
        if consumer is not None and getattr(consumer, "task_consumer", None) is not None:
            consumer.call_soon(self._return, consumer, requests)

    def _waits(self, request: Request) -> bool:
        if request.acknowledged or getattr(request, "stem_given_back", True):
            return False
        if not request.stem_handed:
            return True
        # A pool of threads has a queue of its own, and takes back what it has not begun.
        future = request.stem_future
        return future is not None and bool(future.cancel())

    def _queue_of(self, request: Request) -> str:
        return consumed_from(request.delivery_info or {}, self.queues())
