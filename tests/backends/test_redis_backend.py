"""What the Redis backend does beyond the contract: expiry, garbage, outages, and what it costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from stem_kombu.backends.redis import RedisBackend
from stem_kombu.errors import StoreCorrupt, StoreUnavailable
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.testing.roster_contract import heartbeat, workers
from tests.servers.redis import RedisServer

ROSTER = "{stem}:control:roster"


@pytest.fixture
def backend(redis_url: str) -> Iterator[RedisBackend]:
    backend = RedisBackend(redis_url, result_ttl=3600)
    yield backend
    backend.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


def task(task_id: str, state: TaskState = TaskState.SUCCEEDED) -> TaskRecord:
    return TaskRecord(task_id, "tasks.render", state)


def evals(client: Any) -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


# Expiry.


def test_g15_every_key_expires_by_itself(backend: RedisBackend, client: Any) -> None:
    backend.record([task("ended"), task("waits", TaskState.QUEUED)])
    backend.beat(heartbeat("w", interval=10.0))
    backend.beat(heartbeat("slow", interval=60.0))
    backend.beat(heartbeat("w", interval=10.0))

    assert sorted(client.keys()) == sorted([b"stem:task:ended", b"stem:task:waits", ROSTER.encode()])
    assert 3_590_000 < client.pttl("stem:task:ended") <= 3_600_000
    assert 29 * 86_400_000 < client.pttl("stem:task:waits") <= 30 * 86_400_000
    assert 410_000 < client.pttl(ROSTER) <= 420_000  # the longest-lived entry's: six intervals and a margin


def test_g15_an_entry_that_has_aged_out_is_neither_seen_nor_kept(backend: RedisBackend, client: Any) -> None:
    backend.beat(heartbeat("old"))
    backend.beat(heartbeat("new"))
    age(client, "old", by_us=121_000_000)

    assert workers(backend) == ["new"]
    assert client.hkeys(ROSTER) == [b"new"]


def test_a_dead_workers_entry_is_seen_until_its_margin_is_over(backend: RedisBackend, client: Any) -> None:
    backend.beat(heartbeat("w", interval=10.0))
    age(client, "w", by_us=100_000_000)

    view = backend.view("stem")

    assert [beat.liveness(view.now).value for beat in view.heartbeats] == ["dead"]
    assert backend.claim(heartbeat("w", boot="next")) is None


# Garbage.


@pytest.mark.parametrize("garbage", [b"nonsense", b'["done",1,\n', b"\xff", b'["running",1,\nx'], ids=repr)
def test_g37_a_task_key_that_can_not_be_read_is_named_and_gives_way(
    backend: RedisBackend, client: Any, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client.set("stem:task:bad", garbage)

    with pytest.raises(StoreCorrupt, match="stem:task:bad"):
        backend.get("bad")
    assert backend.record([task("a"), task("bad"), task("b")]) == [task("a"), task("bad"), task("b")]

    assert [backend.get(one) for one in ("a", "bad", "b")] == [task("a"), task("bad"), task("b")]
    assert client.get("stem:task:bad:set-aside") == garbage
    assert client.ttl("stem:task:bad:set-aside") > 0
    assert "stem:task:bad" in caplog.text


def test_g37_a_task_key_of_another_type_is_named_and_gives_way(backend: RedisBackend, client: Any) -> None:
    client.rpush("stem:task:bad", "x")

    with pytest.raises(StoreCorrupt, match="stem:task:bad"):
        backend.get("bad")
    assert backend.record([task("bad"), task("good")]) == [task("bad"), task("good")]

    assert client.lrange("stem:task:bad:set-aside", 0, -1) == [b"x"]


@pytest.mark.parametrize(
    "garbage",
    [b"nonsense", b'[1,99999999999999999,99999999999999999,\n"b",\n{"worker":1}]', b'[1,9e99,9e99,\n"b",\n'],
    ids=repr,
)
def test_garbage_in_one_entry_of_the_roster_hides_no_other_and_is_told_once(
    backend: RedisBackend, client: Any, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for worker in ("a", "bad", "c"):
        backend.beat(heartbeat(worker))
    client.hset(ROSTER, "bad", garbage)

    with caplog.at_level(logging.WARNING):
        views = [backend.view("stem") for _ in range(3)]

    assert [[beat.worker for beat in view.heartbeats] for view in views] == [["a", "c"]] * 3
    assert [view.unreadable for view in views] == [1, 1, 1]
    assert [view.set_aside for view in views] == [("bad",)] * 3
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["bad"]

    backend.leave("stem", "bad", "b")
    assert backend.view("stem").unreadable == 0


def test_an_id_whose_entry_is_garbage_can_be_claimed(backend: RedisBackend, client: Any) -> None:
    client.hset(ROSTER, "w", b"nonsense")

    assert backend.claim(heartbeat("w")) is None
    assert workers(backend) == ["w"]


# Outages.


def test_it_goes_on_after_the_server_restarted(redis_server: RedisServer, backend: RedisBackend) -> None:
    backend.record([task("before")])
    backend.beat(heartbeat("w"))

    redis_server.restart()

    assert backend.record([task("after")]) == [task("after")]
    assert backend.get("before") == task("before")
    assert workers(backend) == ["w"]


def test_it_says_so_while_the_server_is_down_and_recovers(redis_server: RedisServer, backend: RedisBackend) -> None:
    backend.record([task("before")])
    redis_server.stop()

    with pytest.raises(StoreUnavailable, match="result backend redis://") as raised:
        backend.record([task("meanwhile")])
    assert raised.value.hint

    redis_server.start()
    assert backend.record([task("meanwhile")]) == [task("meanwhile")]


def test_g10_a_record_whose_answer_was_lost_is_offered_again_without_harm(
    redis_server: RedisServer, redis_url: str, backend: RedisBackend, proxy_for: Callable[[str, int], TcpProxy]
) -> None:
    proxy = proxy_for(redis_server.host, redis_server.port)
    far = RedisBackend(f"redis://{proxy.host}:{proxy.port}/{redis_url.rpartition('/')[2]}")
    running = TaskRecord("t", "tasks.render", TaskState.RUNNING, worker="w1")
    far.record([running])

    proxy.cut()

    (held,) = far.record([TaskRecord("t", "tasks.render", TaskState.SUCCEEDED, result=1)])
    assert (held.worker, held.result) == ("w1", 1)
    assert far.record([TaskRecord("t", "tasks.render", TaskState.SUCCEEDED, result=1)]) == [held]
    assert backend.get("t") == held
    far.close()


# What it costs.


def test_a_batch_and_a_view_are_one_command_each(backend: RedisBackend, client: Any) -> None:
    backend.record([task("warm")])
    backend.view("stem")
    before = evals(client)

    backend.record([task(f"t{number}") for number in range(256)])
    after_batch = evals(client)
    backend.view("stem")

    assert (after_batch - before, evals(client) - after_batch) == (1, 1)


def test_entries_that_are_the_same_are_read_once_and_a_change_of_one_is_seen(backend: RedisBackend) -> None:
    backend.beat(heartbeat("w", interval=10.0))
    backend.beat(heartbeat("v", interval=10.0))
    first, again = backend.view("stem"), backend.view("stem")
    assert [beat.worker for beat in first.heartbeats] == ["v", "w"]
    assert again.now > first.now
    assert all(one is other for one, other in zip(first.heartbeats, again.heartbeats, strict=True))
    backend.beat(heartbeat("w", interval=10.0, in_flight=3))
    assert [beat.in_flight for beat in backend.view("stem").heartbeats if beat.worker == "w"] == [3]
    assert backend.view("another").heartbeats == ()
    assert workers(backend) == ["v", "w"]


def age(client: Any, worker: str, *, by_us: int) -> None:
    """Rewrite an entry as if it had been written earlier."""
    times, rest = client.hget(ROSTER, worker).split(b",\n", 1)
    earlier = ",".join(str(int(time) - by_us) for time in times[1:].split(b","))
    client.hset(ROSTER, worker, b"[" + earlier.encode() + b",\n" + rest)
