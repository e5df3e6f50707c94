"""What a browser of Redis makes of lists that Kombu's priorities, prefixes and other programs leave in a database."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from kombu import Connection, Producer

from stem_kombu.errors import BrokerRefused
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.task import TaskMessage
from stem_kombu.transports.browsing import NoMessage
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.names import is_control_name
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.registry import open_transport


def browser_of(url: str, **options: Any) -> Any:
    return open_transport(open_connection(url, options=options)).browser()


def ids(messages: Any) -> list[str]:
    return [decode_delivery(message).message.task_id for message in messages]


def test_priorities_are_one_queue_and_the_urgent_come_first(redis_url: str, queue_name: str) -> None:
    with Connection(redis_url) as connection:
        producer = Producer(connection.channel())
        for task_id, priority in (("late", 9), ("first", 0), ("middle", 3)):
            producer.publish(
                [[], {}, {}],
                routing_key=queue_name,
                priority=priority,
                serializer="json",
                headers={"id": task_id, "task": "t"},
            )
    browser = browser_of(redis_url)
    assert ids(browser.first(queue_name, 10)) == ["first", "middle", "late"]
    assert sorted(ids(browser.search(queue_name))) == ["first", "late", "middle"]
    assert queue_name in browser.queues()
    assert not [name for name in browser.queues() if "\x06" in name]
    browser.close()


def test_only_lists_of_messages_under_the_prefix_are_queues(redis_url: str, queue_name: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.rpush("shop[1]:other-program", "not a message")
    client.rpush("elsewhere", '{"body": "", "properties": {}}')
    client.rpush(f"shop[1]:stem-unreadable-{queue_name}", "noise")
    producer = TaskProducer(lambda: open_connection(redis_url, options={"global_keyprefix": "shop[1]:"}))
    producer.send_many([TaskMessage("a", "t", queue=queue_name)])
    producer.close()
    client.lpush(f"shop[1]:{queue_name}", "noise")
    browser = browser_of(redis_url, global_keyprefix="shop[1]:")
    assert browser.queues() == [queue_name]
    message, noise = browser.first(queue_name, 10)
    assert ids([message]) == ids(browser.search(queue_name)) == ["a"]
    assert isinstance(noise, NoMessage) and "JSONDecodeError" in noise.problem
    assert "elsewhere" in browser_of(redis_url).queues()
    browser.close()


def test_g37_a_key_that_is_no_list_hides_no_other_queue_and_is_never_deleted(redis_url: str, queue_name: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.set(f"{queue_name}-other", "of another program")
    client.rpush(queue_name, "noise")
    transport = open_transport(open_connection(redis_url))
    depths = transport.depths()
    assert depths.of([queue_name, f"{queue_name}-other"]) == {queue_name: 1, f"{queue_name}-other": None}
    depths.close()
    with pytest.raises(BrokerRefused, match="another type than a list") as refused:
        transport.purge(f"{queue_name}-other")
    assert refused.value.hint is not None
    assert client.get(f"{queue_name}-other") == b"of another program"


def test_control_queues_are_told_from_task_queues() -> None:
    control = ["stem-prod-ctl-r-a-0123456789ab", "stem-my-ns-0123456789ab-beat-x", "w@h.celery.pidbox", "celeryev.1"]
    assert [
        name for name in [*control, "stem-mail", "celery", "stem-unreadable-mail"] if is_control_name(name)
    ] == control
