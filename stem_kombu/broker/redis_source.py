"""Task queues on Redis, read in bursts and without a moment in which a kill would lose a message (see
:mod:`stem_kombu.broker.redis_scripts`).

Used by one thread. It runs over the connection pool of a Kombu channel, so that TLS, Sentinel, credentials and the key
prefix are Kombu's matter; what it holds is renewed, given back and swept like what Kombu's own consumer holds.
"""

from __future__ import annotations

import json
import logging
import secrets
import select
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.broker import redis_scripts
from stem_kombu.broker.leases import DATED_BY_SERVER
from stem_kombu.broker.redis_mail import raw_client
from stem_kombu.broker.redis_sweep import BETWEEN, Sweeper
from stem_kombu.broker.typed_json import load_typed
from stem_kombu.clock import SYSTEM, Clock

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

#: Seconds for which the server lets a waiter block. Far below every lease, see RESCUE.
WAIT = 5
#: Seconds after which a waiter that has not even been told of the end of its wait is on a dead connection.
_OVERDUE = WAIT + 5.0
#: Seconds between two looks where a source has no waiter of its own.
_LOOK = 0.02
#: Connections of the pool that are left for everything else.
_SPARE = 4
#: Messages of one burst: short enough for a script that nobody else's commands can interrupt.
_BURST = 128
#: What reading something that is no message of Kombu's raises.
NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def open_redis_source(
    connection: Connection,
    queues: Sequence[str],
    *,
    clock: Clock = SYSTEM,
    garbage: Callable[[Exception], None] | None = None,
) -> RedisSource | None:
    """The source for a connected Redis connection, ``None`` where the server lacks what it needs (Redis 6.2).

    ``garbage`` is told of each entry of a queue that is no message, which is dropped; without it the log is told.

    Raises what the driver raises.
    """
    channel: Any = connection.default_channel
    with channel.conn_or_acquire() as client:
        try:
            client.connection_pool  # noqa: B018 - a cluster's client has none, and its keys live on many servers
            raw = raw_client(channel)
            raw.execute_command("BLMOVE", "stem-absent", "stem-absent", "RIGHT", "RIGHT", 0.001)
        except (AttributeError, channel.ResponseError) as error:
            logger.info("messages are read one by one, by Kombu: %s", error)
            return None
    return RedisSource(connection, queues, raw, clock, garbage or _tell)


def _tell(error: Exception) -> None:
    logger.error("an entry of a queue is no message and is dropped: %r", error)


def message_of(text: bytes, tag: str, queue: str, channel: Any) -> Any:
    """The Kombu message of what lay in a queue's list; raises one of :data:`NO_MESSAGE` where there is none."""
    payload = load_typed(text)
    payload["properties"]["delivery_tag"] = tag
    info = payload["properties"]["delivery_info"]
    info.setdefault("exchange", "")
    info.setdefault("routing_key", queue)
    return channel.Message(payload, channel=channel)


class _Waiter:
    """One connection on which the server may hold a BLMOVE for us."""

    def __init__(self, pool: Any, command: tuple[str, ...]) -> None:
        self.connection = pool.get_connection()
        self._pool = pool
        self._command = command
        self.connection.send_command("CLIENT", "ID")
        self.client_id = int(self.connection.read_response())
        self.armed_at: float | None = None

    def fileno(self) -> int:
        return int(self.connection._sock.fileno())

    def arm(self, now: float) -> None:
        self.connection.send_command(*self._command)
        self.armed_at = now

    def answered(self) -> None:
        """Take the answer in; what was moved is known to the server, and fetched from there."""
        self.armed_at = None
        self.connection.read_response()

    def release(self) -> None:
        if self.armed_at is not None:
            self.connection.disconnect()  # an answer that is still to come must not meet somebody else's command
        self._pool.release(self.connection)


