"""A ping of eight live workers beside the bare Kombu floor and Celery's, in turns, everybody up at once."""

from __future__ import annotations

import statistics
import sys
import time
import uuid
from typing import Any

from kombu import Connection, Consumer, Producer, Queue

from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import BROKERS, Lab, celery_worker, stem_worker
from benchmarks.responder import FANOUT
from stem_kombu import ControlClient

WORKERS = 8


class Floor:
    """A fanout publish and as many replies, with nothing else done."""

    def __init__(self, url: str) -> None:
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
        while len(self._heard) < WORKERS:
            self._connection.drain_events(timeout=5)

    def close(self) -> None:
        self._connection.release()


def milliseconds(action: Any) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def measure(lab: Lab, found: Findings) -> None:
    from celery import Celery

    calls = 8 * lab.rounds
    for broker in BROKERS:
        ours, theirs, bare = lab.url(broker), lab.url(broker), lab.url(broker)
        settings = lab.settings(ours)
        with lab.processes() as start:
            begun = [stem_worker(start, settings, f"w{n}", "-c", "1") for n in range(WORKERS)]
            floor_workers = [start(sys.executable, "-m", "benchmarks.responder", bare) for _ in range(WORKERS)]
            for process in (*begun, *floor_workers):
                process.wait_for("ready:")
            peers = [celery_worker(start, theirs, lab.url("redis"), f"c{n}", "-P", "solo") for n in range(WORKERS)]
            for process in peers:
                process.wait_for("ready.")
            celery_app = Celery("benchmarks", broker=theirs, set_as_current=False)
            floor = Floor(bare)
            with ControlClient(settings) as client, celery_app.connection_for_write() as connection:

                def stem(client: ControlClient = client) -> None:
                    assert client.ping().complete

                def limited(celery_app: Any = celery_app, connection: Any = connection) -> None:
                    assert len(celery_app.control.ping(limit=WORKERS, timeout=5, connection=connection)) == WORKERS

                for warm in (stem, floor, limited):
                    for _ in range(3):
                        warm()
                samples: dict[str, list[float]] = {"stem": [], "floor": [], "limit": [], "default": []}
                for number in range(calls):
                    samples["stem"].append(milliseconds(stem))
                    samples["floor"].append(milliseconds(floor))
                    samples["limit"].append(milliseconds(limited))
                    if number % 8 == 0:
                        samples["default"].append(milliseconds(celery_app.control.ping))
            floor.close()
            celery_app.close()
        figures = {
            "stem": Figure(f"{broker}: ControlClient.ping(), {WORKERS} workers", samples["stem"], "ms"),
            "floor": Figure(f"{broker}: bare Kombu fanout and {WORKERS} replies", samples["floor"], "ms"),
            "limit": Figure(f"{broker}: Celery ping(limit={WORKERS})", samples["limit"], "ms"),
            "default": Figure(f"{broker}: Celery ping()", samples["default"], "ms"),
        }
        found.add(*figures.values())
        found.add(
            ratio(f"{broker}: ping against the floor", figures["stem"], figures["floor"], "3 (later 1.3) at most"),
            ratio(f"{broker}: Celery ping(limit) against ping", figures["limit"], figures["stem"], "3 at least"),
            ratio(f"{broker}: Celery ping() against ping", figures["default"], figures["stem"], "150 at least"),
            Figure(f"{broker}: p95 of ping", [statistics.quantiles(samples["stem"], n=20)[-1]], "ms"),
        )
