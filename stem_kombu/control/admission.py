"""Which commands a worker obeys: those addressed to it, fresh, and not seen before (G12, G14). Pure but for its clock."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

from stem_kombu.clock import Clock, from_epoch
from stem_kombu.control.messages import Command

logger = logging.getLogger(__name__)

#: Seconds by which the roster's clock, as two processes know it, may differ.
TOLERANCE = 2.0
#: Commands further in the future than this come from a clock that nobody can rely on.
_FUTURE = timedelta(hours=24)
#: Remembered commands, and the bytes of their answers; each is remembered until it would be stale anyway.
_MOST = 4096
_MOST_BYTES = 16 * 1024 * 1024
#: Seconds between two log lines about what was dropped.
_LOG_EVERY = 60.0


class Admission:
    """Remembers, until it expires, each command that was admitted, and the answer once there is one."""

    def __init__(self, worker: str, namespace: str, roster_now: Callable[[], float], clock: Clock) -> None:
        self._worker = worker
        self._namespace = namespace
        self._roster_now = roster_now
        self._clock = clock
        self._seen: OrderedDict[tuple[str, int], bytes | None] = OrderedDict()
        self._bytes = 0
        self._next_log = 0.0
        self._unlogged = 0
        #: How many messages were dropped, by reason.
        self.dropped: dict[str, int] = {}

    def admits(self, command: Command) -> bool:
        """Whether to carry the command out: the first time it comes, while it is fresh, if it is meant for this worker."""
        if command.namespace != self._namespace or not command.is_for(self._worker):
            return False  # not an error: on some transports everyone hears everything
        now = from_epoch(self._roster_now())
        if command.expires_at + timedelta(seconds=TOLERANCE) < now or command.issued_at > now + _FUTURE:
            self.drop("stale", f"command {command.order.name!r} of {command.sender or 'somebody'} has expired")
            return False
        key = (command.request_id, command.part)
        if key in self._seen:
            return False
        self._seen[key] = None
        while len(self._seen) > _MOST or self._bytes > _MOST_BYTES:
            _, answer = self._seen.popitem(last=False)
            self._bytes -= len(answer or b"")
        return True

    def answered(self, command: Command, answer: bytes) -> None:
        """Remember the answer, for a sender whose first reply got lost."""
        key = (command.request_id, command.part)
        if key in self._seen:
            self._seen[key] = answer
            self._bytes += len(answer)

    def answer_to(self, command: Command) -> bytes | None:
        """The answer that was given to this command already, ``None`` when it wasn't seen or is still being worked on."""
        return self._seen.get((command.request_id, command.part))

    def drop(self, reason: str, text: str) -> None:
        """Count a message that is not obeyed, and log it, but no more than once a minute (G17)."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self._unlogged += 1
        now = self._clock.monotonic()
        if now >= self._next_log:
            logger.warning("%d control messages were dropped, the last because: %s", self._unlogged, text)
            self._unlogged = 0
            self._next_log = now + _LOG_EVERY
