"""Whatever a server carries out late, twice or after its sender died: no message on Redis is lost (G18)."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stem_kombu.errors import BrokerError
from stem_kombu.messages.encoding import encode_task
from stem_kombu.task import TaskMessage
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.redis.consumer import RedisConsumer, open_redis_consumer
from stem_kombu.transports.redis.recovery import BETWEEN

#: Short, so that a step through a link that is held ends soon; what was sent over it arrives later.
OPTIONS = {"socket_timeout": 0.25, "socket_connect_timeout": 1.0, "health_check_interval": 0}
REGISTRY = "stem-unacked-landings"
_numbers = itertools.count()

CONSUMERS = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["take", "wait", "kill", "hold", "let_go", "sweep"]), CONSUMERS),
        st.tuples(st.sampled_from(["old_wait", "old_wait_late", "forget", "time_passes", "all_sweep"]), st.just(0)),
    ),
    min_size=4,
    max_size=14,
)


class Consumer:
    """A source behind a link that can be held. What fails is made anew, as a worker does."""

    def __init__(self, proxy: TcpProxy, database: str, queue: str, seen: set[str]) -> None:
        self.proxy, self._queue, self._seen = proxy, queue, seen
        self._url = f"redis://{proxy.host}:{proxy.port}/{database}"
        self._wake, self._waker = os.pipe()
        self._source: RedisConsumer | None = None
        self._connection: Any = None
        self._done: list[str] = []

    def step(self, act: Callable[[RedisConsumer], Any]) -> None:
        try:
            if self._source is None:
                self._connection = connect(open_connection(self._url, options=OPTIONS), 1.0)
                self._source = open_redis_consumer(self._connection, [self._queue])
            assert self._source is not None
            act(self._source)
        except (BrokerError, OSError, redis.RedisError):
            self.kill()

    def take(self, source: RedisConsumer) -> None:
        done, self._done = self._done, []
        messages = source.take(2, done)
        for message in messages:
            self._seen.add(message.headers["id"])
            self._done.append(message.delivery_tag)

    def wait(self, source: RedisConsumer) -> None:
        source.wait(self._wake, 0.0, more=True)

    def kill(self) -> None:
        """Gone without a word; what it sent may still be under way."""
        source, self._source, self._done = self._source, None, []
        if source is not None:
            source.close(keep=True)

    def close(self) -> None:
        self.kill()
        os.close(self._wake)
        os.close(self._waker)


@pytest.fixture
def proxies(redis_url: str, proxy_for: Callable[[str, int], TcpProxy]) -> list[TcpProxy]:
    parts = urlsplit(redis_url)
    return [proxy_for(parts.hostname or "", parts.port or 0) for _ in range(2)]


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(steps=STEPS)
def test_g18_no_message_is_lost_whatever_arrives_late(
    redis_url: str, proxies: list[TcpProxy], steps: list[tuple[str, int]]
) -> None:
    queue = f"late-{next(_numbers)}"
    landing = f"{REGISTRY}:old{queue}:0:0"
    name = f"{landing}{BETWEEN}{queue}"
    server = redis.Redis.from_url(redis_url)
    server.flushdb()
    sent: list[str] = []
    seen: set[str] = set()
    database = redis_url.rpartition("/")[2]
    consumers = [Consumer(proxy, database, queue, seen) for proxy in proxies]

    def send(count: int) -> None:
        for _ in range(count):
            sent.append(f"{queue}-{len(sent)}")
            envelope = encode_task(TaskMessage(sent[-1], "tasks.t", queue=queue))
            with open_connection(redis_url) as connection, connection.Producer() as producer:
                producer.publish(
                    envelope.body, routing_key=queue, headers=envelope.headers, content_type="application/json",
                    content_encoding="utf-8", **envelope.properties,
                )  # fmt: skip

    def time_passes() -> None:
        """Every lease and every registration is old."""
        for key in ("stem-unacked-index", REGISTRY):
            for member, score in server.zrange(key, 0, -1, withscores=True):
                server.zadd(key, {member: score - 1000})

    def all_sweep() -> None:
        threads = [threading.Thread(target=one.step, args=(RedisConsumer.sweep,)) for one in consumers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for verb, number in steps:
        one = consumers[number if verb != "send" else 0]
        if verb == "send":
            send(number)
        elif verb == "take":
            one.step(one.take)
        elif verb == "wait":
            one.step(one.wait)
        elif verb == "kill":
            one.kill()
        elif verb == "hold":
            one.proxy.stall(to_client=False)
        elif verb == "let_go":
            one.proxy.resume()
        elif verb == "sweep":
            one.step(RedisConsumer.sweep)
        elif verb == "all_sweep":
            all_sweep()
        elif verb == "time_passes":
            time_passes()
        elif verb == "forget":  # as a sweeper of 0.1.0 does a lease after the registration
            server.zrem(REGISTRY, name)
        else:  # a wait of a worker of 0.1.0, at its time or after its registration
            if verb == "old_wait":
                server.zadd(REGISTRY, {name: server.time()[0]})
            server.lmove(queue, landing, "RIGHT", "LEFT")
    # when all links are free again, everyone is dead, and leases are over
    for one in consumers:
        one.proxy.resume()
        one.close()
    left: set[str] = set()
    with open_connection(redis_url) as connection:
        source = open_redis_consumer(connect(connection), [queue])
        assert source is not None
        for _ in range(3):  # what was held back may arrive only now
            time_passes()
            source.sweep()
            while messages := source.take(50):
                left |= {message.headers["id"] for message in messages}
                source.take(0, [message.delivery_tag for message in messages])
        source.close(keep=True)
    assert seen | left == set(sent)
    assert not server.keys(f"{REGISTRY}:*")
    server.close()
