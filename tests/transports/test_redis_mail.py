"""Control messages on Redis without Kombu's producer and consumer: in its form, in bursts, never without an expiry (G15)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from kombu import Consumer, Producer

from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.transports import names
from stem_kombu.transports.redis.control import ReplyWriter, body_in, open_control_reader, open_reply_reader
from tests.transports.receiving import connected

FORM = {"content_type": "application/json", "encoding": "utf-8", "expires": 60.0}


def restricted(url: str, rule: str) -> str:
    """The URL for a user who may do everything but that."""
    with redis.Redis.from_url(url) as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", rule)
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"limited:pw@{parts.netloc.rpartition('@')[2]}"))


def test_what_is_put_is_read_by_kombu_and_expires(redis_url: str, queue_name: str) -> None:
    connection = connected(redis_url)
    post = ReplyWriter(connection)
    assert post.put(queue_name, b'{"said": "\xc3\xa4"}', **FORM)
    with redis.Redis.from_url(redis_url) as client:
        assert 0 < client.pttl(queue_name) <= 60_000
    heard: list[Any] = []
    queue = names.direct_queue(queue_name)
    with Consumer(connection.default_channel, [queue], on_message=heard.append, accept=["json"], no_ack=True):
        connection.drain_events(timeout=5)
    assert [message.payload for message in heard] == [{"said": "ä"}]
    connection.release()


def test_what_kombu_and_we_put_is_read_in_bursts_in_order(redis_url: str, queue_name: str) -> None:
    connection = connected(redis_url)
    inbox = open_reply_reader(connection, queue_name)
    assert inbox is not None and inbox.wait(0.001) == []
    producer, post = Producer(connection.default_channel, auto_declare=False), ReplyWriter(connection)
    for number in range(100):
        if number % 2:
            post.put(queue_name, b"%d" % number, **FORM)
        else:
            producer.publish(b"%d" % number, exchange="", routing_key=queue_name, content_type="application/json")
    assert [body_in(text) for text in inbox.wait(5.0)] == [b"%d" % number for number in range(100)]
    assert inbox.wait(0.001) == []
    inbox.close()
    connection.release()


def test_a_server_that_does_not_give_bursts_is_read_by_kombu(redis_url: str, queue_name: str) -> None:
    connection = connected(restricted(redis_url, "-rpop"))
    assert open_reply_reader(connection, queue_name) is None
    connection.release()


def test_a_server_that_runs_no_scripts_is_left_to_kombu(redis_url: str, queue_name: str) -> None:
    connection = connected(restricted(redis_url, "-@scripting"))
    post = ReplyWriter(connection)
    assert not post.put(queue_name, b"1", **FORM) and not post.put(queue_name, b"1", **FORM)
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists(queue_name)
    connection.release()


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"{}", b'{"body": 1, "properties": 2}', json.dumps([[]]).encode()]
)
def test_what_is_no_message_is_told(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        body_in(text)


def test_an_answer_that_came_while_the_process_was_suspended_is_taken_and_no_answer_is_a_lost_connection(
    redis_url: str, queue_name: str
) -> None:
    connection, wake = connected(redis_url), WakePipe()
    wake.open()
    hearing = open_control_reader(connection, "an-exchange", queue_name)
    assert hearing is not None
    assert hearing.wait(wake.reader, 0.0, now=100.0) == []
    ReplyWriter(connection).put(queue_name, b"1", **FORM)
    ((broadcast, text),) = hearing.wait(wake.reader, 5.0, now=1000.0)
    assert (broadcast, body_in(text)) == (False, b"1")
    assert hearing.wait(wake.reader, 0.0, now=1000.0) == []
    with pytest.raises(ConnectionError, match="not answered"):
        hearing.wait(wake.reader, 0.0, now=1011.0)
    hearing.close()
    wake.close()
    connection.release()
