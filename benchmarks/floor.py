"""The floors of a command: a fanout publish and as many replies, over bare Kombu or by the client library alone."""

from __future__ import annotations

import json
import uuid
from typing import Any

import amqp
import redis
from kombu import Connection, Consumer, Producer, Queue

from benchmarks.bare import opened
from benchmarks.responder import FANOUT, RAW


class Floor:
    """Asks ``size`` responders (:mod:`benchmarks.responder`) and waits for all of them."""

    def __init__(self, url: str, size: int) -> None:
        self._size = size
        self._connection = Connection(url)
        channel = self._connection.channel()
        self._producer = Producer(channel)
        self._name = f"bench-replies-{uuid.uuid4().hex[:8]}"
        self._heard: list[int] = []
        queue = Queue(self._name, auto_delete=True, durable=False)
        self._consumer = Consumer(channel, [queue], callbacks=[self._hear], accept=["json"], no_ack=True)
        self._consumer.consume()
        FANOUT(channel).declare()
        self._number = 0

    def _hear(self, body: Any, message: Any) -> None:
        if body["n"] == self._number:
            self._heard.append(1)

    def __call__(self) -> None:
        self._number += 1
        self._heard.clear()
        self._producer.publish({"n": self._number, "reply_to": self._name}, exchange=FANOUT.name, routing_key="")
        while len(self._heard) < self._size:
            self._connection.drain_events(timeout=5)

    def close(self) -> None:
        self._connection.release()


class RawRedis:
    """The same by redis-py: published, and answered by publishing."""

    def __init__(self, url: str, size: int) -> None:
        self._size, self._number, self._name = size, 0, f"bench-replies-{uuid.uuid4().hex[:8]}"
        self._client, self._listening = (
            redis.Redis.from_url(url, single_connection_client=True),
            redis.Redis.from_url(url),
        )
        self._replies = self._listening.pubsub(ignore_subscribe_messages=True)
        self._replies.subscribe(self._name)
        self._replies.get_message(timeout=5)

    def __call__(self) -> None:
        self._number += 1
        self._client.publish(RAW, json.dumps({"n": self._number, "reply_to": self._name}))
        heard = 0
        while heard < self._size:
            message = self._replies.get_message(timeout=5)
            heard += message is not None and json.loads(message["data"])["n"] == self._number

    def close(self) -> None:
        self._replies.close()
        self._listening.close()
        self._client.close()


class RawAmqp:
    """The same by py-amqp, without acknowledgements."""

    def __init__(self, url: str, size: int) -> None:
        self._size, self._number, self._heard = size, 0, 0
        self._connection = opened(url)
        self._channel = self._connection.channel()
        self._name, *_ = self._channel.queue_declare("", exclusive=True)
        self._channel.basic_consume(self._name, no_ack=True, callback=self._hear)

    def _hear(self, message: Any) -> None:
        self._heard += json.loads(message.body)["n"] == self._number

    def __call__(self) -> None:
        self._number, self._heard = self._number + 1, 0
        body = json.dumps({"n": self._number, "reply_to": self._name})
        self._channel.basic_publish(amqp.Message(body), exchange=RAW)
        while self._heard < self._size:
            self._connection.drain_events(timeout=5)

    def close(self) -> None:
        self._connection.close()
