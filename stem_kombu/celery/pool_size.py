"""How many children or greenlets a Celery worker's pool has, as ``stem worker scale`` asks for: by Celery's own means, those of
``celery control pool_grow`` and ``pool_shrink`` (G25).

What counts is decided in any thread. A pool of processes is changed by Celery's loop, which owns it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.control.server.worker_view import Setting
from stem_kombu.directive import Directive, Kind
from stem_kombu.worker.active_directives import ActiveDirectives

if TYPE_CHECKING:
    from celery.concurrency.base import BasePool
    from celery.worker import WorkController
    from celery.worker.consumer import Consumer

logger = logging.getLogger(__name__)

#: A pool grows to no more than this, or than it was started with: the stop table has room for four times as many tasks.
MOST = 64


class PoolSize:
    """Of one worker: ``worker`` is Celery's ``WorkController``, ``held`` says which directive counts. Changed by one thread at a
    time."""

    def __init__(self, worker: WorkController, held: ActiveDirectives) -> None:
        self._worker, self._held = worker, held
        self._base = int(worker.concurrency or 1)
        #: The size that was asked for last, ``None`` before any was; and what it is while Celery's loop has not reached it.
        self._asked: int | None = None
        self._wanted: int | None = None

    def obeys(self, directive: Directive) -> bool:
        """Whether the worker can do what it asks for, or be free of it."""
        if directive.kind is not Kind.CONCURRENCY or directive.cleared:
            return directive.kind is Kind.CONCURRENCY
        return self._scales() and isinstance(directive.value, int)

    def update(self) -> None:
        """Have the pool as large as the directive that counts asks for, or as it was started."""
        directive = self._directive()
        if directive is None and self._asked is None:
            return
        size = self._base if directive is None else self._size(directive)
        if size == self._asked:
            return  # and what Celery's own command has changed meanwhile stays
        logger.warning("pool of %d instead of %d", size, self._now(), extra={"worker": self._held.worker})
        self._asked = None if directive is None else size
        self._wanted = size
        consumer = getattr(self._worker, "consumer", None)
        if consumer is None:
            return
        if self._worker.pool.is_green:
            self._resize(consumer)  # Celery's loop may wait for one of its slots
        else:
            consumer.call_soon(self._resize, consumer)

    def settings(self) -> dict[str | None, Setting]:
        """See :class:`~stem_kombu.control.server.worker_view.WorkerView`; empty where the pool can't be scaled."""
        if not self._scales():
            return {}
        directive = self._directive()
        size = self._now() if directive is None else self._size(directive)
        clamped = directive is not None and size != directive.value
        return {None: Setting(size, self._base, directive=directive, clamped=clamped)}

    # -- the pool's own thread --------------------------------------------------------------------------------------------------

    def _resize(self, consumer: Consumer) -> None:
        pool, before = consumer.pool, self._now()
        if (wanted := self._wanted) is None:
            return
        if wanted > before:
            pool.grow(wanted - before)
            pool.maintain_pool()
        elif wanted < before:
            self._shrink(pool, before - wanted)
        if (change := self._now() - before) != 0:
            if consumer.qos is not None:
                consumer._update_prefetch_count(change)
            elif consumer.initial_prefetch_count:  # it has not begun to consume
                consumer.initial_prefetch_count = self._now() * consumer.prefetch_multiplier
        if self._now() == wanted:
            self._wanted = None
        else:
            consumer.timer.call_after(timeouts.POOL_SHRINK_LOOK, self._resize, (consumer,))

    def _shrink(self, pool: BasePool, count: int) -> None:
        """End a child that is idle, or ``count`` greenlets. A child that was sent a task and has not begun it is not idle."""
        processes: Any = getattr(pool, "_pool", None)
        if pool.is_green:
            pool.shrink(count)
            return
        # One at a time: billiard would end the same child again as long as it has not gone.
        going = len(processes._pool) > processes._processes
        if going or any(job._write_to and not job.accepted() for job in list(processes._cache.values())):
            return
        with suppress(ValueError):  # all of them are busy
            pool.shrink(1)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _scales(self) -> bool:
        pool = getattr(self._worker, "pool", None)  # threads and solo have no such means
        return hasattr(pool, "grow") and hasattr(pool, "shrink") and self._worker.autoscaler is None

    def _now(self) -> int:
        pool = self._worker.pool
        if pool.is_green:  # up to Celery 5.6 its num_processes with gevent are the greenlets that run something
            return self._base if pool._pool is None else int(pool._pool.size)
        return int(pool.num_processes or 0)

    def _directive(self) -> Directive | None:
        directive = self._held.winner(Kind.CONCURRENCY)
        return directive if directive is not None and self.obeys(directive) else None

    def _size(self, directive: Directive) -> int:
        assert isinstance(directive.value, int)
        return max(1, min(directive.value, max(MOST, self._base)))
