"""Task queues on Redis: in bursts, in order, and nothing lost whenever a consumer is killed (G18)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from kombu import Exchange, Queue

from stem_kombu.clock import SYSTEM, Clock, SystemClock
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import encode_task
from stem_kombu.task import TaskMessage
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports import names
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.redis.consumer import RedisConsumer, open_redis_consumer
from stem_kombu.transports.redis.leases import RedisLeases
from stem_kombu.transports.redis.recovery import BETWEEN
from tests.transports.receiving import Inbox, child, connected
from tests.waiting import eventually


class Reader:
    """A source over a connection of its own, and a pipe to wake it."""

    def __init__(self, url: str, *queues: str, clock: Clock = SYSTEM, **options: Any) -> None:
        self.connection = connected(url, **options)
        source = open_redis_consumer(self.connection, queues, clock=clock)
        assert source is not None
        self.source: RedisConsumer = source
        self.wake, self.waker = os.pipe()

    def take(self, room: int) -> list[str]:
        return [decode_delivery(message).message.task_id for message in self.source.take(room)]

    def arm(self) -> None:
        """Begin to wait for more, without staying."""
        self.source.wait(self.wake, 0.0, more=True)

    def close(self) -> None:
        self.source.close(keep=True)
        os.close(self.wake)
        os.close(self.waker)


@pytest.fixture
def reader(redis_url: str) -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def made(*queues: str, **options: Any) -> Reader:
        readers.append(Reader(redis_url, *queues, **options))
        return readers[-1]

    yield made
    for one in readers:
        one.close()


def send(url: str, queue: str, *ids: str, priority: int = 0, **options: Any) -> None:
    connection = connected(url, **options)
    with connection.Producer() as producer:
        for each in ids:
            envelope = encode_task(TaskMessage(each, "tasks.render", queue=queue))
            producer.publish(
                envelope.body, routing_key=queue, headers=envelope.headers, content_type="application/json",
                content_encoding="utf-8", priority=priority, **envelope.properties,
            )  # fmt: skip
    connection.release()


def test_a_burst_comes_in_the_order_of_sending_and_no_more_than_there_is_room_for(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    send(redis_url, queue_name, *(f"t{n}" for n in range(10)))
    one, other = reader(queue_name), reader(queue_name)
    assert one.take(4) == ["t0", "t1", "t2", "t3"]
    assert other.take(2) == ["t4", "t5"]
    assert one.take(100) == ["t6", "t7", "t8", "t9"]
    assert one.take(1) == []


def test_queues_take_turns_and_priorities_do_not(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    left, right = f"{queue_name}-l", f"{queue_name}-r"
    send(redis_url, left, "l0", "l1", "l2")
    send(redis_url, right, "r0", "r1")
    send(redis_url, right, "last", priority=9)
    both = reader(left, right)
    assert sorted([both.take(1)[0], both.take(1)[0]]) == ["l0", "r0"]
    assert both.take(100)[-1] == "last"


def test_what_is_taken_is_unacknowledged_until_it_is_acknowledged(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    send(redis_url, queue_name, "t1", "t2")
    one = reader(queue_name)
    server = redis.Redis.from_url(redis_url)
    first, second = one.source.take(2)
    assert (server.hlen("stem-unacked"), server.zcard("stem-unacked-index")) == (2, 2)
    one.source.take(0, [first.delivery_tag])
    assert server.hkeys("stem-unacked") == [second.delivery_tag.encode()]
    one.source.take(0, [first.delivery_tag, second.delivery_tag])
    assert (server.hlen("stem-unacked"), server.zcard("stem-unacked-index")) == (0, 0)
    server.close()


def test_a_wait_ends_when_a_message_comes_and_when_it_is_woken(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    one = reader(queue_name)
    one.arm()
    send(redis_url, queue_name, "t1")
    one.source.wait(one.wake, 60.0, more=True)
    assert one.take(5) == ["t1"]
    os.write(one.waker, b"x")
    one.source.wait(one.wake, 60.0, more=True)
    assert one.take(5) == []


def test_of_many_that_wait_one_gets_a_message_and_the_others_wait_for_their_turn(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    waiting = [reader(queue_name) for _ in range(4)]
    for one in waiting:
        one.arm()
    send(redis_url, queue_name, "t1")
    for one in waiting:
        one.source.wait(one.wake, 60.0, more=True)  # all are told
    assert [one.take(5) for one in waiting] == [["t1"], [], [], []]
    # then a pause in which they ask for nothing, and after it all are told again
    send(redis_url, queue_name, "t2")
    found: list[str] = []

    def any_takes() -> list[str]:
        for one in waiting:
            one.source.wait(one.wake, 0.01, more=True)
            found.extend(one.take(1))
        return found

    assert eventually(any_takes) == ["t2"]


def test_a_consumer_that_waits_costs_one_connection_and_no_commands_whatever_the_number_of_queues(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    one = reader(*(f"{queue_name}-{number}" for number in range(60)))
    assert one.take(5) == []
    one.arm()
    server = redis.Redis.from_url(redis_url)
    commands = server.info("commandstats")
    for _ in range(50):
        one.source.wait(one.wake, 0.001, more=True)
        assert one.take(5) == []
    after = server.info("commandstats")
    for name in ("cmdstat_exists", "cmdstat_evalsha"):
        assert after.get(name, {}).get("calls") == commands.get(name, {}).get("calls")
    send(redis_url, f"{queue_name}-59", "t1", priority=9)
    one.source.wait(one.wake, 60.0, more=True)
    assert one.take(5) == ["t1"]
    server.close()


def test_a_consumer_without_room_leaves_what_comes_to_others(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    full, other = reader(queue_name), reader(queue_name)
    full.arm()
    send(redis_url, queue_name, "t1", "t2")
    full.source.wait(full.wake, 0.01, more=False)
    assert other.take(5) == ["t1", "t2"]


def test_g18_a_message_is_in_its_queue_until_a_script_has_taken_it_also_while_a_consumer_waits(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    dead = reader(queue_name)
    dead.arm()
    send(redis_url, queue_name, "t1", "t2")
    server = redis.Redis.from_url(redis_url)
    dead.source.wait(dead.wake, 60.0, more=True)
    assert server.llen(queue_name) == 2
    dead.source.rest()
    assert server.keys("*landing*") == []
    assert reader(queue_name).take(5) == ["t1", "t2"]
    server.close()


def test_where_the_server_does_not_tell_of_messages_it_is_asked_ever_less_often(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    server = redis.Redis.from_url(redis_url)
    server.acl_setuser(
        "deaf", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], categories=["+@all"],
        commands=["-client|tracking"],
    )  # fmt: skip
    one = Reader(redis_url.replace("redis://", "redis://deaf:secret@"), queue_name)
    assert one.take(5) == []
    looks = (
        server.info("commandstats")["cmdstat_exists"]["calls"] if "cmdstat_exists" in server.info("commandstats") else 0
    )
    end = SYSTEM.monotonic() + 2.0
    while SYSTEM.monotonic() < end:
        one.source.wait(one.wake, 1.0, more=True)
        assert one.take(5) == []
    assert server.info("commandstats")["cmdstat_exists"]["calls"] - looks <= 12
    send(redis_url, queue_name, "t1")
    assert eventually(lambda: (one.source.wait(one.wake, 1.0, more=True), one.take(5))[1]) == ["t1"]
    one.close()
    server.acl_deluser("deaf")
    server.close()


def landing_of(queue: str, worker: str = "a1b2c3d4e5f60718") -> str:
    """The key of a landing of a worker of 0.1.0, and under which name it registers that."""
    return f"stem-unacked-landings:{worker}:0:0"


def test_g18_what_landed_at_a_worker_of_0_1_0_that_died_is_rescued_whenever_it_lands(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    server = redis.Redis.from_url(redis_url)
    registry, landing = "stem-unacked-landings", landing_of(queue_name)
    name = f"{landing}{BETWEEN}{queue_name}"
    seconds = int(server.time()[0])
    one = reader(queue_name)
    # given one that waits: what landed is its own until the lease is over
    server.zadd(registry, {name: seconds})
    send(redis_url, queue_name, "t1", "t2")
    server.blmove(queue_name, landing, 1, "RIGHT", "LEFT")
    one.source.sweep()
    assert server.llen(landing) == 1
    # when it was registered longer ago than the lease
    server.zadd(registry, {name: seconds - 100})
    one.source.sweep()
    assert one.take(5) == ["t1", "t2"]
    # and when its wait is carried out after that, a day later as well as after its registration is gone
    for forgotten in (False, True):
        if forgotten:
            server.zrem(registry, name)
        else:
            server.zadd(registry, {name: seconds - 86400})
        send(redis_url, queue_name, f"late{forgotten}", priority=6 if forgotten else 0)
        key = f"{queue_name}\x06\x166" if forgotten else queue_name
        server.blmove(key, landing, 1, "RIGHT", "LEFT")
        one.source.sweep()
        assert one.take(5) == [f"late{forgotten}"]
    # at last its registration goes
    server.zadd(registry, {name: seconds - 8 * 86400})
    one.source.sweep()
    assert server.zcard(registry) == 0
    server.close()


def test_g18_a_message_of_a_topic_exchange_comes_back_from_a_forgotten_landing_to_each_queue_that_is_bound(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    exchange = Exchange(f"{queue_name}-feeds", type="topic")
    connection = connected(redis_url)
    Queue(queue_name, exchange, routing_key="feed.#")(connection.default_channel).declare()
    envelope = encode_task(TaskMessage("t1", "tasks.render", queue=queue_name))
    connection.Producer(exchange=exchange).publish(
        envelope.body, routing_key="feed.import", headers=envelope.headers, content_type="application/json",
        content_encoding="utf-8", **envelope.properties,
    )  # fmt: skip
    connection.release()
    server = redis.Redis.from_url(redis_url)
    assert server.blmove(queue_name, landing_of(queue_name), 1, "RIGHT", "LEFT")
    one = reader(queue_name)
    one.source.sweep()
    assert one.take(5) == ["t1"]
    server.close()


def test_what_ours_leaves_behind_is_restored_by_kombus_own_consumer_and_the_other_way_round(
    redis_url: str, queue_name: str, reader: Callable[..., Reader]
) -> None:
    short = {"visibility_timeout": 0.1, "unacked_restore_throttle": 1}
    send(redis_url, queue_name, "t1")
    assert reader(queue_name, **short).take(1) == ["t1"]
    connection = connected(redis_url, **short)
    (message,) = Inbox(connection, names.task_queue(queue_name)).until(1)
    arrival = decode_delivery(message)
    assert (arrival.message.task_id, arrival.redelivered) == ("t1", True)
    for channel in connection.connection.channels:
        channel.do_restore = False
    connection.release()
    one = reader(queue_name, **short)

    def restored() -> list[Any]:
        one.source.sweep()
        return one.source.take(1)

    (again,) = eventually(restored)
    assert decode_delivery(again).redelivered


@pytest.mark.parametrize("prefix", ["", "tenant-1:"])
@pytest.mark.parametrize("meanwhile", ["renewed", "acknowledged", "nothing"])
def test_g19_what_is_renewed_after_it_was_found_overdue_stays_where_it_is(
    redis_url: str, queue_name: str, reader: Callable[..., Reader], prefix: str, meanwhile: str
) -> None:
    options = {"global_keyprefix": prefix, "visibility_timeout": 60}
    send(redis_url, queue_name, "t1", **options)
    holder, other = reader(queue_name, **options), reader(queue_name, **options)
    (held,) = holder.source.take(1)
    server = redis.Redis.from_url(redis_url)
    index = f"{prefix}stem-unacked-index"
    server.zadd(index, {held.delivery_tag: 1})
    look = other.source._sweeper._overdue

    def look_and_wait(**asked: Any) -> Any:
        found = look(**asked)
        if meanwhile == "renewed":
            leasing = RedisLeases(holder.connection)
            assert leasing is not None and leasing.renew([held]) == [True]
            leasing.close()
        elif meanwhile == "acknowledged":
            holder.source.take(0, [held.delivery_tag])
        return found

    other.source._sweeper._overdue = look_and_wait
    other.source.sweep()
    assert other.take(1) == (["t1"] if meanwhile == "nothing" else [])
    assert server.zcard(index) == (0 if meanwhile == "acknowledged" else 1)
    server.close()


def test_an_entry_of_the_unacknowledged_that_is_no_message_keeps_none_from_coming_back(
    redis_url: str, queue_name: str, reader: Callable[..., Reader], caplog: pytest.LogCaptureFixture
) -> None:
    send(redis_url, queue_name, "t1")
    one = reader(queue_name)
    (held,) = one.source.take(1)
    server = redis.Redis.from_url(redis_url)
    server.hset("stem-unacked", mapping={"a": b"\xff", "b": "{}", "c": "[1]", "d": "[1, 2, 3]"})
    server.zadd("stem-unacked-index", dict.fromkeys((*"abcde", held.delivery_tag), 1))
    one.source.sweep()
    assert one.take(5) == ["t1"]
    assert server.hlen("stem-unacked") == server.zcard("stem-unacked-index") == 1
    assert [r.message.partition(":")[0] for r in caplog.records if r.levelname == "ERROR"] == [
        f"what {tag!r} holds is no message and is dropped" for tag in "abcd"
    ]
    server.close()


@pytest.mark.parametrize("prefix", ["", "tenant-1:"])
def test_a_key_prefix_is_put_before_every_key(
    redis_url: str, queue_name: str, reader: Callable[..., Reader], prefix: str
) -> None:
    send(redis_url, queue_name, "t1", global_keyprefix=prefix)
    one = reader(queue_name, global_keyprefix=prefix)
    one.arm()
    assert one.take(1) == ["t1"]
    server = redis.Redis.from_url(redis_url)
    assert all(key.startswith(prefix.encode()) for key in server.keys("*") if b"_kombu" not in key)
    server.close()


def test_what_is_no_message_is_put_aside_with_a_word_and_hides_nothing(
    redis_url: str, queue_name: str, reader: Callable[..., Reader], caplog: pytest.LogCaptureFixture
) -> None:
    server = redis.Redis.from_url(redis_url)
    for garbage in ("{", "[]", "7", json.dumps({"body": "x"}), json.dumps({"properties": None})):
        server.lpush(queue_name, garbage)
    send(redis_url, queue_name, "t1")
    with caplog.at_level(logging.ERROR):
        assert reader(queue_name).take(100) == ["t1"]
    assert len([record for record in caplog.records if "are no message" in record.getMessage()]) == 5
    assert server.llen(f"stem-unreadable-{queue_name}") == 5
    assert server.hlen("stem-unacked") == 1
    server.close()


def test_a_server_without_what_is_needed_is_left_to_kombu(redis_url: str, queue_name: str) -> None:
    server = redis.Redis.from_url(redis_url)
    server.acl_setuser(
        "old",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-eval"],
    )
    connection = connected(redis_url.replace("redis://", "redis://old:secret@"))
    assert open_redis_consumer(connection, [queue_name]) is None
    connection.release()
    server.acl_deluser("old")
    server.close()


def test_a_connection_that_is_cut_while_it_waits_is_noticed(redis_url: str, queue_name: str) -> None:
    host, _, rest = redis_url.removeprefix("redis://").partition(":")
    port, _, database = rest.partition("/")
    with TcpProxy(host, int(port)) as proxy:
        one = Reader(f"redis://127.0.0.1:{proxy.port}/{database}", queue_name)
        one.arm()
        proxy.cut()
        with pytest.raises(one.connection.connection_errors):
            one.source.wait(one.wake, 60.0, more=True)
        one.source.close(keep=True)


CONSUMER = """
import os, sys
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.redis.consumer import open_redis_consumer
url, queue, path = sys.argv[1:]
connection = connect(open_connection(url))
source = open_redis_consumer(connection, [queue])
wake, _ = os.pipe()
print("ready", flush=True)
done = []
out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while True:
    messages = source.take(8, done)
    done = [message.delivery_tag for message in messages]
    for message in messages:
        os.write(out, (message.headers["id"] + "\\n").encode())
    if not messages:
        source.wait(wake, 1.0, more=True)
