"""Control messages into and out of Redis, in Kombu's form: one command for a message, and one for a burst of them.

Kombu's producer makes a client for each message and renews the expiry of four lists in a transaction; its consumer asks for
one message at a time. Both work on the same lists and topics as what is here, and do so where a server is too old for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import ssl
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stem_kombu import chance, timeouts
from stem_kombu.transports.generic.control import CONTENT_TYPE, ENCODING
from stem_kombu.transports.redis.pooled import pooled_connection

if TYPE_CHECKING:
    from kombu import Connection
    from kombu.transport.redis import Channel

logger = logging.getLogger(__name__)

#: A message is never without its expiry, whenever its sender is killed; and none makes that of those before it shorter.
#: ARGV: the message, milliseconds.
_PUT = (
    "redis.call('LPUSH', KEYS[1], ARGV[1]) "
    "if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end"
)
_PUT_SHA1 = hashlib.sha1(_PUT.encode(), usedforsecurity=False).hexdigest()
#: How a message begins, and what tells how its body is to be read.
_BEGIN, _BASE64 = b'{"body": "', b'"body_encoding": "base64"'
#: Messages of one burst.
_BURST = 1000


def raw_client(channel: Channel) -> Any:
    """A client that keeps one connection of the channel's pool, for one thread, and changes no keys: the prefix is put on
    by us, also where Kombu's own client does not."""
    import redis

    return redis.Redis(connection_pool=channel.pool, single_connection_client=True)


def limit_waits(channel: Channel, seconds: float) -> None:
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


class MessageWriter:
    """Puts messages into lists and onto topics; used by one thread at a time. Raises what the driver raises."""

    def __init__(self, connection: Connection) -> None:
        import redis

        channel: Any = connection.default_channel
        self._prefix = channel.global_keyprefix
        # Over a connection of the pool, which Kombu's producer uses as well: an idle worker keeps none for it. While messages
        # follow each other it is kept: to take one and to give it back takes redis-py as long as the message.
        self._pool = channel.pool
        self._kept: Any = None
        self._refusal, self._unknown_script = channel.ResponseError, redis.exceptions.NoScriptError
        self._lost = (redis.exceptions.ConnectionError, OSError)
        self._allowed = True

    def publish(self, topic: str, exchange: str, body: bytes) -> None:
        """Say it to all who have subscribed to the topic, which is the exchange's."""
        self._carry_out((b"PUBLISH", topic, _text(body, exchange, "")))

    def put(self, queue: str, body: bytes, *, expires: float) -> bool:
        """Whether the message is in the queue, which stays for that many seconds at least; not where scripts are not
        allowed."""
        if self._allowed:
            try:
                self._evaluate(self._prefix + queue, _text(body, "", queue), str(int(expires * 1000)))
            except self._refusal as error:
                logger.info("control messages are sent by Kombu: %s", error)
                self._allowed = False
        return self._allowed

    def rest(self) -> None:
        """Give the connection back to the pool: nothing follows for a while."""
        if self._kept is not None:
            connection, self._kept = self._kept, None
            self._pool.release(connection)

    def _evaluate(self, *arguments: str) -> None:
        try:
            self._carry_out((b"EVALSHA", _PUT_SHA1, "1", *arguments))
        except self._unknown_script:
            self._carry_out((b"EVAL", _PUT, "1", *arguments))

    def _carry_out(self, command: Sequence[str | bytes]) -> None:
        # The connection by itself: the client around it takes longer than the command, of which each answer is one.
        was_kept = self._kept is not None
        connection = self._kept = self._kept if was_kept else pooled_connection(self._pool)
        try:
            connection.send_packed_command((_packed(command),))
            connection.read_response()
        except self._refusal:
            raise
        except BaseException as error:
            connection.disconnect()  # it may be in the middle of something
            self.rest()
            if not was_kept or not isinstance(error, self._lost):
                raise
            self._carry_out(command)  # it was closed since the last message; to say the same twice does no harm


class _Reader:
    """A connection of the pool by which one thread at a time reads. Every method raises what the driver raises when the
    connection is lost."""

    def __init__(self, channel: Channel) -> None:
        self._pool = channel.pool
        self._connection = pooled_connection(self._pool)

    def fileno(self) -> int:
        sock = self._connection._sock
        if sock is None or sock.fileno() < 0:
            raise ConnectionError("the connection to Redis was closed")
        return int(sock.fileno())

    def close(self) -> None:
        """Let the connection go. May be called from any thread."""
        self._connection.disconnect()
        self._pool.release(self._connection)


