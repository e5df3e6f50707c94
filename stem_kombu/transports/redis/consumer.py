"""Task queues on Redis, read in bursts and without a moment in which a kill would lose a message (see
:mod:`stem_kombu.transports.redis.scripts`).

Used by one thread. It runs over the connection pool of a Kombu channel, so that TLS, Sentinel, credentials and the key
prefix are Kombu's matter; what it holds is renewed, given back and swept like what Kombu's own consumer holds.
"""

from __future__ import annotations

import json
import logging
import select
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu.utils.scheduling import cycle_by_name

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.transports.base import ScheduledMessages
from stem_kombu.transports.names import unreadable_queue_name
from stem_kombu.transports.payloads import NO_MESSAGE, message_of
from stem_kombu.transports.queues import declared_task_queue, forsake
from stem_kombu.transports.redis import scripts as redis_scripts
from stem_kombu.transports.redis.leases import DATED_BY_SERVER
from stem_kombu.transports.redis.one_by_one import give_back
from stem_kombu.transports.redis.recovery import Sweeper
from stem_kombu.transports.redis.siblings import SiblingWatch, unread_lists
from stem_kombu.transports.redis.watch import QueueWatch, Turns

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

#: Messages of one burst: short enough for a script that nobody else's commands can interrupt.
_BURST = 128


def open_redis_consumer(
    connection: Connection,
    queues: Sequence[str],
    *,
    clock: Clock = SYSTEM,
    unreadable: Callable[[Exception], None] | None = None,
) -> RedisConsumer | None:
    """The consumer of a connected Redis connection, which it closes; ``None`` where the server lacks what it needs (Redis 6.2).

    ``unreadable`` is told of each entry of a queue that is no message, which is put aside; without it the log is told.

    Raises what the driver raises.
    """
    channel: Any = connection.default_channel
    with channel.conn_or_acquire() as client:
        if not hasattr(client, "connection_pool"):
            return None  # a cluster's client, whose keys live on many servers
    for queue in queues:
        declared_task_queue(connection, queue)
    consumer = RedisConsumer(connection, queues, clock, unreadable or _tell)
    try:
        consumer.check()
    except channel.ResponseError as error:
        consumer.let_go()
        logger.info("messages are read one by one, by Kombu: %s", error)
        return None
    return consumer


def _tell(error: Exception) -> None:
    logger.error("%s", error)