"""


@pytest.mark.timeout(400)  # thirty processes start, each of which is waited for by what it does
def test_g18_no_message_is_lost_when_its_consumers_are_killed_at_any_moment(
    redis_url: str, queue_name: str, reader: Callable[..., Reader], tmp_path: Any
) -> None:
    """Thirty kills in the middle of the traffic; Kombu's own consumer loses some here, between its pop and its note."""
    seen = tmp_path / "seen"
    seen.touch()
    server = redis.Redis.from_url(redis_url)
    sent = [f"t{n}" for n in range(30 * 40)]
    for trial in range(30):
        with child(CONSUMER, redis_url, queue_name, str(seen)):
            before = seen.stat().st_size
            send(redis_url, queue_name, *sent[trial * 40 : trial * 40 + 40])
            eventually(lambda before=before: seen.stat().st_size > before, 60)
    # then all that the dead ones held comes back
    for tag in server.zrange("stem-unacked-index", 0, -1):
        server.zadd("stem-unacked-index", {tag: 1})
    one = reader(queue_name)
    for _ in range(len(sent)):
        one.source.sweep()
        if server.zcard("stem-unacked-index") == 0:
            break
    left = one.take(128)
    while batch := one.take(128):
        left += batch
    assert set(seen.read_text().split()) | set(left) == set(sent)
    server.close()


