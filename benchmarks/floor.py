"""The floor of a command: a fanout publish and as many replies over bare Kombu, with nothing else done."""

from __future__ import annotations

import uuid
from typing import Any

from kombu import Connection, Consumer, Producer, Queue

from benchmarks.responder import FANOUT


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