class RedisConsumer:
    """Implements :class:`~stem_kombu.transports.base.TaskConsumer`: what a lost one held stays leased, and may be acknowledged
    with the next one.
    """

    #: Seconds between two turns while messages keep coming: each is a script on the broker.
    gather, gather_stocked = 0.0005, timeouts.GATHER
    #: With no room there is nothing to ask for.
    pushes = False
    keeps_tags = True
    receives_in_wait = False
    is_cut = False
    scheduled: ScheduledMessages | None = None

    def __init__(
        self,
        connection: Connection,
        queues: Sequence[str],
        clock: Clock,
        unreadable: Callable[[Exception], None],
    ) -> None:
        self._connection = connection
        self._unreadable = unreadable
        channel: Any = connection.default_channel
        self._channel = channel
        self._clock = clock
        prefix = channel.global_keyprefix
        self._hash, self._index = prefix + channel.unacked_key, prefix + channel.unacked_index_key
        self.sweep_interval = max(
            0.1, float((connection.transport_options or {}).get("unacked_restore_interval", timeouts.REDIS_SWEEP))
        )
        self._tags = f"{chance.token_hex(8)}."
        self._bursts = 0
        self._queues = list(queues)
        self._read(queues)
        self._watch = QueueWatch(channel, self._lists())
        self._client = client = self._watch.client
        self._take = client.register_script(redis_scripts.TAKE)
        self._sweeper = Sweeper(channel, client)
        self._turns = Turns()
        self._siblings = SiblingWatch(partial(unread_lists, channel, client, queues))
        #: Whether the next burst follows a change that the server told of, and when to look again (monotonic).
        self._told, self._paused_until = False, float("-inf")

    def check(self) -> None:
        """Raises what the driver raises where the server lacks what is needed, or does not allow it."""
        absent = f"{self._channel.global_keyprefix}stem-absent"
        self._client.execute_command("RPOP", absent, 1)  # several at a time: Redis 6.2
        self._client.eval("return 1", 0)

    def consume(self) -> None:
        """It takes what it asks for."""

    def pause(self, queues: Collection[str]) -> None:
        self._read([queue for queue in self._queues if queue not in queues])
        self._watch.follow(self._lists())

    def allow(self, allowance: int, here: int, *, consuming: bool) -> None:
        """The same."""

    def take(self, room: int, acknowledged: Sequence[str] = ()) -> list[object]:
        """At most ``room`` messages, as Kombu messages that are noted as unacknowledged; the messages of the tags in
        ``acknowledged`` are forgotten in the same round trip, which is harmless when repeated.

        Where the lists are known to be empty, the server is not asked for messages."""
        now = self._clock.monotonic()
        if room and (not self._count or now < self._paused_until or self._watch.is_quiet):
            room = 0
        if not room and not acknowledged:
            return []
        self._bursts += 1
        order = self._cycle.consume(self._count)
        if order != self._order:
            self._aim(order)
        room = min(room, _BURST)
        found = self._take(keys=self._asked, args=[room, f"{self._tags}{self._bursts}.", *self._ends, *acknowledged])
        if room:
            self._note(bool(found), now)
        if not found:
            return []
        sources = [self._sources[number - 1] for number in found[1::3]]
        for queue in dict.fromkeys(sources):
            self._cycle.rotate(queue)
        messages = []
        for tag, queue, text in zip(found[::3], sources, found[2::3], strict=True):
            message = self._message(tag.decode(), queue, text)
            if message is not None:
                messages.append(message)
        return messages

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        """Return when there may be a message (only if ``more`` is asked for), when ``wake`` is readable, or after
        ``timeout`` seconds."""
        now = self._clock.monotonic()
        watched = None
        if more:
            if (pause := self._paused_until - now) > 0:
                timeout = min(timeout, pause)
            elif self._watch.is_quiet and (due := self._watch.due_in(now)) > 0:
                watched, timeout = self._watch.fileno(), min(timeout, due)
            elif self._watch.look(now):
                return
            else:
                watched, timeout = self._watch.fileno(), min(timeout, self._watch.due_in(now))
        poller = select.poll()  # not select(), which knows no descriptors above 1023
        poller.register(wake, select.POLLIN)
        if watched is not None:
            poller.register(watched, select.POLLIN)
        if watched in dict(poller.poll(max(0.0, timeout) * 1000)):
            self._told = True

    def rest(self) -> None:
        """Wait for nothing more. Nothing was moved while waiting, so there is nothing to give back."""

    def wake(self) -> None:
        """It looks at the descriptor."""

    def reject(self, tag: str) -> None:
        self._channel.basic_reject(tag, requeue=False)

    def give_back(self, tag: str) -> None:
        give_back(self._channel, tag)

    def settled(self, tag: str) -> None:
        """Nothing is counted here."""

    def sweep(self) -> None:
        """Bring back what dead consumers held, ours and Kombu's, and name lists that nobody reads."""
        self._sweeper.sweep()
        self._siblings.sweep()

    def close(self, *, keep: bool) -> None:
        forsake(self._connection, keep=keep, first=self.let_go)

    def let_go(self) -> None:
        """Close what is beside the connection."""
        self._watch.close()

    def _read(self, queues: Sequence[str]) -> None:
        """Take messages from these queues from now on."""
        channel, prefix = self._channel, self._channel.global_keyprefix
        # The order of the queues is what the option queue_order_strategy asks for.
        self._cycle: Any = cycle_by_name(channel.queue_order_strategy)()
        self._cycle.update(queues)
        self._count = len(queues)
        self._order: list[str] | None = None
        self._keys = [
            {queue: prefix + key for queue in queues for key in [channel._q_for_pri(queue, step)]}
            for step in channel.priority_steps
        ]

    def _aim(self, order: Sequence[str]) -> None:
        """Ask for the messages of these queues in this order. As Kombu takes them: by priority first, so that the order of the
        queues counts within one priority."""
        self._order = list(order)
        self._sources = [queue for _ in self._keys for queue in order]
        self._asked = [self._hash, self._index, *[keys[queue] for keys in self._keys for queue in order]]
        self._ends = [f', "", {json.dumps(queue)}]' for queue in self._sources]

    def _lists(self) -> list[str]:
        return [key for keys in self._keys for key in keys.values()]

    def _note(self, found: bool, now: float) -> None:
        """Remember what a burst says of the next one."""
        if found:
            self._watch.found_something()
            self._turns.taken()
        elif self._told:  # and others were quicker
            self._paused_until = now + self._turns.missed()
        self._told = False

    def _message(self, tag: str, queue: str, text: bytes) -> Any:
        try:
            message = message_of(text, tag, queue, self._channel)
            setattr(message, DATED_BY_SERVER, True)
            return message
        except NO_MESSAGE as error:
            # No consumer of Kombu could do anything with it either; what put it there may want it back.
            name = unreadable_queue_name(queue)
            with self._client.pipeline(transaction=True) as pipe:
                pipe.lpush(self._channel.global_keyprefix + name, text)
                pipe.hdel(self._hash, tag)
                pipe.zrem(self._index, tag)
                pipe.execute()
            said = f"queue {queue}: {len(text)} bytes that are no message ({type(error).__name__}) go to list {name}"
            self._unreadable(ValueError(said))
            return None
