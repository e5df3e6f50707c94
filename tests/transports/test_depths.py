"""How many messages wait."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
from kombu import Producer

from stem_kombu.task import TaskMessage
from stem_kombu.transports import names
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.registry import open_transport
from tests.transports.receiving import Inbox, Relay, connected
from tests.waiting import eventually


def send(url: str, queue: str, count: int) -> None:
    producer = TaskProducer(lambda: open_connection(url))
    producer.send_many(TaskMessage(f"t{n}", "tasks.render", queue=queue) for n in range(count))
    producer.close()


def test_the_messages_that_wait_are_counted_and_those_in_hand_are_not(broker_url: str, queue_name: str) -> None:
    send(broker_url, queue_name, 5)
    depths = open_transport(open_connection(broker_url)).depths()
    assert depths.of([queue_name]) == {queue_name: 5}
    connection = connected(broker_url)
    inbox = Inbox(connection, names.task_queue(queue_name), prefetch=2)
    inbox.until(2)
    eventually(lambda: depths.of([queue_name]) == {queue_name: 3}, 10.0, interval=0.05)
    for message in inbox.messages:
        message.ack()
    depths.close()
    connection.release()


def test_an_empty_queue_is_zero_deep_and_stays_countable(broker_url: str, queue_name: str) -> None:
    send(broker_url, queue_name, 1)
    connection = connected(broker_url)
    Inbox(connection, names.task_queue(queue_name)).until(1)[0].ack()
    connection.release()
    depths = open_transport(open_connection(broker_url)).depths()
    eventually(lambda: depths.of([queue_name]) == {queue_name: 0}, 10.0, interval=0.05)
    depths.close()


def test_a_queue_that_does_not_exist_has_no_depth_and_is_not_made(
    amqp_url: str, sqlite_url: str, queue_name: str
) -> None:
    for url in (amqp_url, sqlite_url):
        send(url, queue_name, 2)
        depths = open_transport(open_connection(url)).depths()
        for _ in range(2):
            assert depths.of(["no-such-queue", queue_name]) == {"no-such-queue": None, queue_name: 2}
        depths.close()


def test_messages_of_all_priorities_are_counted_on_redis(redis_url: str, queue_name: str) -> None:
    connection = connected(redis_url)
    producer = Producer(connection.default_channel, auto_declare=False)
    for priority in (0, 3, 6, 9):
        producer.publish({}, exchange="", routing_key=queue_name, priority=priority)
    depths = open_transport(open_connection(redis_url)).depths()
    assert depths.of([queue_name]) == {queue_name: 4}
    depths.close()
    connection.release()


def test_a_lost_connection_is_replaced_and_a_broker_that_is_away_leaves_depths_unknown(
    server_url: str, queue_name: str
) -> None:
    send(server_url, queue_name, 1)
    parts = urlsplit(server_url)
    relay = Relay(parts.port or 0)
    credentials = parts.netloc.rpartition("@")[0]
    netloc = f"{credentials + '@' if credentials else ''}127.0.0.1:{relay.port}"
    depths = open_transport(open_connection(urlunsplit(parts._replace(netloc=netloc)))).depths()
    assert depths.of([queue_name]) == {queue_name: 1}
    relay.cut()
    assert depths.of([queue_name]) == {queue_name: 1}
    relay.close()
    assert depths.of([queue_name]) == {queue_name: None}
    depths.close()


def test_depths_are_asked_for_from_several_threads(broker_url: str, queue_name: str) -> None:
    send(broker_url, queue_name, 3)
    depths = open_transport(open_connection(broker_url)).depths()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(depths.of([queue_name]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [{queue_name: 3}] * 6
    depths.close()


def test_many_queues_are_counted_over_one_connection(redis_url: str, queue_name: str) -> None:
    """With a connection for each, ``stem worker stats`` got no answer from a worker of 60 queues."""
    send(redis_url, queue_name, 3)
    depths = open_transport(open_connection(redis_url)).depths()
    names_of_all = [f"{queue_name}-{number}" for number in range(60)]
    with redis.Redis.from_url(redis_url) as server:
        before = server.info("stats")["total_connections_received"]
        found = depths.of([queue_name, *names_of_all])
        made = server.info("stats")["total_connections_received"] - before
    assert found == {queue_name: 3, **dict.fromkeys(names_of_all, 0)}
    assert made <= 5
    depths.close()


def test_each_queue_that_does_not_exist_is_left_out_and_hides_none(amqp_url: str, queue_name: str) -> None:
    send(amqp_url, queue_name, 2)
    depths = open_transport(open_connection(amqp_url)).depths()
    assert depths.of(["none-1", queue_name, "none-2", "none-3"]) == {
        "none-1": None,
        queue_name: 2,
        "none-2": None,
        "none-3": None,
    }
    depths.close()
