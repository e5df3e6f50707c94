"""Scheduled tasks that were revoked, at a broker that keeps them until they are due.

Other brokers deliver a task with an eta at once: the worker holds it, and cancels it when it is revoked. The embedded broker
keeps it, and a revocation that ends before the task is due would have no effect there. So what is revoked is called in.
"""

from __future__ import annotations

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.transports.base import ScheduledMessages


class ScheduledRevoked:
    """Calls in what ``cache`` says is revoked. For the thread of the connection that consumes."""

    def __init__(self, cache: RevocationCache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._seen: tuple[object, ...] = ()
        self._mark: object = None
        self._messages: ScheduledMessages | None = None
        self._after = 0
        self._look_at = float("-inf")

    def look(self, messages: ScheduledMessages) -> None:
        """Call in what is revoked and scheduled, of the messages that this connection's broker keeps. Cheap when nothing has
        changed. Raises what the driver raises."""
        revoked = (self._cache.highest, len(self._cache))
        if messages is not self._messages or revoked != self._seen:
            self._messages, self._seen, self._after, self._mark = messages, revoked, 0, None
        elif not len(self._cache) or self._clock.monotonic() < self._look_at:
            return
        self._look_at = self._clock.monotonic() + timeouts.SCHEDULE_LOOK
        if len(self._cache) and (mark := messages.mark()) != self._mark:
            self._mark = mark
            self._after = messages.call_in(self._is_revoked, self._after)

    def _is_revoked(self, task_id: str) -> bool:
        return task_id in self._cache
