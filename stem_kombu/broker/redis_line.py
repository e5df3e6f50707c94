"""Sending to Redis queues without Kombu's producer, which makes a new client for each message.

The form is Kombu's (``kombu.transport.virtual``: a JSON object with the body in base64), read by its consumers like its
own messages. TLS, Sentinel, credentials and the key prefix stay Kombu's matter: the channel's connection pool is used.
"""

from __future__ import annotations

import functools
import json
import secrets
from binascii import b2a_base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.broker.encoding import CONTENT_ENCODING, CONTENT_TYPE
from stem_kombu.broker.lines import Line, Parcel
from stem_kombu.broker.redis_mail import raw_client
from stem_kombu.clock import Clock

if TYPE_CHECKING:
    from kombu import Connection


class RedisLine(Line):
    """A line to Redis: one command for the messages of one queue."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        super().__init__(connection, clock)
        self._channel: Any = connection.default_channel
        self._client = raw_client(self._channel)

    def _publish_together(self, parcels: Sequence[Parcel]) -> None:
        texts: dict[str, list[str]] = {}
        for parcel in parcels:
            texts.setdefault(parcel.queue, []).append(queue_text(parcel))
        prefix = self._channel.global_keyprefix
        if len(texts) == 1:
            ((queue, several),) = texts.items()
            self._client.lpush(prefix + queue, *several)
            return
        with self._client.pipeline() as pipe:
            for queue, several in texts.items():
                pipe.lpush(prefix + queue, *several)
            pipe.execute()

    def close(self) -> None:
        self._client.close()
        super().close()


def queue_text(parcel: Parcel) -> str:
    """The message as it lies in a list of Redis."""
    envelope = parcel.envelope
    # All but two values are texts of ours without a sign that JSON escapes: only those two are left to the encoder.
    return (
        f'{{"body": "{b2a_base64(envelope.body, newline=False).decode("ascii")}", "content-encoding": "{CONTENT_ENCODING}",'
        f' "content-type": "{CONTENT_TYPE}", "headers": {_json(envelope.headers)}, "properties": '
        f'{_json({**envelope.properties, **_SAME})[:-1]}, "delivery_info": {_delivery_info(parcel.queue)},'
        f' "delivery_tag": "{secrets.token_hex(16)}"}}}}'
    )


_SAME = {"delivery_mode": 2, "priority": 0, "body_encoding": "base64"}
_json = json.JSONEncoder().encode


@functools.lru_cache(maxsize=64)
def _delivery_info(queue: str) -> str:
    return _json({"exchange": "", "routing_key": queue})
