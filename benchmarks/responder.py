"""The floors of a ping: ``python -m benchmarks.responder URL [raw]`` answers what comes by a fanout exchange, with bare Kombu,
or with the client library alone (redis-py or py-amqp)."""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

import amqp
import redis
from kombu import Connection, Consumer, Exchange, Producer, Queue

from benchmarks.bare import opened

FANOUT = Exchange("bench-floor", type="fanout", durable=False)
RAW = "bench-raw-floor"


def main(url: str) -> None:
    with Connection(url) as connection:
        channel = connection.channel()
        producer = Producer(channel)
        inbox = Queue(f"bench-floor-{uuid.uuid4().hex[:8]}", FANOUT, auto_delete=True, durable=False)

        def answer(body: Any, message: Any) -> None:
            producer.publish({"n": body["n"]}, exchange="", routing_key=body["reply_to"])

        with Consumer(channel, [inbox], callbacks=[answer], accept=["json"], no_ack=True):
            print("ready:", flush=True)
            while True:
                connection.drain_events()


def by_redis(url: str) -> None:
    with redis.Redis.from_url(url, single_connection_client=True) as client, redis.Redis.from_url(url) as listening:
        inbox = listening.pubsub(ignore_subscribe_messages=True)
        inbox.subscribe(RAW)
        inbox.get_message(timeout=5)
        print("ready:", flush=True)
        for message in inbox.listen():
            body = json.loads(message["data"])
            client.publish(body["reply_to"], json.dumps({"n": body["n"]}))


def by_amqp(url: str) -> None:
    with opened(url) as client:
        channel = client.channel()
        channel.exchange_declare(RAW, "fanout", durable=False, auto_delete=False)
        name, *_ = channel.queue_declare("", exclusive=True)
        channel.queue_bind(name, RAW)

        def answer(message: Any) -> None:
            body = json.loads(message.body)
            channel.basic_publish(amqp.Message(json.dumps({"n": body["n"]})), routing_key=body["reply_to"])

        channel.basic_consume(name, no_ack=True, callback=answer)
        print("ready:", flush=True)
        while True:
            client.drain_events()


if __name__ == "__main__":
    given, *rest = sys.argv[1:]
    if rest:
        (by_redis if given.startswith("redis") else by_amqp)(given)
    else:
        main(given)
