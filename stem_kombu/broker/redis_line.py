"""Sending to Redis queues without Kombu's producer, which makes a new client for each message.

The form is Kombu's (``kombu.transport.virtual``: a JSON object with the body in base64), read by its consumers like its
own messages. TLS, Sentinel, credentials and the key prefix stay Kombu's matter: the channel's connection pool is used.
"""

from __future__ import annotations

import base64
import json
import uuid
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
    return json.dumps(
        {
            "body": base64.b64encode(envelope.body).decode(),
            "content-encoding": CONTENT_ENCODING,
            "content-type": CONTENT_TYPE,
            "headers": envelope.headers,
            "properties": {
                **envelope.properties,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": parcel.queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