def test_what_the_producer_puts_into_a_queue_is_what_kombus_would(redis_url: str, queue_name: str) -> None:
    message = TaskMessage("t1", "tasks.render", args=("ü", 1), kwargs={"b": None}, queue=queue_name, headers={"x": "y"})
    producer = TaskProducer(lambda: connected(redis_url))
    producer.send(message)
    producer.close()
    connection = connected(redis_url)
    envelope = encode_task(message)
    connection.Producer().publish(
        envelope.body, routing_key=queue_name, headers=envelope.headers, content_type="application/json",
        content_encoding="utf-8", delivery_mode=2, **envelope.properties,
    )  # fmt: skip
    connection.release()
    server = redis.Redis.from_url(redis_url)
    kombus, ours = (json.loads(text) for text in server.lrange(queue_name, 0, -1))
    tags = [kombus["properties"].pop("delivery_tag"), ours["properties"].pop("delivery_tag")]
    assert ours == kombus
    assert len({*tags}) == 2
    server.close()


class OffByAnHour(SystemClock):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def now(self) -> float:
        return super().now() + self._seconds


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
@pytest.mark.parametrize("renewed", [False, True])
def test_g19_a_lease_is_as_long_as_the_server_says_whatever_the_date_of_a_worker(
    redis_url: str,
    queue_name: str,
    reader: Callable[..., Reader],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    renewed: bool,
) -> None:
    # given two that hold a message each, and the date of one is wrong
    send(redis_url, queue_name, "first", "second")
    wrong = OffByAnHour(seconds)
    with monkeypatch.context() as patched:
        patched.setattr("kombu.transport.redis.time", wrong.now)
        lost = reader(queue_name, clock=wrong)
        mistaken = RedisLeases(lost.connection, clock=wrong)
        (first,) = lost.source.take(1)
    right = reader(queue_name)
    leasing = RedisLeases(right.connection)
    (second,) = right.source.take(1)
    assert leasing is not None and mistaken is not None
    if renewed:
        assert mistaken.renew([first]) == leasing.renew([second]) == [True]
    # when both look for what the dead have left
    right.source.sweep()
    with monkeypatch.context() as patched:
        patched.setattr("kombu.transport.redis.time", wrong.now)
        lost.source.sweep()
    # then each holds what it held
    assert right.take(2) == []
    assert mistaken.renew([first]) == leasing.renew([second]) == [True]
    leasing.close()
    mistaken.close()
