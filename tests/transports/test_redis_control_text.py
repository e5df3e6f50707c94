"""What is written of a control message without Kombu and without a client around the connection is what Kombu reads."""

from __future__ import annotations

import json
from typing import Any

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


def test_an_answer_is_one_command_over_a_connection_that_is_given_back(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, taken = MessageWriter(connection), []
    original = control_queues.pooled_connection
    writer.put("inbox", b"0", expires=60)

    def noted(pool: Any) -> Any:
        taken.append(original(pool))
        return taken[-1]

    monkeypatch.setattr(control_queues, "pooled_connection", noted)
    for number in range(3):
        writer.put("inbox", b"%d" % number, expires=60)

    assert len(taken) == 3
    assert len(set(map(id, taken))) == 1
    channel: Any = connection.default_channel
    assert taken[0] in channel.pool._available_connections
