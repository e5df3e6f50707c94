"""What a worker sends of its own accord or after a while: deferred replies, and heartbeats on the stream.

A connection and a thread of its own, started when first needed: the caller hands its message over and never waits for the
broker. What can't be sent is dropped after a while: the sender's deadline passes, the next beat comes.
"""

from __future__ import annotations

import json
import logging
from collections import deque

from stem_kombu import timeouts
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.errors import BrokerError
from stem_kombu.transports.control_link import Addresses, ControlConnection, ControlLink
from stem_kombu.transports.outages import Outage

logger = logging.getLogger(__name__)

#: Replies that wait to be sent; with more of them the oldest are dropped.
_MOST_REPLIES = 1000


class ReplyPublisher:
    """Safe from any thread; never blocks and never raises for a broker that is away. Its thread ends when it has had nothing to
    send for ``linger`` seconds, and leaves its connection to the next one; ``None``: it stays."""

    def __init__(self, link: ControlLink, namespace: str, *, clock: Clock, linger: float | None = None) -> None:
        self._link, self._namespace = link, namespace
        self._clock, self._linger = clock, linger
        self._outage = Outage("replies and heartbeats are not sent", link.url, clock)
        self._changed = threads.Condition()
        self._replies: deque[tuple[float, str, bytes]] = deque()
        self._beat: Heartbeat | None = None
        self._thread: threads.Thread | None = None
        #: The connection that a thread has left.
        self._kept: ControlConnection | None = None

    def reply(self, reply_to: str, body: bytes) -> None:
        """Send the reply as soon as the broker takes it; after a while it is dropped."""
        with self._changed:
            self._replies.append((self._clock.monotonic() + timeouts.REPLY_LIFE, reply_to, body))
            if len(self._replies) > _MOST_REPLIES:
                self._replies.popleft()
            self._wake()

    def heartbeat(self, beat: Heartbeat) -> None:
        """Send the beat unless a newer one comes first."""
        with self._changed:
            self._beat = beat
            self._wake()

    def close(self) -> None:
        """Send what is still to be sent, as long as that is quick, and let the connection go.

        May be called twice; the next message connects again.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            kept, self._kept = self._kept, None
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeouts.LAST_REPLIES)
        _close(kept)

    def _wake(self) -> None:
        if self._thread is None:
            thread = threads.Thread(target=self._run, name="stem-control-outbox", daemon=True)
            thread.start()
            self._thread = thread  # before it looks, as it needs the lock for that
        self._changed.notify_all()

    def _run(self) -> None:
        me = threads.current_thread()
        with self._changed:
            connection, self._kept = self._kept, None
        while True:
            with self._changed:
                if self._thread is me and not (self._replies or self._beat):
                    # No confirm is awaited here: that the broker has gone in silence shows by the connection's care alone.
                    waits = (self._linger, None if connection is None else connection.keepalive)
                    self._changed.wait(min([one for one in waits if one is not None], default=None))
                    if self._linger is not None and self._thread is me and not (self._replies or self._beat):
                        self._thread, self._kept = None, connection
                        return
                if self._thread is not me and (self._outage.failures or not (self._replies or self._beat)):
                    break
                reply = self._replies[0] if self._replies else None
                beat = None if reply is not None else self._beat
            if connection is None and reply is None and beat is None:
                continue
            if connection is None and (wait := self._outage.turn()) > 0:
                self._wait_after(wait, me)
                continue
            try:
                if connection is None:
                    nothing = Addresses(self._namespace)
                    connection = self._link.open(nothing, timeout=timeouts.OUTBOX_CONNECT, limit=timeouts.OUTBOX_REPLY)
                if connection.keepalive is not None:
                    # So it notices that the broker has ended the connection, of which a write would tell nothing.
                    connection.wait(0.0)
                if reply is not None:
                    connection.send(reply[1], reply[2], expires=timeouts.REPLY_EXPIRES)
                elif beat is not None:
                    _publish(connection, beat)
                else:
                    continue
            except BrokerError as error:
                _close(connection)
                connection = None
                # An idle connection may have been cut long ago, so the first failure says nothing yet.
                wait = self._outage.failed(error)
                self._wait_after(wait if self._outage.failures > 1 else 0.0, me)
                continue
            except Exception:
                # The boundary of a thread that nothing supervises: what can't be sent is dropped, and logged here.
                logger.exception("a reply or a heartbeat can't be sent at all")
                _close(connection)
                connection = None
            self._outage.worked()
            self._sent(reply, beat)
        self._outage.forget()
        _close(connection)

    def _wait_after(self, seconds: float, me: threads.Thread) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._thread is not me, seconds)
            now = self._clock.monotonic()
            while self._replies and self._replies[0][0] <= now:
                self._replies.popleft()

    def _sent(self, reply: tuple[float, str, bytes] | None, beat: Heartbeat | None) -> None:
        with self._changed:
            if reply is not None and self._replies and self._replies[0] is reply:
                self._replies.popleft()
            if beat is not None and self._beat is beat:
                self._beat = None


def _publish(connection: ControlConnection, beat: Heartbeat) -> None:
    if not connection.is_blocked:  # else it would only lie there, and come when it is old
        body = json.dumps(beat.to_record()).encode()
        connection.publish_heartbeat(body, expires=max(1.0, beat.interval))


def _close(connection: ControlConnection | None) -> None:
    if connection is not None:
        connection.close()