class RedisSource:
    """Messages of some queues: ``take`` what is there and acknowledge what is done, ``wait`` for more.

    Every method raises what the driver raises when the connection is lost; then make a new source. What the old one
    held stays leased, and may be acknowledged with the new one.
    """

    #: Seconds between two turns while messages keep coming: each is a script on the broker.
    gather = 0.0005
    #: With no room there is nothing to ask for.
    pushes = False

    def __init__(
        self,
        connection: Connection,
        queues: Sequence[str],
        client: Any,
        clock: Clock,
        garbage: Callable[[Exception], None],
    ) -> None:
        self._garbage = garbage
        channel: Any = connection.default_channel
        self._channel = channel
        self._client = client
        self._clock = clock
        self._errors = connection.connection_errors
        prefix = channel.global_keyprefix
        self._hash, self._index = prefix + channel.unacked_key, prefix + channel.unacked_index_key
        self._registry = f"{prefix}{channel.unacked_key}-landings"
        self._lease = max(WAIT + 1, int(channel.visibility_timeout))
        #: Seconds between two calls of :meth:`sweep`.
        self.sweep_interval = max(0.1, float(channel.unacked_restore_interval))
        own = secrets.token_hex(8)
        self._tags = f"{own}."
        self._bursts = 0
        # In the order in which Kombu takes them: by priority first, so that a rotation of the queues stays within one.
        self._queues = list(queues)
        self._by_priority = [
            [
                (queue, prefix + channel._q_for_pri(queue, step), f"{self._registry}:{own}:{step}:{number}")
                for number, queue in enumerate(self._queues)
            ]
            for step in channel.priority_steps
        ]
        self._take = client.register_script(redis_scripts.TAKE)
        self._register = client.register_script(redis_scripts.REGISTER)
        self._sweeper = Sweeper(channel, client, self._registry, self._lease)
        sources = [source for step in self._by_priority for source in step]
        self._names = [f"{landing}{BETWEEN}{key}" for _, key, landing in sources]
        most = max(1, channel.pool.max_connections - _SPARE)
        self._waiters = [
            _Waiter(channel.pool, ("BLMOVE", key, landing, "RIGHT", "LEFT", str(WAIT)))
            for _, key, landing in sources[:most]
        ]
        self._all_waited_for = len(self._waiters) == len(sources)

    def take(self, room: int, acknowledged: Sequence[str] = ()) -> list[Any]:
        """At most ``room`` messages, as Kombu messages that are noted as unacknowledged; the messages of the tags in
        ``acknowledged`` are forgotten in the same round trip, which is harmless when repeated.

        With no room, what has landed here goes back to its queue, for others."""
        turn = self._bursts % len(self._queues)
        self._bursts += 1
        sources = [source for step in self._by_priority for source in (*step[turn:], *step[:turn])]
        keys = [self._hash, self._index]
        ends = []
        for queue, key, landing in sources:
            keys += (key, landing)
            ends.append(f', "", {json.dumps(queue)}]')
        room = min(room, _BURST)
        found = self._take(keys=keys, args=[room, f"{self._tags}{self._bursts}.", *ends, *acknowledged])
        messages = []
        for tag, source, text in zip(found[::3], found[1::3], found[2::3], strict=True):
            message = self._message(tag.decode(), sources[source - 1][0], text)
            if message is not None:
                messages.append(message)
        return messages

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        """Return when there may be a message (only if ``more`` is asked for), when ``wake`` is readable, or after
        ``timeout`` seconds."""
        now = self._clock.monotonic()
        if more and any(waiter.armed_at is None for waiter in self._waiters):
            self._register(keys=[self._registry], args=self._names)
            for waiter in self._waiters:
                if waiter.armed_at is None:
                    waiter.arm(now)
        armed = [waiter for waiter in self._waiters if waiter.armed_at is not None]
        if more and not self._all_waited_for:
            timeout = min(timeout, _LOOK)
        poller = select.poll()  # not select(), which knows no descriptors above 1023
        poller.register(wake, select.POLLIN)
        by_descriptor = {waiter.fileno(): waiter for waiter in armed}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.POLLIN)
        landed = False
        for descriptor, _ in poller.poll(max(0.0, timeout) * 1000):
            if descriptor in by_descriptor:
                by_descriptor[descriptor].answered()
                landed = True
        if landed and not more:
            self.take(0)
        if any(w.armed_at is not None and self._clock.monotonic() - w.armed_at > _OVERDUE for w in armed):
            raise ConnectionError("Redis has not answered a wait in time")

    def rest(self) -> None:
        """Wait for nothing more, and give back what has landed: others are to have it."""
        for waiter in self._waiters:
            if waiter.armed_at is not None:
                # Either it ends the wait, or the wait has just ended by itself; an answer comes in both cases.
                self._client.client_unblock(waiter.client_id)
                waiter.answered()
        self.take(0)
        self._client.zrem(self._registry, *self._names)

    def settled(self, tag: str) -> None:
        """The message of that tag was rejected or given back, through Kombu."""

    def sweep(self) -> None:
        """Bring back what dead consumers held, ours and Kombu's."""
        self._sweeper.sweep()

    def close(self) -> None:
        for waiter in self._waiters:
            waiter.release()
        self._waiters = []
        self._client.close()

    def _message(self, tag: str, queue: str, text: bytes) -> Any:
        try:
            message = message_of(text, tag, queue, self._channel)
            setattr(message, DATED_BY_SERVER, True)
            return message
        except NO_MESSAGE as error:
            # No consumer of Kombu could do anything with it either.
            self._garbage(ValueError(f"queue {queue} held {text[:200]!r}, which is no message ({error!r})"))
            self.take(0, [tag])
            return None
