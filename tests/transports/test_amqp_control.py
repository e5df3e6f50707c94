"""Control messages on RabbitMQ without Kombu's producer and consumer: the same messages, acknowledged together, none lost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from amqp.exceptions import NotFound
from kombu import Connection, Consumer, Exchange, Producer, Queue

from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.transports import names
from stem_kombu.transports.amqp.control import ControlChannel
from stem_kombu.transports.control_link import ControlMessage, MessageKind
from tests.transports.receiving import connected
from tests.waiting import eventually

FORM: dict[str, Any] = {"expires": 60.0}
INBOX, BROADCAST = MessageKind.INBOX, MessageKind.BROADCAST


@contextmanager
def opened(url: str, *, confirms: bool = False) -> Iterator[tuple[ControlChannel, Connection]]:
    with closing(connected(url)) as connection:
        yield ControlChannel(connection, 5.0, confirms=confirms), connection


def next_of(channel: ControlChannel, count: int) -> list[ControlMessage]:
    """So many messages, however many reads they come by."""
    found: list[ControlMessage] = []
    deadline = time.monotonic() + 10
    while len(found) < count:
        assert channel.wait(deadline - time.monotonic()), f"{len(found)} of {count} came"
        found += channel.take()
    return found


def ready(connection: Connection, queue: Queue) -> int:
    return int(queue(connection.default_channel).queue_declare(passive=True).message_count)


# 131072 bytes are RabbitMQ's largest frame, with what is around its payload.
@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 300_000])
def test_what_is_published_is_read_by_kombu_as_if_kombu_had_published_it(
    amqp_url: str, queue_name: str, size: int
) -> None:
    queue, body = names.direct_queue(queue_name), ("ä" * (size // 2) + "x" * (size % 2)).encode()
    heard: list[Any] = []
    with (
        closing(connected(amqp_url)) as reader,
        opened(amqp_url, confirms=True) as (channel, _),
        Consumer(reader.default_channel, [queue], on_message=heard.append, accept=["json"], no_ack=True),
    ):
        channel.publish(body, "", queue_name, **FORM)
        channel.settle()
        Producer(reader.default_channel, auto_declare=False).publish(
            body, exchange="", routing_key=queue_name, content_type="application/json", content_encoding="utf-8",
            delivery_mode="transient", expiration=60.0,
        )  # fmt: skip
        while len(heard) < 2:
            reader.drain_events(timeout=5)
    ours, kombus = heard
    assert ours.body == kombus.body == body.decode()
    assert (ours.content_type, ours.content_encoding) == (kombus.content_type, kombus.content_encoding)
    rest = {"delivery_mode", "expiration"}
    assert {name: ours.properties[name] for name in rest} == {name: kombus.properties[name] for name in rest}


def test_what_is_broadcast_and_what_is_put_comes_in_order_and_is_told_apart(amqp_url: str, queue_name: str) -> None:
    inbox = names.direct_queue(queue_name)
    everyone = Exchange(f"{queue_name}-all", type="fanout", durable=False, auto_delete=True)
    queue = Queue(f"{queue_name}-b", everyone, durable=True, auto_delete=True, expires=60.0)
    with opened(amqp_url) as (channel, _), opened(amqp_url, confirms=True) as (other, _):
        channel.consume(inbox, INBOX, prefetch=16)
        channel.consume(queue, BROADCAST, prefetch=16)
        for number in range(200):
            other.publish(b"%d" % number, "", inbox.name, **FORM)
            other.publish(b"%d" % number, everyone.name, "", **FORM)
        other.settle()
        found = next_of(channel, 400)
        for kind in (INBOX, BROADCAST):
            assert [one.body for one in found if one.kind is kind] == [b"%d" % number for number in range(200)]


def test_no_more_is_held_than_the_prefetch_count_and_a_pause_acknowledges_the_rest(
    amqp_url: str, queue_name: str
) -> None:
    queue = Queue(queue_name, durable=True, expires=60.0)
    with closing(connected(amqp_url)) as watcher, opened(amqp_url) as (channel, connection):
        queue(watcher.default_channel).declare()
        for number in range(30):
            channel.publish(b"%d" % number, "", queue_name, **FORM)
        eventually(lambda: ready(watcher, queue) == 30)
        channel.consume(queue, INBOX, prefetch=16)
        eventually(lambda: ready(watcher, queue) == 14)
        next_of(channel, 30)
        assert not channel.wait(0)
        channel.acknowledge()
        connection.close()
        # What was not acknowledged would come back.
        assert ready(watcher, queue) == 0


def test_replies_that_come_before_the_confirmation_are_kept(amqp_url: str, queue_name: str) -> None:
    with opened(amqp_url, confirms=True) as (channel, _):
        channel.consume(names.direct_queue(queue_name), INBOX)
        for number in range(10):
            channel.publish(b"%d" % number, "", queue_name, **FORM)
            channel.settle()
        assert [one.body for one in next_of(channel, 10)] == [b"%d" % number for number in range(10)]


def test_g10_a_message_that_the_broker_refuses_is_told(amqp_url: str, queue_name: str) -> None:
    full = Queue(queue_name, expires=60.0, queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    with opened(amqp_url, confirms=True) as (channel, connection):
        full(connection.default_channel).declare()
        channel.publish(b"1", "", queue_name, **FORM)
        assert channel.settle()
        channel.publish(b"2", "", queue_name, **FORM)
        assert not channel.settle()
        assert channel.settle()  # which is told once


def test_g10_that_the_broker_closed_the_channel_is_told_after_what_came_before(amqp_url: str, queue_name: str) -> None:
    with opened(amqp_url) as (channel, _), opened(amqp_url, confirms=True) as (other, _):
        channel.consume(names.direct_queue(queue_name), INBOX)
        other.publish(b"1", "", queue_name, **FORM)
        other.settle()
        eventually(lambda: channel.wait(0))
        channel.publish(b"2", "no-such-exchange", "", **FORM)
        assert channel.take() == [ControlMessage(INBOX, b"1")]
        with pytest.raises(NotFound):
            next_of(channel, 1)


def test_g10_a_confirmation_that_is_not_to_be_had_is_waited_for_no_longer_than_asked(
    amqp_url: str, queue_name: str
) -> None:
    with closing(connected(amqp_url)) as connection:
        channel = ControlChannel(connection, 0.05, confirms=True)
        channel._unconfirmed.add(1)  # as if it had been lost on its way
        with pytest.raises(TimeoutError):
            channel.settle()


def test_a_wait_ends_when_somebody_wakes_it(amqp_url: str, queue_name: str) -> None:
    pipe = WakePipe()
    pipe.open()
    with opened(amqp_url) as (channel, _):
        channel.consume(names.direct_queue(queue_name), INBOX)
        pipe.wake()
        assert not channel.wait(30, pipe.reader)
        assert os.read(pipe.reader, 10)
        channel.publish(b"1", "", queue_name, **FORM)
        assert channel.wait(30, pipe.reader)
        assert channel.take() == [ControlMessage(INBOX, b"1")]
    pipe.close()
