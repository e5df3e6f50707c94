"""Taskiq, on Redis lists or RabbitMQ."""

from __future__ import annotations

import os

from taskiq import AsyncBroker

from benchmarks.notes import note

_url = os.environ["BENCH_BROKER"]
broker: AsyncBroker
if _url.startswith("redis"):
    from taskiq_redis import ListQueueBroker

    broker = ListQueueBroker(_url)
else:
    from taskiq_aio_pika import AioPikaBroker

    broker = AioPikaBroker(_url, qos=100)


@broker.task
async def no_op(payload: str = "") -> None:
    """Nothing."""


@broker.task
async def mark(path: str) -> None:
    note(path, "marked")
