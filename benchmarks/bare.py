"""The floors of sending and consuming: ``python -m benchmarks.bare KIND URL`` does nothing but receive and acknowledge.

``kombu``: its consumer with a prefetch count of 64, acknowledging each. ``py-amqp``: the same without Kombu. ``redis-py``: BRPOP,
without acknowledgements. ``redis-py-acknowledged``: BLMOVE into a list of the process's own, and LREM from there once the message
is done, in one round trip with the next BLMOVE.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
import redis
from kombu import Connection, Consumer, Producer, Queue

from benchmarks.notes import note

QUEUE = "bench-bare"
PREFETCH = 64


def done(text: bytes | str) -> None:
    name, args = json.loads(text)
    if name == "mark":
        note(args[0], "marked")


@contextmanager
def sender(kind: str, url: str) -> Iterator[Callable[[str, list[Any]], None]]:
    if kind == "kombu":
        with Connection(url) as connection:
            producer = Producer(connection.channel(), auto_declare=False)
            Queue(QUEUE)(producer.channel).declare()
            yield (
                lambda name, args: (
                    producer.publish(
                        json.dumps([name, args]), exchange="", routing_key=QUEUE, content_type="application/json"
                    )
                    and None
                )
            )
    elif kind == "py-amqp":
        with opened(url) as client:
            channel = client.channel()
            channel.queue_declare(QUEUE, durable=True, auto_delete=False)
            yield (
                lambda name, args: (
                    channel.basic_publish(
                        amqp.Message(json.dumps([name, args]), delivery_mode=2), exchange="", routing_key=QUEUE
                    )
                    and None
                )
            )
    else:
        with redis.Redis.from_url(url, single_connection_client=True) as client:
            yield lambda name, args: client.lpush(QUEUE, json.dumps([name, args])) and None


def opened(url: str) -> Any:
    parts = urlsplit(url)
    client = amqp.Connection(
        f"{parts.hostname}:{parts.port}", parts.username, parts.password, virtual_host=unquote(parts.path[1:])
    )
    client.connect()
    return client


def main(kind: str, url: str) -> None:
    if kind == "kombu":
        with Connection(url) as connection:
            channel = connection.channel()

            def take(message: Any) -> None:
                done(message.body)
                message.ack()

            with Consumer(channel, [Queue(QUEUE)], on_message=take, prefetch_count=PREFETCH):
                while True:
                    connection.drain_events()
    elif kind == "py-amqp":
        with opened(url) as client:
            channel = client.channel()
            channel.basic_qos(0, PREFETCH, False)

            def take_raw(message: Any) -> None:
                done(message.body)
                channel.basic_ack(message.delivery_tag)

            channel.basic_consume(QUEUE, callback=take_raw)
            while True:
                client.drain_events()
    elif kind == "redis-py":
        with redis.Redis.from_url(url, single_connection_client=True) as client:
            while True:
                done(client.brpop([QUEUE])[1])
    else:
        with redis.Redis.from_url(url, single_connection_client=True) as client:
            here = f"{QUEUE}-{os.getpid()}"
            text = client.blmove(QUEUE, here, 0, "RIGHT", "LEFT")
            while True:
                done(text)
                both = client.pipeline(transaction=False)
                both.lrem(here, 1, text)
                both.blmove(QUEUE, here, 0, "RIGHT", "LEFT")
                text = both.execute()[1]


if __name__ == "__main__":
    main(*sys.argv[1:])
