"""Sending on RabbitMQ, where a task counts as sent once the broker has it on its disk: what that costs whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import amqp
from celery import Celery

from benchmarks.bare import opened
from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import Lab
from stem_kombu import Stem

TASKS = 300


def measure(lab: Lab, found: Findings) -> None:
    url = lab.url("rabbitmq")
    stem = Stem("benchmarks", broker=url)
    loose = Celery("loose", broker=url, set_as_current=False)
    strict = Celery("strict", broker=url, set_as_current=False, broker_transport_options={"confirm_publish": True})
    client = opened(url)
    channel = client.channel()
    channel.confirm_select()
    channel.queue_declare("bench-confirmed", durable=True, auto_delete=False)

    def bare() -> None:
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

    ways: dict[str, Callable[[], object]] = {
        "stem send_task(), confirmed": lambda: [stem.send_task("bench.inline", queue="default") for _ in range(TASKS)],
        "stem send_many(), 300 at once, confirmed": together,
        "celery send_task(), confirmed": lambda: by_celery(strict),
        "celery send_task(), not confirmed": lambda: by_celery(loose),
        "bare py-amqp, confirmed": bare,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(lab.rounds + 1):
        for name, send in ways.items():
            began = time.perf_counter()
            send()
            if number:
                rates[name].append(TASKS / (time.perf_counter() - began))
    figures = {name: Figure(name, samples, "tasks/s") for name, samples in rates.items()}
    found.add(*figures.values())
    stem_one, celery_one = figures["stem send_task(), confirmed"], figures["celery send_task(), confirmed"]
    found.add(
        ratio("sending against celery's, both confirmed", stem_one, celery_one),
        ratio("sending against bare py-amqp, both confirmed", stem_one, figures["bare py-amqp, confirmed"]),
    )
    stem.close()
    for app in (loose, strict):
        app.close()
    client.close()
