"""Task queues on RabbitMQ: acknowledged together, and never before they are done (G18)."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Producer

from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.transports.amqp import kombu_messages
from stem_kombu.transports.amqp.consumer import AmqpConsumer
from stem_kombu.transports.amqp.frames import AmqpFrames, Content
from stem_kombu.transports.amqp.kombu_messages import make_messages_quickly
from tests.transports.receiving import connected

ACK = Struct(">BHIHHQBB")


def acks(frames: bytes) -> list[tuple[int, bool]]:
    """Tag and ``multiple`` of each acknowledgement that was written."""
    found = list(ACK.iter_unpack(frames))
    assert {(*one[:5], one[7]) for one in found} <= {(1, 1, 13, 60, 80, 0xCE)}
    return [(one[5], bool(one[6])) for one in found]


@dataclass
class Broker:
    """What a broker makes of acknowledgements: ``held`` is what it would deliver again."""

    held: list[int]
    channel_id = 1
    writes: int = 0

    def write(self, frames: bytes, timeout: float) -> None:
        self.writes += 1
        for tag, multiple in acks(frames):
            assert tag in self.held, "acknowledged twice: the broker would close the channel"
            self.held = [other for other in self.held if (other > tag if multiple else other != tag)]


@dataclass
class Message:
    delivery_tag: int
    errors: tuple[()] = field(default=())


@given(data=st.data(), count=st.integers(1, 30))
def test_g18_whatever_the_order_of_the_ends_only_what_is_done_is_acknowledged(data: st.DataObject, count: int) -> None:
    channel: Any = Broker(list(range(1, count + 1)))
    source = AmqpConsumer.__new__(AmqpConsumer)
    source._channel, source._writer, source._unsettled, source._arrived = channel, channel, {}, []
    for tag in channel.held:
        source.arrived(Message(tag))
    at_work = set(channel.held)
    while at_work:
        done = data.draw(st.lists(st.sampled_from(sorted(at_work)), unique=True))
        if data.draw(st.booleans()) and done:
            rejected = done.pop()
            channel.held.remove(rejected)
            source.settled(rejected)
            at_work.discard(rejected)
        written = channel.writes
        source._acknowledge(done)
        assert channel.writes - written == bool(done), "one write, whatever the order"
        at_work -= set(done)
        assert channel.held == sorted(at_work)
        if not data.draw(st.integers(0, 20)):
            break


def test_g18_what_is_not_acknowledged_comes_again_and_a_burst_is_acknowledged_in_one_frame(
    amqp_url: str, queue_name: str
) -> None:
    with connected(amqp_url) as connection:
        assert AmqpFrames.can_read(connection.connection), "this py-amqp is read by Kombu"

    def opened() -> tuple[Connection, AmqpConsumer]:
        connection = connected(amqp_url)
        source = AmqpConsumer(connection, [queue_name])
        source.allow(50, 0, consuming=False)
        source.consume()
        return connection, source

    def received(source: AmqpConsumer, count: int) -> list[Any]:
        reader, writer = os.pipe()
        messages = source.take(50)
        while len(messages) < count:
            source.wait(reader, 5.0, more=True)
            messages += source.take(50)
        os.close(reader)
        os.close(writer)
        return messages

    first, source = opened()
    producer = Producer(first.default_channel)
    for number in range(40):
        # Bodies of one frame, and of several.
        producer.publish([number, "x" * (300_000 if number % 20 == 7 else 5)], exchange="", routing_key=queue_name)
    messages = received(source, 40)
    assert [message.payload[0] for message in messages] == list(range(40))
    assert [len(message.payload[1]) for message in messages if message.payload[0] % 20 == 7] == [300_000, 300_000]
    frames: list[bytes] = []
    write = source._writer.write
    source._writer.write = lambda data, timeout: (frames.append(data), write(data, timeout))  # type: ignore[method-assign, func-returns-value, assignment]
    source.take(0, [message.delivery_tag for message in messages[:20]])
    source.take(0, [messages[number].delivery_tag for number in (25, 30)])
    assert [acks(each) for each in frames] == [[(20, True)], [(26, False), (31, False)]]
    first.release()
    second, source = opened()
    again = [message.payload[0] for message in received(source, 18)]
    assert sorted(again) == sorted({*range(20, 40)} - {25, 30})
    second.release()


def test_a_message_is_made_as_kombu_makes_it_and_left_to_kombu_where_that_is_another(
    amqp_url: str,
) -> None:
    with connected(amqp_url) as connection:
        channel: Any = limit_decompression(connection.default_channel, 1000)
        by_kombu = channel.message_to_python
        made = make_messages_quickly(channel).message_to_python
        assert made != by_kombu
        headers = {"id": "t", "retries": 0}
        for properties in (
            {"content_type": "application/json", "content_encoding": "utf-8", "application_headers": headers},
            {},
            {"application_headers": {**headers, "compression": "zlib"}},
            {"application_headers": {**headers, "compression": "never-heard-of"}},
        ):
            content = Content(zlib.compress(b"[]"), {"delivery_tag": 7, "consumer_tag": "c"}, properties)
            one, other = made(content), by_kombu(content)
            assert type(one) is type(other)
            facts = [kombu_messages._facts(each) for each in (one, other)]
            errors = [[error[0] for error in each.pop("errors")] for each in facts]
            assert facts[0] == facts[1]
            assert errors[0] == errors[1]

        class Another(channel.Message):  # type: ignore[misc, name-defined]
            def __init__(self, *given: object, **more: object) -> None:
                super().__init__(*given, **more)
                self.more = 1

        channel.Message, channel.message_to_python = Another, by_kombu
        assert make_messages_quickly(channel).message_to_python == by_kombu
