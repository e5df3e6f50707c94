"""The floor of a ping: ``python -m benchmarks.responder URL`` answers what comes by a fanout exchange, with bare Kombu."""

from __future__ import annotations

import sys
import uuid
from typing import Any

from kombu import Connection, Consumer, Exchange, Producer, Queue

FANOUT = Exchange("bench-floor", type="fanout", durable=False)


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


if __name__ == "__main__":
    main(sys.argv[1])
