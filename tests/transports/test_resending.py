"""What is sent again goes to the queue that was consumed, as it came: every broker, every kind of exchange (G18)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import kombu
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stem_kombu.errors import ConfigurationError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.messages.encoding import LARGEST_BODY
from stem_kombu.messages.resending import original_of
from stem_kombu.settings import Settings
from stem_kombu.task import Original, TaskMessage
from stem_kombu.transports.connections import connect, open_connection, release
from stem_kombu.transports.producer import TaskProducer, open_producer, open_resender
from stem_kombu.transports.queues import KombuConsumers, declared_task_queue
from stem_kombu.transports.redis.consumer import open_redis_consumer
from tests.waiting import eventually

PAST = datetime(2020, 1, 1, tzinfo=timezone.utc)
#: What may differ between a message and the one that is sent again on its behalf.
OWN_HEADERS = {"retries", "eta", "stem-eta", "stem-headers"}
KINDS = {
    "sqlite": ("default", "direct", "topic", "fanout"),
    "memory": ("default", "direct", "topic", "fanout"),
    "redis": ("default", "direct", "topic"),  # a fanout of Kombu's is publish and subscribe there, and has no queue
    "amqp": ("default", "direct", "topic", "fanout", "headers"),
}
KEYS = {"direct": "order.created", "topic": "feed.#", "fanout": "", "headers": ""}

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
plain = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | words
nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
own_headers = st.dictionaries(words.map(lambda name: f"own-{name}"), nested, max_size=4)


class Bench:
    """One queue of one broker, bound to an exchange of each kind, read as a worker reads it."""

    def __init__(self, url: str) -> None:
        self.connection: Any = connect(open_connection(url))
        self.driver = self.connection.transport.driver_type
        self.queue = f"orders-{uuid.uuid4().hex[:8]}"
        self.kinds = KINDS[url.partition(":")[0]]
        channel = limit_decompression(self.connection.default_channel, LARGEST_BODY)
        entity = declared_task_queue(self.connection, self.queue, max_priority=9)
        for kind in self.kinds[1:]:
            exchange = kombu.Exchange(f"{self.queue}-{kind}", type=kind, durable=True)(channel)
            exchange.declare()
            arguments = {"x-match": "all", "shop": "yes"} if kind == "headers" else None
            entity(channel).bind_to(exchange.name, routing_key=KEYS[kind], arguments=arguments)
        self.sender = kombu.Producer(self.connection.channel(), auto_declare=False)
        self.arrived: list[Any] = []
        self.source = open_redis_consumer(self.connection, [self.queue]) if self.driver == "redis" else None
        if self.source is None:
            consumers = KombuConsumers(channel, [entity], self.arrived.append)
            consumers.qos(prefetch_count=100, apply_global=True)
            consumers.consume()
        self.resender = open_resender(self.connection, Settings.from_env({}, broker="sqlite:////nonexistent/elsewhere"))

    def publish(self, kind: str, body: Any, **properties: Any) -> Any:
        """The message as it arrives."""
        exchange = "" if kind == "default" else f"{self.queue}-{kind}"
        key = {"default": self.queue, "topic": "feed.import.eu"}.get(kind, KEYS.get(kind, ""))
        if kind == "headers":
            properties["headers"] = {**properties["headers"], "shop": "yes"}
        properties = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
        self.sender.publish(body, exchange=exchange, routing_key=key, retry=False, **properties)
        return self.next()

    def next(self) -> Any:
        def look() -> Any:
            if self.source is not None:
                self.arrived += self.source.take(10)
            else:
                try:
                    self.connection.drain_events(timeout=0.02)
                except TimeoutError:
                    pass
            return self.arrived

        eventually(look, 20)
        message = self.arrived.pop(0)
        message.ack()
        return message

    def again(self, raw: Any, **changed: Any) -> Any:
        message = decode_delivery(raw).message
        assert message.queue == self.queue
        self.resender.send(replace(message, attempt=message.attempt + 1, eta=PAST, **changed))
        return self.next()

    def close(self) -> None:
        self.resender.close()
        if self.source is not None:
            self.source.close(keep=False)
        release(self.connection)


@pytest.fixture
def bench(broker_url: str) -> Iterator[Bench]:
    made = Bench(broker_url)
    yield made
    made.close()


def celery_headers(**more: Any) -> dict[str, Any]:
    return {
        "lang": "py", "task": "shop.add", "id": "t-1", "root_id": "r-1", "parent_id": "p-1", "group": "g-1",
        "group_index": 3, "retries": 0, "eta": None, "expires": None, "timelimit": [30, 20], "shadow": "shop.other",
        "argsrepr": "(1,)", "kwargsrepr": "{}", "origin": "gen7@client", "ignore_result": False,
        "replaced_task_nesting": 1, "stamped_headers": ["mark"], "stamps": {"mark": "42"}, **more,
    }  # fmt: skip


def said(raw: Any) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    headers = {name: value for name, value in raw.headers.items() if name not in OWN_HEADERS}
    if (compressed := getattr(raw, "compressed", None)) is not None:
        headers["compression"] = compressed[1]
    left_out = {"delivery_info", "delivery_tag", "body_encoding", "application_headers"}
    properties = {name: value for name, value in raw.properties.items() if name not in left_out}
    return headers, properties, raw.body.encode() if isinstance(raw.body, str) else bytes(raw.body)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_g18_a_next_attempt_is_the_message_as_it_came_in_the_queue_that_was_consumed(bench: Bench, data: Any) -> None:
    kind = data.draw(st.sampled_from(bench.kinds))
    headers = celery_headers(
        tenant="acme", traceparent="00-0af7-b7ad-01", **{"sentry-trace": "771a"}, **data.draw(own_headers)
    )
    properties: dict[str, Any] = {
        "correlation_id": data.draw(st.sampled_from(["t-1", "another"])),
        "reply_to": "answers-here",
        "app_id": "shop",
        "message_id": "m-7",
        "type": "task",
        "priority": data.draw(st.integers(0, 9)),
        "delivery_mode": data.draw(st.sampled_from([1, 2])),
        "compression": data.draw(st.sampled_from([None, "zlib", "bzip2"])),
    }
    body = json.dumps([[1, float("nan"), "\ud800"], {"k": {"deep": [None]}}, {"own": "part"}])
    first = bench.publish(kind, body.encode(), headers=headers, **properties)
    second = bench.again(first)
    third = bench.again(second)
    assert said(first) == said(second) == said(third)
    assert [raw.headers["retries"] for raw in (first, second, third)] == [0, 1, 2]
    decoded = [decode_delivery(raw) for raw in (first, second, third)]
    assert [each.message.queue for each in decoded] == [bench.queue] * 3
    assert decoded[0].message.headers == decoded[2].message.headers
    assert [each.priority for each in decoded] == [properties["priority"]] * 3
    assert decoded[2].message.celery == decoded[0].message.celery


@pytest.mark.parametrize("broker_url", ["sqlite"], indirect=True)
def test_g18_urgent_messages_stay_urgent_when_they_are_sent_again(bench: Bench) -> None:
    raws = [
        bench.publish("default", b"[[], {}, {}]", headers=celery_headers(id=f"p-{priority}"), priority=priority)
        for priority in (1, 9, 5)
    ]
    messages = [decode_delivery(raw).message for raw in raws]
    bench.resender.send_many([replace(message, attempt=2) for message in messages])
    assert [bench.next().headers["id"] for _ in raws] == ["p-9", "p-5", "p-1"]


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_on_redis_a_message_goes_to_the_list_of_its_priority_as_kombu_would_put_it(bench: Bench) -> None:
    for priority, key in ((0, bench.queue), (4, f"{bench.queue}\x06\x163"), (9, f"{bench.queue}\x06\x169")):
        bench.sender.publish([[], {}, {}], routing_key=bench.queue, headers=celery_headers(), priority=priority)
        with bench.connection.default_channel.conn_or_acquire() as client:
            assert client.llen(key) == 1
            message = decode_delivery(bench.next()).message
            bench.resender.send(replace(message, attempt=2))
            assert client.llen(key) == 1
        bench.next()


def test_headers_of_a_stem_sender_reach_celery_as_headers_and_the_handler_as_they_were(bench: Bench) -> None:
    own = {
        "tenant": "acme",
        "limits": {"cpu": [1, None, True]},
        "id": "not-this",
        "stem-x": 1,
        "large": 2**80,
        "when": PAST,
    }
    producer = TaskProducer(bench.connection.clone)
    producer.send(TaskMessage("t-1", "shop.add", queue=bench.queue, headers=own))
    producer.close()
    first = bench.next()
    assert (first.headers["tenant"], first.headers["limits"]) == ("acme", {"cpu": [1, None, True]})
    assert first.headers["id"] == "t-1"
    assert "large" not in first.headers and "when" not in first.headers
    second = bench.again(first)
    assert said(first) == said(second)
    assert decode_delivery(first).message.headers == decode_delivery(second).message.headers == own


@pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
def test_headers_as_large_as_rabbitmq_takes_come_back_and_larger_ones_are_refused(bench: Bench) -> None:
    raw = bench.publish("default", b"[[], {}, {}]", headers=celery_headers(large="x" * 120_000))
    assert said(raw) == said(bench.again(raw))
    producer = TaskProducer(bench.connection.clone)
    producer.send(TaskMessage("t-1", "shop.add", queue=bench.queue, headers={"large": "x" * 120_000}))
    bench.again(bench.next())
    with pytest.raises(ConfigurationError, match=r"headers of task t-2 take 20001\d bytes"):
        producer.send(TaskMessage("t-2", "shop.add", queue=bench.queue, headers={"large": "x" * 200_000}))
    producer.close()


def test_headers_that_only_this_delivery_had_are_not_sent_again(bench: Bench) -> None:
    deaths = {"x-death": [{"queue": "a", "count": 1}], "x-first-death-queue": "a", "x-delivery-count": 2}
    raw = bench.publish("default", b"[[], {}, {}]", headers=celery_headers(**deaths, expires="2040-01-01T00:00:00Z"))
    message = decode_delivery(raw).message
    assert message.original is not None
    given = {**message.original.properties, "user_id": "somebody", "expiration": "60000"}
    original = replace(message.original, properties=given, headers={**message.original.headers, "CC": ["elsewhere"]})
    bench.resender.send(replace(message, attempt=2, original=original))
    again = bench.next()
    assert not {*deaths, "CC"} & again.headers.keys()
    # Celery has the broker forget what expired; the worker, which knows the time, records it.
    assert not {"user_id", "expiration"} & {name for name, value in again.properties.items() if value}


def test_an_expiration_in_the_queue_is_kept_to_the_millisecond(bench: Bench) -> None:
    raw = bench.publish("default", b"[[], {}, {}]", headers=celery_headers(), expiration=29.001)
    assert raw.properties["expiration"] == bench.again(raw).properties["expiration"]


def test_what_a_producer_sends_for_a_worker_goes_to_the_worker_s_broker() -> None:
    elsewhere = Settings.from_env({}, broker="memory://")
    mine = open_connection("memory://")
    for producer in (open_producer(elsewhere), open_resender(mine, elsewhere)):
        producer.close()
    assert TaskMessage("t", "a", original=Original(b"", "", "", {}, {})) == TaskMessage("t", "a")


@pytest.mark.parametrize("field", ["content_type", "content_encoding"])
@pytest.mark.parametrize("value", [{"a": 1}, ["utf-8"], 7, "", None])
def test_a_field_that_is_no_text_does_not_keep_a_message_from_being_sent_again(field: str, value: object) -> None:
    raw = SimpleNamespace(
        body=b"[[],{},{}]", headers={"id": "t", "task": "n"}, properties={}, delivery_info={}, delivery_tag=1,
        content_type="application/json", content_encoding="utf-8", errors=(),
    )  # fmt: skip
    setattr(raw, field, value)
    original = original_of(raw)
    expected = {"content_type": "application/json", "content_encoding": "utf-8"} | (
        {field: repr(value)} if value else {}
    )
    assert {"content_type": original.content_type, "content_encoding": original.content_encoding} == expected
