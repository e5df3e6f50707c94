"""Sending on RabbitMQ, where a task counts as sent once the broker has it on its disk: what that costs whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import amqp
from celery import Celery

from benchmarks.bare import opened
from benchmarks.contestants import dramatiq
from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import Lab
from stem_kombu import Stem

TASKS, THREADS = 300, 8
UNCONFIRMED = "stem send_task(), not confirmed"
THREADED = f"stem send_task() from {THREADS} threads, confirmed"
BARE, BARE_THREADED = "bare py-amqp, confirmed", f"bare py-amqp, {THREADS} connections in {THREADS} threads, confirmed"


def measure(lab: Lab, found: Findings) -> None:
    url = lab.url("rabbitmq")
    threads = ThreadPoolExecutor(THREADS)
    stem = Stem("benchmarks", broker=url)
    loose = Celery("loose", broker=url, set_as_current=False)
    strict = Celery("strict", broker=url, set_as_current=False, broker_transport_options={"confirm_publish": True})
    fast = Stem("benchmarks", broker=url, broker_options={"confirm_publish": False})
    clients = [opened(url) for _ in range(THREADS)]
    peer = ExitStack()
    dramatiq_send = peer.enter_context(dramatiq().sender(lab.url("rabbitmq")))  # whose queue has arguments of its own
    channels = [client.channel() for client in clients]
    for channel in channels:
        channel.confirm_select()
        channel.queue_declare("bench-confirmed", durable=True, auto_delete=False)

    def bare(channel: Any) -> None:
        for _ in range(TASKS):
            channel.basic_publish_confirm(
                amqp.Message("[]", delivery_mode=2), exchange="", routing_key="bench-confirmed"
            )

    def by_celery(app: Any) -> None:
        with app.producer_pool.acquire(block=True) as producer:
            for _ in range(TASKS):
                app.send_task("bench.no_op", producer=producer)

    def together() -> None:
        stem.send_many("bench.inline", [()] * TASKS, queue="default")

    def one_by_one(_thread: int = 0) -> None:
        for _ in range(TASKS):
            stem.send_task("bench.inline", queue="default")

    def unconfirmed() -> None:
        for _ in range(TASKS):
            fast.send_task("bench.inline", queue="default")

    def by_dramatiq() -> None:
        for _ in range(TASKS):
            dramatiq_send("no_op", [])

    def from_threads() -> None:
        list(threads.map(one_by_one, range(THREADS)))

    ways: dict[str, Callable[[], object]] = {
        "stem send_task(), confirmed": one_by_one,
        THREADED: from_threads,
        "stem send_many(), 300 at once, confirmed": together,
        "celery send_task(), confirmed": lambda: by_celery(strict),
        UNCONFIRMED: unconfirmed,
        "dramatiq send(), not confirmed": by_dramatiq,
        "celery send_task(), not confirmed": lambda: by_celery(loose),
        BARE: lambda: bare(channels[0]),
        BARE_THREADED: lambda: list(threads.map(bare, channels)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(lab.rounds + 1):
        for name, send in ways.items():
            began = time.perf_counter()
            send()
            if number:
                sent = TASKS * THREADS if name in (THREADED, BARE_THREADED) else TASKS
                rates[name].append(sent / (time.perf_counter() - began))
    figures = {name: Figure(name, samples, "tasks/s") for name, samples in rates.items()}
    found.add(*figures.values())
    stem_one, celery_one = figures["stem send_task(), confirmed"], figures["celery send_task(), confirmed"]
    found.add(
        ratio("sending against celery's, both confirmed", stem_one, celery_one, "1.5 at least"),
        *(
            ratio(f"sending against {peer}'s, neither confirmed", figures[UNCONFIRMED], figures[name], goal)
            for peer, name, goal in (
                ("celery", "celery send_task(), not confirmed", "2 at least"),
                ("dramatiq", "dramatiq send(), not confirmed", "0.9 at least"),
            )
        ),
        ratio(f"{THREADS} threads against one, confirmed", figures[THREADED], stem_one, "4 at least"),
        ratio("sending against bare py-amqp, both confirmed", stem_one, figures[BARE]),
        ratio(f"bare py-amqp, {THREADS} connections against one", figures[BARE_THREADED], figures[BARE]),
        ratio(
            f"{THREADS} threads against bare py-amqp's {THREADS} connections", figures[THREADED], figures[BARE_THREADED]
        ),
    )
    threads.shutdown()
    stem.close()
    fast.close()
    peer.close()
    for app in (loose, strict):
        app.close()
    for client in clients:
        client.close()
