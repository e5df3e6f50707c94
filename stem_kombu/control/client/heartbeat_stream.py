"""Heartbeats as they are sent: what ``stem worker status --follow`` shows."""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.clock import Clock
from stem_kombu.control.lines import acknowledges, body_of, drain, hang_up, line
from stem_kombu.control.protocol.codec import LARGEST_COMMAND
from stem_kombu.control.verification import NO_KEYS, Verifier
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import BroadcastUnsupported
from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.transports import names
from stem_kombu.transports.capabilities import capabilities_of
from stem_kombu.transports.connections import SLICE, connect
from stem_kombu.transports.errors import broker_errors, shown_url

if TYPE_CHECKING:
    from kombu import Connection

_REPLY_TIMEOUT = 10.0


class HeartbeatStream:
    """Subscribed from the moment it is made; used by one thread. With keys in ``trust``, beats are passed on that the fleet
    signed, each once and while it is fresh by the roster's clock.

    Raises :class:`~stem_kombu.errors.BrokerUnavailable`, and :class:`~stem_kombu.errors.BroadcastUnsupported` for a
    transport that can't send to all who listen.
    """

    def __init__(
        self,
        template: Connection,
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
        abilities = capabilities_of(template, clock=clock, timeout=min(timeout, 2.0))
        if not abilities.fanout:
            raise BroadcastUnsupported(
                f"broker {shown_url(template)}: transport {abilities.driver!r} can't send heartbeats to all who listen",
                hint="give the fleet a backend (STEM_RESULT_BACKEND_URL) and read the snapshot",
            )
        self._connection: Any = line(template, reply_timeout=_REPLY_TIMEOUT, confirms=False, heartbeats=True)
        self._heard: deque[Heartbeat] = deque()
        self._complaints = DropCounter("heartbeats on the stream", clock)
        self._ack = acknowledges(abilities.driver)
        try:
            connect(self._connection, timeout)
            with broker_errors(self._connection, "listening for heartbeats"):
                self._subscribe()
        except BaseException:
            self.close()
            raise

    def next(self, timeout: float | None) -> Heartbeat | None:
        """The next beat, ``None`` when none came within ``timeout`` seconds (``None``: wait without bound)."""
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        while not self._heard:
            left = SLICE if deadline is None else deadline - self._clock.monotonic()
            if left <= 0:
                return None
            with broker_errors(self._connection, "listening for heartbeats"):
                self._drain(min(left, SLICE))
        return self._heard.popleft()

    def close(self) -> None:
        """Let the connection go, and the queue with it."""
        hang_up(self._connection, clock=self._clock)

    def _subscribe(self) -> None:
        from kombu import Consumer

        self._consumer = Consumer(
            limit_decompression(self._connection.default_channel, LARGEST_COMMAND),
            [names.heartbeat_queue(self._namespace, secrets.token_hex(16))],
            on_message=self._on_message,
            on_decode_error=self._on_decode_error,
            no_ack=not self._ack,
            accept=["json"],
        )
        self._consumer.consume()
        self._drain(0.001)  # Kombu subscribes at the first drain, not before

    def _drain(self, seconds: float) -> None:
        drain(self._connection, seconds, clock=self._clock, garbage=self._on_garbage)

    def _on_message(self, message: Any) -> None:
        if self._ack:
            message.ack()
        try:
            beat = Heartbeat.from_record(json.loads(body_of(message)))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            self._complaints.drop("bad-message", repr(error))
            return
        if beat.namespace == self._namespace and self._is_news(beat):
            self._heard.append(beat)

    def _is_news(self, beat: Heartbeat) -> bool:
        if self._trust.keyring is None:
            return True
        now = self._roster_now()
        if (verified := self._trust.verified(beat, now)) is None or verified.issued_at is None:
            return False
        held = self._latest.get(beat.worker)
        if (held is not None and verified.issued_at <= held) or verified.liveness(now) is Liveness.DEAD:
            self._trust.roster.drop("replayed", f"a heartbeat of worker {beat.worker!r} was heard before")
            return False
        self._latest[beat.worker] = verified.issued_at
        return True

    def _on_decode_error(self, message: Any, error: Exception) -> None:
        if self._ack:
            message.ack()
        self._on_garbage(error)

    def _on_garbage(self, error: Exception) -> None:
        self._complaints.drop("envelope", repr(error))
