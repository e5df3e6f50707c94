"""Heartbeats as they are sent: what ``stem worker status --follow`` shows."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from datetime import datetime

from stem_kombu import chance, timeouts
from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.clock import Clock
from stem_kombu.control.protocol.codec import LARGEST_COMMAND
from stem_kombu.control.verification import NO_KEYS, Verifier
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import BroadcastUnsupported
from stem_kombu.transports.control_link import Addresses, ControlLink, MalformedMessage


class HeartbeatStream:
    """Subscribed from the moment it is made; used by one thread. With keys in ``trust``, beats are passed on that the fleet
    signed, each once and while it is fresh by the roster's clock.

    Raises :class:`~stem_kombu.errors.BrokerUnavailable`, and :class:`~stem_kombu.errors.BroadcastUnsupported` for a
    link that can't send to all who listen.
    """

    def __init__(
        self,
        link: ControlLink,
        namespace: str,
        *,
        timeout: float,
        clock: Clock,
        trust: Verifier | None = None,
        roster_now: Callable[[], datetime] | None = None,
    ) -> None:
        self._clock = clock
        self._namespace = namespace
        self._trust = trust or NO_KEYS
        self._roster_now = roster_now or clock.utcnow
        self._latest: dict[str, datetime] = {}
        self._arrived: deque[Heartbeat] = deque()
        self._complaints = DropCounter("heartbeats on the stream", clock)
        if not link.fans_out(timeout):
            raise BroadcastUnsupported(
                f"broker {link.url}: it can't send heartbeats to several readers",
                hint="give the fleet a backend (STEM_RESULT_BACKEND_URL) and read the snapshot",
            )
        addresses = Addresses(namespace, chance.token_hex(16), heartbeats=True, largest=LARGEST_COMMAND)
        self._connection = link.open(addresses, timeout=timeout, limit=timeouts.STREAM_REPLY)

    def next(self, timeout: float | None) -> Heartbeat | None:
        """The next beat, ``None`` when none came within ``timeout`` seconds (``None``: wait without bound)."""
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        while not self._arrived:
            left = timeouts.STREAM_DRAIN if deadline is None else deadline - self._clock.monotonic()
            if left <= 0:
                return None
            for message in self._connection.wait(min(left, timeouts.STREAM_DRAIN)):
                if isinstance(message, MalformedMessage):
                    self._complaints.drop("envelope", message.error)
                else:
                    self._take(message.body)
        return self._arrived.popleft()

    def close(self) -> None:
        """Let the connection go, and the queue with it."""
        self._connection.close()

    def _take(self, body: bytes) -> None:
        try:
            beat = Heartbeat.from_record(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            self._complaints.drop("bad-message", repr(error))
            return
        if beat.namespace == self._namespace and self._is_news(beat):
            self._arrived.append(beat)

    def _is_news(self, beat: Heartbeat) -> bool:
        if self._trust.keyring is None:
            return True
        now = self._roster_now()
        if (verified := self._trust.verified(beat, now)) is None or verified.issued_at is None:
            return False
        held = self._latest.get(beat.worker)
        if (held is not None and verified.issued_at <= held) or verified.liveness(now) is Liveness.DEAD:
            self._trust.roster.drop("replayed", f"a heartbeat of worker {beat.worker!r} was received before")
            return False
        self._latest[beat.worker] = verified.issued_at
        return True
