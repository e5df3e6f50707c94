"""Sending to Redis queues without Kombu's producer, which makes a new client for each message.

The form is Kombu's (``kombu.transport.virtual``: a JSON object with the body in base64, or as it is), read by its consumers
like its own messages. TLS, Sentinel, credentials and the key prefix stay Kombu's matter: the channel's connection pool is used.
"""

from __future__ import annotations

import functools
import json
from binascii import b2a_base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps

from stem_kombu import chance
from stem_kombu.clock import Clock
from stem_kombu.messages.encoding import CONTENT_ENCODING, Envelope
from stem_kombu.messages.quick_json import quick_encoder
from stem_kombu.transports.publisher import OutgoingMessage, PublisherConnection
from stem_kombu.transports.redis.pooled import pooled_connection

if TYPE_CHECKING:
    from kombu import Connection


class RedisLine(PublisherConnection):
    """A line to Redis: one command for the messages of one queue, over a connection of the channel's pool.

    The connection is used by itself: a client around it would try again what has failed, which the producer does, and takes
    as long as the command's own bytes."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        super().__init__(connection, clock)
        channel: Any = connection.default_channel
        self._channel = channel
        self._keys: dict[tuple[str, object], str] = {}
        self._pool = channel.pool
        self._connection = pooled_connection(self._pool)

    def _publish_together(self, parcels: Sequence[OutgoingMessage]) -> None:
        if routed := [parcel for parcel in parcels if parcel.exchange]:
            for parcel in routed:
                self._put(parcel)
            parcels = [parcel for parcel in parcels if not parcel.exchange]
        if len(parcels) == 1:
            (parcel,) = parcels
            self._connection.send_packed_command((pushed(self._key(parcel), queue_text(parcel)),))
            self._connection.read_response()
            return
        texts: dict[str, list[str]] = {}
        for parcel in parcels:
            texts.setdefault(self._key(parcel), []).append(queue_text(parcel))
        if not texts:
            return
        commands = [("LPUSH", key, *several) for key, several in texts.items()]
        if len(commands) > 1:
            commands = [("MULTI",), *commands, ("EXEC",)]
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        answers = [self._connection.read_response() for _ in commands]
        for answer in answers[-1] if len(commands) > 1 else ():
            if isinstance(answer, Exception):
                raise answer  # of one of several queues, whose key holds something else: that of EXEC itself is none

    def _key(self, parcel: OutgoingMessage) -> str:
        """The list of the queue for the message's priority: Kombu keeps one for each step."""
        at = parcel.queue, parcel.envelope.properties.get("priority")
        if (key := self._keys.get(at)) is None:
            channel = self._channel
            step = channel._get_message_priority({"properties": {"priority": at[1]}}, reverse=False)
            key = self._keys[at] = channel.global_keyprefix + channel._q_for_pri(parcel.queue, step)
        return key

    def close(self) -> None:
        self._connection.disconnect()
        self._pool.release(self._connection)
        super().close()


def pushed(key: str, text: str) -> bytes:
    """The command that puts the text into the list, in Redis's protocol. redis-py's own packing takes more of the sender's time
    than all the rest of a send to Redis."""
    name, value = key.encode(), text.encode()
    return b"*3\r\n$5\r\nLPUSH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(value), value)


def queue_text(parcel: OutgoingMessage) -> str:
    """The message as it lies in a list of Redis."""
    envelope = parcel.envelope
    # All other values are texts without a sign that JSON escapes.
    encoded, body = _body(envelope)
    return (
        f'{{"body": {body}, '
        f'{_content(envelope.content_encoding, envelope.content_type)}, "headers": {_json(envelope.headers)}, "properties": '
        f'{_properties(envelope.properties, encoded)}, "delivery_info": {_delivery_info(parcel.queue)},'
        f' "delivery_tag": "{chance.token_hex(16)}"}}}}'
    )


def _body(envelope: Envelope) -> tuple[dict[str, str], str]:
    """The property that tells Kombu how the body is encoded, and the body as JSON.

    A large text is left as it is: its reader, who takes several times as long for base64 as for JSON, needs no property
    for that, and the broker keeps a quarter less. A small one goes as Kombu's own do."""
    body = envelope.body
    if len(body) >= _LARGE and envelope.content_encoding == CONTENT_ENCODING and "compression" not in envelope.headers:
        try:
            return {}, _encode(body.decode())
        except UnicodeDecodeError:
            pass  # another application's, sent again as it came
    return _IN_BASE64, f'"{b2a_base64(body, newline=False).decode("ascii")}"'


def _properties(own: dict[str, object], encoded: dict[str, str]) -> str:
    """The properties, as an object of JSON that is still open."""
    if (
        encoded
        and len(own) == 2
        and own.get("reply_to") == ""
        and isinstance(task_id := own.get("correlation_id"), str)
    ):
        # Those of most messages, written as the encoder does.
        return f'{{"delivery_mode": 2, "priority": 0, "correlation_id": {_encode(task_id)}, "reply_to": "", {_BASE64}'
    return _json({**_USUAL, **own, **encoded})[:-1]


_USUAL = {"delivery_mode": 2, "priority": 0}
_BASE64 = '"body_encoding": "base64"'
_IN_BASE64 = {"body_encoding": "base64"}
#: Bytes of a body that counts as large.
_LARGE = 1024
_encode = quick_encoder(json.JSONEncoder())


def _json(value: dict[str, object]) -> str:
    try:
        return _encode(value)
    except TypeError:
        # A sender's own header: a date, a UUID, or what else Kombu's JSON can hold beyond others.
        return str(dumps(value))


@functools.lru_cache(maxsize=64)
def _content(encoding: str, kind: str) -> str:
    return f'"content-encoding": {_encode(encoding)}, "content-type": {_encode(kind)}'


@functools.lru_cache(maxsize=64)
def _delivery_info(queue: str) -> str:
    return _encode({"exchange": "", "routing_key": queue})
