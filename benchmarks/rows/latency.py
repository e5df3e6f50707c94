"""From the call that sends a task to the first line of its handler, when nothing else is going on."""

from __future__ import annotations

import time

from benchmarks.contestants import Contestant, celery, dramatiq, huey, rq, stem, taskiq
from benchmarks.figures import Figure, Findings
from benchmarks.lab import Lab
from benchmarks.rows.throughput import marked

CONTESTANTS = [
    stem("inline", 1),
    stem("async", 1),
    stem("isolate", 1, "-c", "2"),
    celery("celery prefork", False, "-c", "2"),
    dramatiq(),
    huey(),
    taskiq(),
    rq(),
]


def measure(lab: Lab, found: Findings) -> None:
    for broker in ("redis", "rabbitmq", "embedded"):
        for one in CONTESTANTS:
            if broker in one.brokers:
                found.add(Figure(f"{broker}: {one.name}", samples(lab, one, broker), "ms"))


def samples(lab: Lab, one: Contestant, broker: str) -> list[float]:
    url, took = lab.url(broker), []
    with one.sender(url) as send, lab.processes() as start:
        one.workers(start, url)
        for number in range(4 * lab.rounds + 3):
            marks = lab.path("marks")
            began = time.monotonic()
            send("mark", [str(marks)])
            (at,) = marked(marks, 1, 60)
            if number >= 3:  # the first ones wait for the workers to start
                took.append((at - began) * 1000)
            time.sleep(0.05)
    return took
