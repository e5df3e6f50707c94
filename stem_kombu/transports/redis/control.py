"""Control messages into and out of Redis lists, in Kombu's form, with one command for a reply and one for a burst of them.

Kombu's producer makes a client for each message and renews the expiry of four lists in a transaction; its consumer asks for
one message at a time. Both work on the same lists as what is here, and do so where a server is too old for it.
"""

from __future__ import annotations

import base64
import json
import logging
import select
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

#: A message is never without its expiry, whenever its sender is killed. ARGV: the message, milliseconds.
_PUT = "redis.call('LPUSH', KEYS[1], ARGV[1]) return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
#: Seconds for which the server lets a reader wait, and after which one that was not answered is on a dead connection.
_WAIT, _OVERDUE = 5.0, 10.0
#: Shortest wait that is asked of a server, in seconds: before Redis 7 one below a few milliseconds lasts for ever.
SHORTEST_WAIT = 0.01
#: Messages of one burst.
_BURST = 1000


def raw_client(channel: Any) -> Any:
    """A client that keeps one connection of the channel's pool, for one thread, and changes no keys: the prefix is put on
    by us, also where Kombu's own client does not."""
    import redis

    return redis.Redis(connection_pool=channel.pool, single_connection_client=True)


def limit_waits(channel: Any, seconds: float) -> None:
    """Let no connection of the channel's pool wait longer than that for an answer, until the next call says otherwise.

    redis-py has no public way to do so. Its socket, its parser and what comes back after a reconnect each have the value;
    where one is kept elsewhere one day, the connection waits for as long as it was opened with.
    """
    pool = channel.pool
    pool.connection_kwargs["socket_timeout"] = seconds  # of those that it has yet to make
    for kept in ("_available_connections", "_in_use_connections"):
        for connection in tuple(getattr(pool, kept, ())):
            connection.socket_timeout = seconds
            if (sock := getattr(connection, "_sock", None)) is not None:
                sock.settimeout(seconds)
            parser = getattr(connection, "_parser", None)
            for holder, name in ((getattr(parser, "_buffer", None), "socket_timeout"), (parser, "_socket_timeout")):
                if hasattr(holder, name):
                    setattr(holder, name, seconds)


class ReplyWriter:
    """Puts messages into queues; used by one thread at a time, and closed with its connection. Raises what the driver raises."""

    def __init__(self, connection: Connection) -> None:
        import redis

        channel: Any = connection.default_channel
        self._prefix = channel.global_keyprefix
        # Over a connection of the pool, which Kombu's producer uses as well: an idle worker keeps none for it.
        self._put = redis.Redis(connection_pool=channel.pool).register_script(_PUT)
        self._refusal = channel.ResponseError
        self._allowed = True

    def put(self, queue: str, body: bytes, *, content_type: str, encoding: str, expires: float) -> bool:
        """Whether the message is in the queue, which expires that many seconds later; not where scripts are not allowed."""
        if not self._allowed:
            return False
        text = json.dumps(
            {
                "body": base64.b64encode(body).decode(),
                "content-encoding": encoding,
                "content-type": content_type,
                "headers": {},
                "properties": {
                    "delivery_mode": 1,
                    "delivery_info": {"exchange": "", "routing_key": queue},
                    "priority": 0,
                    "body_encoding": "base64",
                    "delivery_tag": str(uuid.uuid4()),
                },
            }
        )
        try:
            self._put(keys=[self._prefix + queue], args=[text, int(expires * 1000)])
        except self._refusal as error:
            logger.info("replies are sent by Kombu: %s", error)
            self._allowed = False
        return self._allowed


def open_reply_reader(connection: Connection, queue: str) -> ReplyReader | None:
    """The inbox of that name, ``None`` where the server lacks what it needs (Redis 6.2). Raises what the driver raises."""
    channel: Any = connection.default_channel
    inbox = ReplyReader(channel, queue)
    try:
        inbox.wait(SHORTEST_WAIT)
    except channel.ResponseError as error:
        inbox.close()
        logger.info("replies are read one by one, by Kombu: %s", error)
        return None
    return inbox


