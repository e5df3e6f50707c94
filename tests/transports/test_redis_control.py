"""Control messages on Redis without Kombu's producer and consumer: in its form, in bursts, never without an expiry (G15)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from kombu import Consumer, Producer

from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.errors import BrokerUnavailable
from stem_kombu.transports import names
from stem_kombu.transports.connections import open_connection, pump
from stem_kombu.transports.control_link import Addresses, ControlMessage, MessageKind
from stem_kombu.transports.redis.control import RedisControlConnection
from stem_kombu.transports.redis.control_queues import MessageWriter, body_in
from stem_kombu.transports.registry import open_transport
from tests.transports.receiving import connected
from tests.waiting import eventually


def restricted(url: str, rule: str) -> str:
    """The URL for a user who may do everything but that."""
    with redis.Redis.from_url(url) as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", rule)
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"limited:pw@{parts.netloc.rpartition('@')[2]}"))


def test_what_is_put_is_read_by_kombu_and_expires(redis_url: str, queue_name: str) -> None:
    connection = connected(redis_url)
    writer = MessageWriter(connection)
    assert writer.put(queue_name, b'{"said": "\xc3\xa4"}', expires=60.0)
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.pttl(queue_name) <= 60_000
    arrived: list[Any] = []
    queue = names.direct_queue(queue_name)
    with Consumer(connection.default_channel, [queue], on_message=arrived.append, accept=["json"], no_ack=True):
        connection.drain_events(timeout=5)
    assert [message.payload for message in arrived] == [{"said": "ä"}]
    connection.release()


def test_no_message_makes_the_time_shorter_for_which_others_stay(redis_url: str, queue_name: str) -> None:
    connection = connected(redis_url)
    writer = MessageWriter(connection)
    with redis.Redis.from_url(redis_url) as client:
        writer.put(queue_name, b"1", expires=60.0)
        writer.put(queue_name, b"2", expires=1.0)
        assert client.pttl(queue_name) > 30_000
        writer.put(queue_name, b"3", expires=600.0)
        assert client.pttl(queue_name) > 300_000
    connection.release()


def test_what_kombu_and_we_send_is_read_in_order_and_told_apart(redis_url: str, queue_name: str) -> None:
    connection, other = connected(redis_url), connected(redis_url)
    addresses = Addresses(f"ns{queue_name[-6:]}", "alpha", inbox=queue_name, broadcasts=True)
    receiving = RedisControlConnection(connection, addresses, clock=SYSTEM)
    exchange = names.broadcast_exchange(addresses.namespace)
    producer, writer = Producer(other.default_channel, auto_declare=False), MessageWriter(other)
    exchange(other.default_channel).declare()
    for number in range(100):
        if number % 2:
            writer.put(queue_name, b"%d" % number, expires=60.0)
            receiving.broadcast(b"%d" % number, expires=60.0)
        else:
            producer.publish(b"%d" % number, exchange="", routing_key=queue_name, content_type="application/json")
            producer.publish(b"%d" % number, exchange=exchange, routing_key="", content_type="application/json")
    arrived: list[Any] = []
    while len(arrived) < 200:
        arrived += receiving.wait(10.0)
    for kind in (MessageKind.INBOX, MessageKind.BROADCAST):
        assert [one.body for one in arrived if one.kind is kind] == [b"%d" % number for number in range(100)]
    receiving.close()
    other.release()


def test_what_is_broadcast_is_read_by_kombu(redis_url: str, queue_name: str) -> None:
    connection = connected(redis_url)
    arrived: list[Any] = []
    with Consumer(
        connection.default_channel, [names.broadcast_queue("stem", "alpha")], on_message=arrived.append, accept=["json"],
        no_ack=True,
    ):  # fmt: skip
        link = open_transport(open_connection(redis_url)).control(clock=SYSTEM)
        sending = link.open(Addresses("stem"), timeout=5.0, limit=5.0)

        def is_read() -> object:
            sending.broadcast(b'{"a": 1}', expires=5.0)
            pump(connection, 0.1)  # Kombu subscribes here, and not before
            return arrived

        eventually(is_read)
        sending.close()
    assert arrived[0].payload == {"a": 1}
    connection.release()


@pytest.mark.parametrize("rule", ["-rpop", "-@scripting"])
def test_a_server_that_lacks_what_is_quick_is_used_through_kombu(redis_url: str, rule: str) -> None:
    link = open_transport(open_connection(restricted(redis_url, rule))).control(clock=SYSTEM)
    inbox = names.reply_name("stem", "one")
    receiving = link.open(Addresses("stem", "one", inbox=inbox), timeout=5.0, limit=5.0)
    sending = link.open(Addresses("stem"), timeout=5.0, limit=5.0)
    sending.send(inbox, b"1", expires=60.0)
    with redis.Redis.from_url(redis_url) as client:
        assert client.pttl(inbox) != -1
    arrived: list[Any] = []
    eventually(lambda: arrived.extend(receiving.wait(1.0)) or arrived)
    assert arrived == [ControlMessage(MessageKind.INBOX, b"1")]
    receiving.close()
    sending.close()


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"{}", b'{"body": 1, "properties": 2}', json.dumps([[]]).encode()]
)
def test_what_is_no_message_is_told(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        body_in(text)


class _Given:
    """A clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


def test_an_answer_that_came_while_the_process_was_suspended_is_taken_and_no_answer_is_a_lost_connection(
    redis_url: str, queue_name: str
) -> None:
    wake, clock = WakePipe(), _Given(100.0)
    wake.open()
    receiving = RedisControlConnection(
        connected(redis_url),
        Addresses("stem", "alpha", inbox=queue_name, broadcasts=True),
        clock=clock,  # type: ignore[arg-type]
    )
    assert receiving.wait(0.0, wake.reader) == []
    receiving.send(queue_name, b"1", expires=60.0)
    clock.now = 1000.0
    assert receiving.wait(5.0, wake.reader) == [ControlMessage(MessageKind.INBOX, b"1")]
    assert receiving.wait(0.0, wake.reader) == []
    clock.now = 1011.0
    with pytest.raises(BrokerUnavailable, match="not answered"):
        receiving.wait(0.0, wake.reader)
    receiving.close()
    wake.close()
