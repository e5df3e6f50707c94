"""The queue that a Celery worker consumed, as `inspect` shows it, by what Celery keeps of a delivery."""

from __future__ import annotations

import pytest
from kombu import Exchange, Queue

pytest.importorskip("celery")

from stem_kombu.celery.held_requests import consumed_from

TOPIC, FANOUT = Exchange("feeds", type="topic"), Exchange("news", type="fanout")
QUEUES = [
    Queue("celery", Exchange("celery", type="direct"), routing_key="celery"),
    Queue("imports", TOPIC, routing_key="feed.import.#"),
    Queue("feeds", TOPIC, routing_key="feed.*"),
    Queue("all", FANOUT),
    Queue("plain", Exchange(""), routing_key="plain"),
]


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        ("feeds", "feed.export", "feeds"),
        ("feeds", "feed.import.eu", "imports"),
        ("feeds", "odd", "imports"),
        ("news", "", "all"),
        ("celery", "celery", "celery"),
        ("", "plain", "plain"),
        (None, None, ""),
        ("unknown", "key", "key"),
    ],
)
def test_the_queue_is_found_by_exchange_and_routing_key(exchange: str | None, key: str | None, queue: str) -> None:
    assert consumed_from({"exchange": exchange, "routing_key": key}, QUEUES) == queue
