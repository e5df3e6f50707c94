"""Dramatiq, on Redis or RabbitMQ."""

from __future__ import annotations

import os

import dramatiq

from benchmarks.notes import note

_url = os.environ["BENCH_BROKER"]
if _url.startswith("redis"):
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=_url)
else:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(url=_url)
dramatiq.set_broker(broker)


@dramatiq.actor
def no_op(payload: str = "") -> None:
    """Nothing."""


@dramatiq.actor
def mark(path: str) -> None:
    note(path, "marked")
