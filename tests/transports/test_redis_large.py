"""Large messages on Redis: moved into lists of their own, not copied, and held by the same promises as others (G18, G19)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.transports.redis.browser import RedisBrowser
from stem_kombu.transports.redis.leases import RedisLeases
from tests.transports.test_redis_source import Reader, reader, send
from tests.waiting import eventually

__all__ = ["reader"]  # a fixture

LARGE = "x" * 20_000
PLACE = "stem-unacked-moved:"
#: Of Kombu's own, in the database beside the messages.
KOMBUS = b"_kombu"

Readers = Callable[..., Reader]


@pytest.fixture
def server(redis_url: str) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


def held_large(reader: Readers, url: str, queue: str, *ids: str, **options: Any) -> tuple[Reader, list[Any]]:
    """Who holds those large messages in lists of their own, and the messages; one before them shows it what comes."""
    send(url, queue, "first", *ids, text=LARGE, **options)
    one = reader(queue, **options)
    (first,) = one.source.take(1)
    held = one.source.take(len(ids), [first.delivery_tag])
    return one, held


def keys(server: Any) -> set[str]:
    return {key.decode() for key in server.keys("*") if not key.startswith(KOMBUS)}


def taken(one: Reader) -> list[tuple[str, bool]]:
    """The id of each message that comes now, and whether it is marked as delivered before."""
    arrived = [decode_delivery(message) for message in one.source.take(10)]
    return [(each.message.task_id, each.redelivered) for each in arrived]


@pytest.mark.parametrize("prefix", ["", "tenant-1:"])
def test_a_large_message_that_follows_one_is_moved_and_leaves_nothing_when_it_is_acknowledged(
    redis_url: str, queue_name: str, reader: Readers, server: Any, prefix: str
) -> None:
    one, held = held_large(reader, redis_url, f"{queue_name}~a", "t1", "t2", global_keyprefix=prefix)
    tags = [message.delivery_tag for message in held]
    assert keys(server) == {f"{prefix}{PLACE}{tag}" for tag in tags} | {f"{prefix}stem-unacked-index"}
    assert sorted(server.zrange(f"{prefix}stem-unacked-index", 0, -1)) == sorted(tag.encode() for tag in tags)
    assert [decode_delivery(message).message.args for message in held] == [(LARGE,)] * 2
    one.source.take(0, tags)
    one.source.take(0, tags)  # again, as after an answer that was lost
    assert keys(server) == set()


def test_the_server_writes_none_of_a_large_message_again_when_it_is_taken(
    redis_url: str, queue_name: str, reader: Readers, server: Any
) -> None:
    send(redis_url, queue_name, "first", *map(str, range(20)), text=LARGE)
    one = reader(queue_name)
    one.take(1)
    before = server.info("persistence")["aof_current_size"]
    server.config_resetstat()
    assert len(one.take(20)) == 20
    assert server.info("persistence")["aof_current_size"] - before < 20 * 500
    assert "cmdstat_hset" not in server.info("commandstats")


def test_a_burst_of_large_messages_is_smaller(redis_url: str, queue_name: str, reader: Readers) -> None:
    ids = [str(number) for number in range(50)]
    one, held = held_large(reader, redis_url, queue_name, *ids)
    assert len(held) == 32
    assert one.take(100) == ids[32:]


def test_small_messages_are_copied_again_after_large_ones(
    redis_url: str, queue_name: str, reader: Readers, server: Any
) -> None:
    one, _ = held_large(reader, redis_url, queue_name, "t1")
    send(redis_url, queue_name, "small", "smaller")
    assert one.take(1) + one.take(1) == ["small", "smaller"]
    assert server.hlen("stem-unacked") == 1


def test_large_messages_come_in_the_order_of_priorities(redis_url: str, queue_name: str, reader: Readers) -> None:
    one, _ = held_large(reader, redis_url, queue_name, "t1")
    send(redis_url, queue_name, "late", text=LARGE, priority=9)
    send(redis_url, queue_name, "a", "b", text=LARGE)
    assert one.take(2) + one.take(2) == ["a", "b", "late"]


def test_where_others_are_given_the_same_keys_the_hash_holds_large_messages_too(
    redis_url: str, queue_name: str, reader: Readers, server: Any
) -> None:
    held_large(reader, redis_url, queue_name, "t1", unacked_key="unacked", unacked_index_key="unacked_index")
    assert server.hlen("unacked") == 1


def test_g18_a_large_message_that_nobody_renews_comes_back_once_and_marked(
    redis_url: str, queue_name: str, reader: Readers, server: Any
) -> None:
    _, (_held,) = held_large(reader, redis_url, queue_name, "t1", visibility_timeout=0.1)
    others = [reader(queue_name, visibility_timeout=0.1) for _ in range(2)]

    def returned() -> list[tuple[str, bool]]:
        for one in others:
            one.source.sweep()
        return taken(others[0])

    assert eventually(returned) == [("t1", True)]
    assert taken(others[1]) == []


@pytest.mark.parametrize("fate", ["renewed", "acknowledged"])
def test_g19_a_large_message_that_is_renewed_or_acknowledged_does_not_come_back(
    redis_url: str, queue_name: str, reader: Readers, server: Any, fate: str
) -> None:
    one, (held,) = held_large(reader, redis_url, queue_name, "t1")
    server.zadd("stem-unacked-index", {held.delivery_tag: 1})
    if fate == "renewed":
        leases = RedisLeases(one.connection)
        assert leases.renew([held]) == [True]
        leases.close()
    else:
        one.source.take(0, [held.delivery_tag])
    other = reader(queue_name)
    other.source.sweep()
    assert taken(other) == []
    assert server.exists(PLACE + held.delivery_tag) == (fate == "renewed")


def test_g18_a_large_message_whose_tag_was_forgotten_by_a_consumer_of_0_1_0_comes_back_once_and_marked(
    redis_url: str, queue_name: str, reader: Readers, server: Any
) -> None:
    _, (forgotten, leased) = held_large(reader, redis_url, queue_name, "t1", "t2")
    server.zrem("stem-unacked-index", forgotten.delivery_tag)  # which it does when it finds nothing in the hash
    other = reader(queue_name)
    assert other.source._sweeper.sweep_all() == (1, 1)
    assert taken(other) == [("t1", True)]
    assert server.exists(PLACE + leased.delivery_tag)


def test_a_large_message_that_is_given_back_is_the_next_to_come_and_one_that_is_rejected_is_gone(
    redis_url: str, queue_name: str, reader: Readers, server: Any
) -> None:
    one, (first, second, third) = held_large(reader, redis_url, queue_name, "t1", "t2", "t3")
    send(redis_url, queue_name, "t4", text=LARGE)
    one.source.give_back(first.delivery_tag)
    one.source.reject(second.delivery_tag)
    third.reject()
    one.source.settled(third.delivery_tag)
    assert server.zcard("stem-unacked-index") == 0
    assert not any(key.startswith(PLACE) for key in keys(server))
    assert taken(one) == [("t1", True), ("t4", False)]


def test_large_bytes_that_are_no_message_are_put_aside(
    redis_url: str, queue_name: str, reader: Readers, server: Any
) -> None:
    one, _ = held_large(reader, redis_url, queue_name, "t1")
    server.lpush(queue_name, "{" * 20_000)
    assert one.take(1) == []
    assert server.llen(f"stem-unreadable-{queue_name}") == 1
    assert len([key for key in keys(server) if key.startswith(PLACE)]) == 1


def test_what_a_worker_holds_is_no_queue_to_who_looks(redis_url: str, queue_name: str, reader: Readers) -> None:
    one, _ = held_large(reader, redis_url, queue_name, "t1")
    browser = RedisBrowser(one.connection)
    assert browser.queues() == []
    browser.close()