class InboxReader(_Reader):
    """Messages of one queue that this process alone reads, in bursts; they are off the queue when they are returned. What is
    still in it expires once this is closed.

    The constructor raises :class:`ResponseError` of a server that gives no bursts (before Redis 6.2)."""

    def __init__(self, channel: Channel, queue: str) -> None:
        super().__init__(channel)
        self._key = channel.global_keyprefix + queue
        self._refusal = channel.ResponseError
        self._armed_at: float | None = None
        try:
            self._connection.send_command("RPOP", self._key, _BURST)
            self._first: list[bytes] = self._connection.read_response() or []
        except BaseException:
            self.close()
            raise

    def arm(self, now: float) -> bool:
        """Have the server answer as soon as something comes; whether something has come already. ``now`` is monotonic."""
        if self._armed_at is None:
            connection = self._connection
            # In one packet: the second is carried out as soon as the first has ended.
            commands = [("BRPOP", self._key, f"{timeouts.REDIS_CONTROL_WAIT:g}"), ("RPOP", self._key, _BURST)]
            connection.send_packed_command(connection.pack_commands(commands))
            self._armed_at = now
        return bool(self._first)

    def is_overdue(self, now: float) -> bool:
        """Whether the server, of which nothing has come, should have answered by ``now``."""
        return self._armed_at is not None and now - self._armed_at > timeouts.REDIS_CONTROL_OVERDUE

    def taken(self, *, answered: bool) -> list[bytes]:
        """What has come, in order; where the server has ``answered``, waits for the rest of that."""
        found, self._first = self._first, []
        if answered:
            self._armed_at = None
            first, more = self._answer(), self._answer()
            for answer in (first, more):
                if isinstance(answer, Exception):
                    raise answer
            found = [*found, *((first[1],) if first else ()), *(more or ())]
        return found

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except self._refusal as error:  # an answer too: the next one must be read before it is raised
            return error


class TopicReader(_Reader):
    """What is published to some topics, from the moment that this exists.

    Of a connection that is lost without a word nothing can be told; who needs to know speaks to itself."""

    def __init__(self, channel: Channel, topics: Sequence[str]) -> None:
        super().__init__(channel)
        self._first: list[tuple[str, bytes]] = []
        try:
            self._connection.send_command("SUBSCRIBE", *topics)
            confirmed = 0
            while confirmed < len(topics):
                answer = self._connection.read_response(push_request=True)
                if (message := _published(answer)) is not None:
                    self._first.append(message)
                else:
                    confirmed += 1
        except BaseException:
            self.close()
            raise

    @property
    def has_some(self) -> bool:
        """Whether something came while the server confirmed the topics."""
        return bool(self._first)

    def taken(self, *, answered: bool) -> list[tuple[str, bytes]]:
        """What has come, each with its topic; where the descriptor is readable (``answered``), all that one look at it brings."""
        found, self._first = self._first, []
        while answered:
            if (message := _published(self._connection.read_response(push_request=True))) is not None:
                found.append(message)
            answered = self._has_more()
        return found

    def _has_more(self) -> bool:
        """Whether there is more to be read that waiting for the descriptor would not tell of."""
        connection = self._connection
        unread = getattr(getattr(connection._parser, "_buffer", None), "unread_bytes", None)
        if unread is None or isinstance(connection._sock, ssl.SSLSocket):
            return bool(connection.can_read(timeout=0))
        return bool(
            unread()
        )  # without a look at the socket, which takes as long as all else that is done with a message


def body_in(text: bytes) -> bytes:
    """The body of a message as it lies in a list. Raises :class:`ValueError` when it is no message of Kombu's."""
    if text.startswith(_BEGIN) and (end := text.find(b'"', len(_BEGIN))) > 0 and text.find(_BASE64, end) > 0:
        return base64.b64decode(text[len(_BEGIN) : end])  # as all write it; nothing else of it is of interest
    try:
        message = json.loads(text)
        if message["properties"]["body_encoding"] == "base64":
            return base64.b64decode(message["body"])
        return str(message["body"]).encode()
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no message of Kombu's: {error!r}") from None


def _text(body: bytes, exchange: str, routing_key: str) -> str:
    """A message as Kombu writes it."""
    # Nothing of the body, of the tag and of these names is escaped by JSON but what _where() has escaped.
    return (
        f'{{"body": "{base64.b64encode(body).decode()}", "content-encoding": "{ENCODING}", "content-type": "{CONTENT_TYPE}",'
        f' "headers": {{}}, "properties": {{"delivery_mode": 1, "delivery_info": {_where(exchange, routing_key)},'
        f' "priority": 0, "body_encoding": "base64", "delivery_tag": "{chance.uuid_text()}"}}}}'
    )


@lru_cache(maxsize=64)
def _where(exchange: str, routing_key: str) -> str:
    return json.dumps({"exchange": exchange, "routing_key": routing_key})


def _packed(command: Sequence[str | bytes]) -> bytes:
    """The command in Redis's protocol."""
    parts = [part.encode() if isinstance(part, str) else part for part in command]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def _published(answer: object) -> tuple[str, bytes] | None:
    if isinstance(answer, list) and len(answer) == 3 and answer[0] in (b"message", "message"):
        topic = answer[1]
        return (topic.decode() if isinstance(topic, bytes) else topic), answer[2]
    return None
