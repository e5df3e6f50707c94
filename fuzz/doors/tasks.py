"""Task messages: as Redis holds them (an envelope in JSON), as the embedded broker's rows, and as what they decode to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from fuzz.oracle import Refused, asked, holds, is_json, same
from stem_kombu.errors import BadMessage, ConfigurationError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import encode_task
from stem_kombu.messages.resending import resent
from stem_kombu.outcome import Ending, Outcome, TaskError
from stem_kombu.task import MOST_RETRIES, CeleryOrigin, TaskMessage, TaskOptions
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.publisher import OutgoingMessage
from stem_kombu.transports.redis.consumer import NO_MESSAGE, message_of
from stem_kombu.transports.redis.publisher import queue_text
from stem_kombu.transports.sqlite.messages import UNREADABLE, Delivery, Envelope
from stem_kombu.worker.settlement import expiry, refused, settle

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


@lru_cache(maxsize=1)
def _channel() -> Any:
    """A channel of Kombu's virtual transports, whose messages those of Redis and of the embedded broker are."""
    return open_connection("memory://fuzz").channel()


def task_message(data: bytes) -> None:
    _decoded(asked(NO_MESSAGE, message_of, data, "tag-1", "default", _channel()))


def embedded_row(data: bytes) -> None:
    """``[content type, encoding, headers, properties]`` beside a body: the columns of a row, here one JSON list."""
    row = asked((ValueError, RecursionError), json.loads, data)
    if not (isinstance(row, list) and len(row) == 2 and all(isinstance(column, str) for column in row)):
        raise Refused  # SQLite would not hold it in these columns
    delivery = Delivery(0, 1, 2, row[0], row[1])
    payload = asked(UNREADABLE, delivery.payload, "ctag-1")
    _decoded(asked(UNREADABLE, _channel().Message, payload, channel=_channel()))


def _decoded(raw: Any) -> None:
    arrived = asked(BadMessage, decode_delivery, raw)
    message = arrived.message
    # Whatever is run may fail and be sent again: that message must say the same, or the task would never end.
    failed = Outcome(Ending.FAILED, error=TaskError("ValueError", "no"))
    common: Any = {"worker": "w", "now": NOW}
    settlement = settle(
        message,
        TaskOptions(),
        failed,
        started_at=NOW,
        revocation=None,
        max_retries=message.attempt,
        jitter=0.5,
        **common,
    )
    if settlement.retry is None:
        holds(message.attempt == MOST_RETRIES, "a failure is final although retries are left", message)
        return
    # Celery sends NaN, which comes back and equals nothing.
    asked(ConfigurationError, encode_task, settlement.retry)
    assert settlement.retry.original is not None
    envelope = resent(settlement.retry, settlement.retry.original)
    again = _arrival(queue_text(OutgoingMessage("default", envelope)).encode()).message
    expected = settlement.retry
    same(again, replace(expected, queue=again.queue), "a task that is tried again")
    for record in (settlement.record, refused(message, error=expiry(message, NOW), **common).record):
        assert record is not None
        if record.state.value != "retrying":
            is_json(record.to_record(), "a task's record")
    holds(message.soft_time_limit is None or message.soft_time_limit > 0, "a time limit is not positive", message)
    holds(message.time_limit is None or 0 < message.time_limit < 1e12, "a time limit is not a span", message)
    holds(isinstance(arrived.priority, int), "a priority is no number", arrived.priority)


def _arrival(text: bytes) -> Any:
    return decode_delivery(message_of(text, "tag-2", "default", _channel()))


def _envelopes() -> Iterator[tuple[Any, str]]:
    messages = [
        TaskMessage("t-1", "tasks.add", (1, "two"), {"b": [1.5, None]}, enqueued_at=NOW, max_retries=2),
        TaskMessage(
            "t-2",
            "tasks.add",
            (),
            {"when": NOW},
            "images",
            3,
            NOW,
            NOW,
            NOW,
            5,
            1.5,
            10.0,
            {"trace": "a-b", "n": {"x": 1}},
        ),
        TaskMessage("t-3", "shop.add", (1,), celery=CeleryOrigin(True, "root", "parent", "group", 3)),
    ]
    for message in messages:
        envelope = encode_task(message)
        yield envelope, envelope.body.decode()
    canvas = '[[1], {}, {"callbacks": null, "errbacks": null, "chain": [{"task": "a", "options": {"task_id": "n-1"}}]}]'
    yield encode_task(messages[2]), canvas


def task_message_seeds() -> Iterator[bytes]:
    for envelope, body in _envelopes():
        held = json.loads(queue_text(OutgoingMessage("default", envelope)))
        yield json.dumps(held).encode()
        # The body in clear, so that a mutation can reach into it.
        held["body"] = body
        del held["properties"]["body_encoding"]
        yield json.dumps(held).encode()


def embedded_row_seeds() -> Iterator[bytes]:
    for envelope, body in _envelopes():
        message = {
            "body": body,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": envelope.headers,
            "properties": {**envelope.properties, "priority": 0, "delivery_mode": 2},
        }
        row = Envelope.decode(message, "", "default")
        yield json.dumps([row.text, body]).encode()
