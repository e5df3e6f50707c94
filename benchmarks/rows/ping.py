"""A ping of live workers beside two floors (bare Kombu, and the client library alone) and Celery's, in turns, everybody up."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figure, Findings, ratio, slope
from benchmarks.floor import Floor, RawAmqp, RawRedis
from benchmarks.lab import BROKERS, Lab, Process, celery_worker, stem_worker
from stem_kombu import ControlClient

SIZES = (1, 2, 8, 64)
#: Whoever is a user's choice: goals are set for that many.
FLEET = 8


def milliseconds(action: Any) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def measure(lab: Lab, found: Findings) -> None:
    for broker in BROKERS:
        medians = [of_size(lab, found, broker, size) for size in SIZES]
        found.add(slope(f"{broker}: ping, growth with the workers", SIZES, medians))


def all_ready(begin: Callable[[], Process], count: int, word: str) -> None:
    """Start them a few at a time: sixty-four interpreters that load at once would run into their own time-outs."""
    for first in range(0, count, 8):
        for process in [begin() for _ in range(min(8, count - first))]:
            process.wait_for(word, 120)


def of_size(lab: Lab, found: Findings, broker: str, size: int) -> float:
    from celery import Celery

    ours, theirs, bare, backend = lab.url(broker), lab.url(broker), lab.url(broker), lab.url("redis")
    library = lab.url(broker)
    settings = lab.settings(ours)
    numbers = iter(range(1000))
    samples: dict[str, list[float]] = {"stem": [], "floor": [], "raw": [], "limit": [], "default": []}
    with lab.processes() as start:
        all_ready(lambda: stem_worker(start, settings, f"w{next(numbers)}", "-c", "1"), size, "ready:")
        all_ready(lambda: start(sys.executable, "-m", "benchmarks.responder", bare), size, "ready:")
        all_ready(lambda: start(sys.executable, "-m", "benchmarks.responder", library, "raw"), size, "ready:")
        all_ready(lambda: celery_worker(start, theirs, backend, f"c{next(numbers)}", "-P", "solo"), size, "ready.")
        celery_app = Celery("benchmarks", broker=theirs, set_as_current=False)
        floor, raw = Floor(bare, size), (RawRedis if broker == "redis" else RawAmqp)(library, size)
        with ControlClient(settings) as client, celery_app.connection_for_write() as connection:

            def stem() -> None:
                assert client.ping().complete

            def limited() -> None:
                assert len(celery_app.control.ping(limit=size, timeout=5, connection=connection)) == size

            for warm in (stem, floor, raw, limited):
                for _ in range(3):
                    warm()
            for number in range(8 * lab.rounds):
                samples["stem"].append(milliseconds(stem))
                samples["floor"].append(milliseconds(floor))
                samples["raw"].append(milliseconds(raw))
                samples["limit"].append(milliseconds(limited))
                if number % 8 == 0 and size == FLEET:
                    samples["default"].append(milliseconds(celery_app.control.ping))
        floor.close()
        raw.close()
        celery_app.close()
    workers = f"{size} worker{'s' if size > 1 else ''}"
    figures = {
        "stem": Figure(f"{broker}: ControlClient.ping(), {workers}", samples["stem"], "ms"),
        "floor": Figure(f"{broker}: bare Kombu fanout and {size} replies", samples["floor"], "ms"),
        "raw": Figure(f"{broker}: the client library's fanout and {size} replies", samples["raw"], "ms"),
        "limit": Figure(f"{broker}: Celery ping(limit={size})", samples["limit"], "ms"),
    }
    goal = size == FLEET
    found.add(*figures.values())
    found.add(
        ratio(
            f"{broker}: ping against the floor, {workers}", figures["stem"], figures["floor"], "1.3 at most" * goal
        ),
        ratio(
            f"{broker}: ping against the client library, {workers}", figures["stem"], figures["raw"],
            "2 at most" * goal,
        ),
        ratio(
            f"{broker}: Celery ping(limit) against ping, {workers}", figures["limit"], figures["stem"],
            "3 at least" * goal,
        ),
    )  # fmt: skip
    if goal:
        default = Figure(f"{broker}: Celery ping()", samples["default"], "ms")
        found.add(
            default,
            ratio(f"{broker}: Celery ping() against ping", default, figures["stem"], "150 at least"),
            Figure(f"{broker}: p95 of ping", [statistics.quantiles(samples["stem"], n=20)[-1]], "ms"),
        )
    return figures["stem"].median
