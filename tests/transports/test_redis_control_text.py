"""What is written of a control message without Kombu and without a client around the connection is what Kombu reads."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
import redis
from kombu import Connection

from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.redis import control_queues
from stem_kombu.transports.redis.control_queues import MessageWriter, body_in


@pytest.fixture
def connection(redis_url: str) -> Any:
    with open_connection(redis_url) as opened:
        yield opened


@pytest.mark.parametrize("queue", ["inbox", 'a "quoted" é\\ name'])
def test_kombu_reads_it(connection: Connection, redis_url: str, queue: str) -> None:
    writer = MessageWriter(connection)

    assert writer.put(queue, b'{"v": "\xc3\xa9"}', expires=60)

    with redis.Redis.from_url(redis_url) as client:
        (text,) = client.lrange(queue, 0, -1)
        assert 50_000 < client.pttl(queue) <= 60_000
    found = json.loads(text)
    assert found["properties"].pop("delivery_tag")
    assert found["properties"] == {
        "delivery_mode": 1, "delivery_info": {"exchange": "", "routing_key": queue}, "priority": 0,
        "body_encoding": "base64",
    }  # fmt: skip
    assert (found["content-type"], found["content-encoding"], found["headers"]) == ("application/json", "utf-8", {})
    assert body_in(text) == b'{"v": "\xc3\xa9"}'


def test_a_server_that_has_forgotten_the_script_is_told_it_again(connection: Connection, redis_url: str) -> None:
    writer = MessageWriter(connection)
    with redis.Redis.from_url(redis_url) as client:
        for number in range(3):
            client.script_flush()
            assert writer.put("inbox", b"%d" % number, expires=60)
        assert [body_in(text) for text in client.lrange("inbox", 0, -1)] == [b"2", b"1", b"0"]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The connections that are taken from a pool."""
    found: list[Any] = []
    original = control_queues.pooled_connection

    def noted(pool: Any) -> Any:
        found.append(original(pool))
        return found[-1]

    monkeypatch.setattr(control_queues, "pooled_connection", noted)
    return found


def test_messages_that_follow_each_other_go_over_one_connection_that_is_then_given_back(
    connection: Connection, taken: list[Any]
) -> None:
    writer, channel = MessageWriter(connection), cast("Any", connection.default_channel)
    for number in range(3):
        writer.put("inbox", b"%d" % number, expires=60)
        writer.publish("topic", "exchange", b"%d" % number)
    assert len(taken) == 1
    assert taken[0] not in channel.pool._available_connections
    writer.rest()
    writer.rest()
    assert taken[0] in channel.pool._available_connections
    writer.put("inbox", b"3", expires=60)
    assert len(taken) == 2


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(
    connection: Connection, redis_url: str, taken: list[Any]
) -> None:
    writer = MessageWriter(connection)
    with redis.Redis.from_url(redis_url) as client:
        for number in range(3):
            writer.put("inbox", b"%d" % number, expires=60)
            client.client_kill_filter(_type="normal", skipme=True)
        assert [body_in(text) for text in client.lrange("inbox", 0, -1)] == [b"2", b"1", b"0"]
    assert len(taken) == 3


@pytest.mark.parametrize(
    ("written", "body"),
    [
        (b'{"body": "e30=", "properties": {"body_encoding": "base64"}}', b"{}"),
        (b'{"properties": {"body_encoding": "base64"}, "body": "e30="}', b"{}"),
        (b'{"body": "{}", "properties": {"body_encoding": null}}', b"{}"),
        (b'{"body": "{\\"a\\": 1}", "properties": {"body_encoding": null}}', b'{"a": 1}'),
    ],
)
def test_a_body_is_found_in_whatever_order_and_encoding_a_message_was_written(written: bytes, body: bytes) -> None:
    assert body_in(written) == body


def test_of_a_message_as_all_write_it_only_the_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = control_queues._text(b"{}", "", "inbox").encode()
    monkeypatch.setattr(json, "loads", None)
    assert body_in(text) == b"{}"