class ReplyReader:
    """Messages of one queue that this process alone reads, in bursts; they are off the queue when they are returned.

    Used by one thread at a time. Every method raises what the driver raises when the connection is lost."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._key = channel.global_keyprefix + queue
        self._pool = channel.pool
        self._refusal = channel.ResponseError
        self._connection = self._pool.get_connection()
        self._armed_at: float | None = None

    def wait(self, seconds: float) -> list[bytes]:
        """What has come, in order, after waiting at most ``seconds`` for the first; empty when nothing came."""
        self._ask(seconds)
        return self.taken()

    def arm(self, now: float) -> None:
        """Have the server answer as soon as something comes. ``now`` is the monotonic time."""
        if self._armed_at is None:
            self._ask(_WAIT)
            self._armed_at = now

    def is_overdue(self, now: float) -> bool:
        """Whether the server, of which nothing has come, should have answered by ``now``."""
        return self._armed_at is not None and now - self._armed_at > _OVERDUE

    def fileno(self) -> int:
        return int(self._connection._sock.fileno())

    def taken(self) -> list[bytes]:
        """The answer: what has come, in order; waits for it."""
        self._armed_at = None
        first, more = self._answer(), self._answer()
        for answer in (first, more):
            if isinstance(answer, Exception):
                raise answer
        return [*((first[1],) if first else ()), *(more or ())]

    def close(self) -> None:
        """Let the connection go; what is still in the queue expires. May be called from any thread."""
        self._connection.disconnect()
        self._pool.release(self._connection)

    def _ask(self, seconds: float) -> None:
        connection = self._connection
        # In one packet: the second is carried out as soon as the first has ended.
        commands = [("BRPOP", self._key, f"{max(seconds, SHORTEST_WAIT):.3f}"), ("RPOP", self._key, _BURST)]
        connection.send_packed_command(connection.pack_commands(commands))

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except self._refusal as error:  # an answer too: the next one must be read before it is raised
            return error


def open_control_reader(connection: Connection, exchange: str | None, queue: str) -> ControlReader | None:
    """What is broadcast on the fanout exchange and put into the queue; ``None`` where the server lacks what it needs (6.2).

    Raises what the driver raises."""
    channel: Any = connection.default_channel
    inbox = ReplyReader(channel, queue)
    try:
        first = inbox.wait(SHORTEST_WAIT)
    except channel.ResponseError as error:
        inbox.close()
        logger.info("commands are read one by one, by Kombu: %s", error)
        return None
    topic = None if exchange is None else f"{channel.global_keyprefix}{channel.keyprefix_fanout}{exchange}"
    return ControlReader(channel, topic, inbox, first)


class ControlReader:
    """Hears a topic and reads an inbox, on a connection each, and otherwise sleeps. Used by one thread, but for ``close``.

    Raises what the driver raises when a connection is lost, and an inbox's server that answers no longer counts as that. Of
    a topic's nothing can be told; who needs to know speaks to itself."""

    def __init__(self, channel: Any, topic: str | None, inbox: ReplyReader, first: list[bytes]) -> None:
        self._inbox, self._first = inbox, first
        self._pool = channel.pool
        self._topic: Any = None
        if topic is not None:
            self._topic = self._pool.get_connection()
            self._topic.send_command("SUBSCRIBE", topic)

    def wait(self, wake: int, seconds: float, now: float) -> list[tuple[bool, bytes]]:
        """What has come, as Kombu's texts, each with whether it was broadcast; after waiting at most ``seconds`` for the
        first, or until ``wake`` is readable. ``now`` is the monotonic time."""
        self._inbox.arm(now)
        poller = select.poll()
        poller.register(wake, select.POLLIN)
        inbox = self._inbox.fileno()
        poller.register(inbox, select.POLLIN)
        topic = -1
        if self._topic is not None:
            topic = self._topic._sock.fileno()
            poller.register(topic, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(0 if self._first else max(0.0, seconds) * 1000)}
        heard = [(False, text) for text in self._first]
        self._first = []
        if topic in ready:
            heard += [(True, text) for text in self._broadcast()]
        if inbox in ready:
            heard += [(False, text) for text in self._inbox.taken()]
        elif self._inbox.is_overdue(now):
            # Not before it was looked: this process may have been suspended, and the answer be there.
            raise ConnectionError("Redis has not answered a wait in time")
        return heard

    def close(self) -> None:
        """Let the connections go, from any thread."""
        self._inbox.close()
        if self._topic is not None:
            self._topic.disconnect()
            self._pool.release(self._topic)

    def _broadcast(self) -> Iterator[bytes]:
        while True:
            answer = self._topic.read_response(push_request=True)
            if isinstance(answer, list) and len(answer) == 3 and answer[0] in (b"message", "message"):
                yield answer[2]
            if not self._topic.can_read(timeout=0):
                return


def body_in(text: bytes) -> bytes:
    """The body of a message as it lies in a list. Raises :class:`ValueError` when it is no message of Kombu's."""
    try:
        message = json.loads(text)
        if message["properties"]["body_encoding"] == "base64":
            return base64.b64decode(message["body"])
        return str(message["body"]).encode()
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no message of Kombu's: {error!r}") from None
