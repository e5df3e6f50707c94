"""Stem in an event loop: what may wait for a broker or a store does so in a few threads, and the loop goes on."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from stem_kombu.concurrency.thread_pool import ThreadPool
from stem_kombu.drivers import forking
from stem_kombu.errors import BrokerUnavailable

T = TypeVar("T")

#: Calls of one kind that run at once; others wait for a thread, not in the loop.
THREADS = 16


class LoopThreads:
    """Threads for calls of one kind, shared by all loops of this process. A forked child begins with none."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.renew()
        forking.renew_in_children(self)

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`."""
        self._pool = ThreadPool(self._name, THREADS)

    async def call(self, function: Callable[[], T]) -> T:
        """What the function returns or raises, called in another thread with the context variables of this place.

        A cancelled call that has begun goes on to its end unseen. Raises :class:`BrokerUnavailable` when 10,000 calls wait.
        """
        future = self._pool.submit(partial(contextvars.copy_context().run, function))
        if future is None:
            raise BrokerUnavailable(
                "10000 calls wait for an answer already", hint="send fewer, or wait for the calls that were sent"
            )
        return await asyncio.wrap_future(future)


#: Of senders and of those that wait for results: a stalled broker holds up no result, and a stalled backend no sender.
SENDING, READING = LoopThreads("stem-async-send"), LoopThreads("stem-async-read")
