"""Sending tasks: confirmed, from several threads, across lost connections and forks."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from kombu import Queue

from stem_kombu import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerUnavailable, ConfigurationError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports import names
from stem_kombu.transports.connections import open_connection, pump
from stem_kombu.transports.producer import TaskProducer, open_producer
from stem_kombu.transports.queues import declared_task_queue
from tests.transports.receiving import Inbox, Relay, connected


def task(number: int, queue: str, **more: Any) -> TaskMessage:
    return TaskMessage(f"t{number}", "tasks.render", (number,), queue=queue, enqueued_at=SYSTEM.utcnow(), **more)


def ids(url: str, queue: str, count: int) -> Counter[str]:
    """Which ids arrive, how often, when the queue is read to its end."""
    connection = connected(url)
    inbox = Inbox(connection, names.task_queue(queue))
    messages = inbox.until(count, 30.0)
    while pump(connection, 0.3):
        pass  # what was sent twice
    found = Counter(decode_delivery(message).message.task_id for message in messages)
    for message in messages:
        message.ack()
    connection.release()
    return found


@pytest.fixture
def producer(broker_url: str) -> Iterator[TaskProducer]:
    made = TaskProducer(lambda: open_connection(broker_url))
    yield made
    made.close()


@pytest.fixture
def through(server_url: str) -> Iterator[tuple[str, Relay]]:
    """The server's URL through a relay that can be cut."""
    parts = urlsplit(server_url)
    relay = Relay(parts.port or 0)
    credentials = parts.netloc.rpartition("@")[0]
    url = urlunsplit(parts._replace(netloc=f"{credentials + '@' if credentials else ''}127.0.0.1:{relay.port}"))
    yield url, relay
    relay.close()


def test_a_sent_task_is_in_the_queue_when_send_returns(
    producer: TaskProducer, broker_url: str, queue_name: str
) -> None:
    sent = task(1, queue_name, attempt=2, max_retries=5, headers={"trace": "x"}, eta=None)
    producer.send(sent)
    connection = connected(broker_url)
    (message,) = Inbox(connection, names.task_queue(queue_name)).until(1)
    assert decode_delivery(message, queue=queue_name).message == sent
    message.ack()
    connection.release()


def test_many_are_sent_at_once_in_order_and_none_twice(
    producer: TaskProducer, broker_url: str, queue_name: str
) -> None:
    count = 1203  # more than two chunks, and a rest
    assert producer.send_many(task(n, queue_name) for n in range(count)) == count
    connection = connected(broker_url)
    messages = Inbox(connection, names.task_queue(queue_name)).until(count, 60.0)
    assert [decode_delivery(message).message.args[0] for message in messages] == list(range(count))
    for message in messages:
        message.ack()
    connection.release()


def test_several_queues_are_served_by_one_call(producer: TaskProducer, broker_url: str, queue_name: str) -> None:
    producer.send_many(task(n, f"{queue_name}-{n % 3}") for n in range(9))
    for part in range(3):
        assert ids(broker_url, f"{queue_name}-{part}", 3) == Counter([f"t{n}" for n in range(part, 9, 3)])


@pytest.mark.parametrize("queues", [1, 2])
def test_g18_a_key_that_holds_something_else_than_a_queue_is_an_error_of_one_queue_and_of_several(
    redis_url: str, queue_name: str, queues: int
) -> None:
    producer = TaskProducer(lambda: open_connection(redis_url), timeout=0.5)
    producer.send_many([task(0, queue_name), task(1, "others")])  # connected, and both known
    with redis.Redis.from_url(redis_url) as client:
        client.delete(queue_name)
        client.set(queue_name, "not a list")
    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        producer.send_many([task(number, queue_name if number % queues == 0 else "others") for number in range(4)])
    producer.close()


def test_threads_share_a_producer(producer: TaskProducer, broker_url: str, queue_name: str) -> None:
    failures: list[BaseException] = []

    def send(start: int) -> None:
        try:
            for number in range(start, start + 25):
                producer.send(task(number, queue_name))
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=send, args=(start,)) for start in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert ids(broker_url, queue_name, 200) == Counter([f"t{n}" for n in range(200)])


def test_nothing_is_sent_when_one_of_many_cannot_be(producer: TaskProducer, broker_url: str, queue_name: str) -> None:
    bad = TaskMessage("bad", "tasks.render", (object(),), queue=queue_name)
    with pytest.raises(ConfigurationError, match=r"tasks.render"):
        producer.send_many([task(1, queue_name), bad])
    with pytest.raises(ConfigurationError, match=r"queue name"):
        producer.send_many([task(1, queue_name), task(2, " ")])
    connection = connected(broker_url)
    assert Inbox(connection, names.task_queue(queue_name)).listen(0.3) == []
    connection.release()


def test_g18_a_connection_that_broke_between_two_sends_is_replaced(
    through: tuple[str, Relay], server_url: str, queue_name: str
) -> None:
    url, relay = through
    producer = TaskProducer(lambda: open_connection(url))
    producer.send(task(1, queue_name))
    relay.cut()
    producer.send(task(2, queue_name))
    relay.cut()
    producer.send_many([task(3, queue_name), task(4, queue_name)])
    producer.close()
    assert set(ids(server_url, queue_name, 4)) == {"t1", "t2", "t3", "t4"}


def test_g18_what_was_accepted_survives_connections_cut_at_random(
    through: tuple[str, Relay], server_url: str, queue_name: str
) -> None:
    url, relay = through
    producer = TaskProducer(lambda: open_connection(url))
    ended = threading.Event()

    def cut_often() -> None:
        while not ended.wait(0.3):
            relay.cut()

    cutter = threading.Thread(target=cut_often)
    cutter.start()
    accepted: set[str] = set()
    try:
        for start in range(0, 4000, 400):
            batch = [task(n, queue_name) for n in range(start, start + 400)]
            producer.send_many(batch)
            accepted |= {message.task_id for message in batch}
    finally:
        ended.set()
        cutter.join()
        producer.close()
    assert relay.accepted > 1
    assert accepted == {f"t{n}" for n in range(4000)}
    assert set(ids(server_url, queue_name, 4000)) == accepted


def test_a_broker_that_could_never_be_reached_is_reported_at_once(through: tuple[str, Relay], queue_name: str) -> None:
    url, relay = through
    relay.close()
    producer = TaskProducer(lambda: open_connection(url), timeout=60.0)
    started = SYSTEM.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"refused"):
        producer.send(task(1, queue_name))
    assert SYSTEM.monotonic() - started < 10.0


def test_a_broker_that_went_away_is_tried_for_no_longer_than_the_timeout(
    through: tuple[str, Relay], queue_name: str
) -> None:
    url, relay = through
    producer = TaskProducer(lambda: open_connection(url), timeout=1.0)
    producer.send(task(1, queue_name))
    relay.close()
    started = SYSTEM.monotonic()
    with pytest.raises(BrokerUnavailable):
        producer.send_many([task(2, queue_name), task(3, queue_name)])
    assert SYSTEM.monotonic() - started < 10.0


def test_when_all_lines_are_busy_a_sender_waits_its_turn(broker_url: str, queue_name: str) -> None:
    producer = TaskProducer(lambda: open_connection(broker_url), lines=1)
    threads = [threading.Thread(target=producer.send_many, args=([task(n, queue_name)],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    producer.close()
    assert sum(ids(broker_url, queue_name, 6).values()) == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_sends_over_connections_of_its_own(server_url: str, queue_name: str) -> None:
    # given a producer with an open connection
    producer = TaskProducer(lambda: open_connection(server_url))
    producer.send(task(1, queue_name))
    # when a child sends, closes and exits
    pid = os.fork()
    if pid == 0:
        try:
            producer.send(task(2, queue_name))
            producer.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    # then the parent's connection still works
    producer.send(task(3, queue_name))
    producer.close()
    assert ids(server_url, queue_name, 3) == Counter(["t1", "t2", "t3"])


def test_a_child_that_is_forked_while_other_threads_send_is_not_held_up_by_their_locks(
    server_url: str, postgres_url: str, queue_name: str
) -> None:
    # Given an application whose locks, at the moment of the fork, are held by a thread that the child will not have
    database = urlsplit(server_url)
    backend = server_url if database.scheme == "redis" else postgres_url
    app = Stem("forks", broker=server_url, backend=backend)
    app.send_task("noop", task_id="t1", queue=queue_name)
    assert app.backend is not None
    locks = [app._lock, app.producer._pool._lock, app.backend._database._lock]  # type: ignore[attr-defined]
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            over.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    # When the child sends, closes and exits
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs is ended by the kernel
        try:
            app.send_task("noop", task_id="t2", queue=queue_name)
            known = [app.backend.get(task_id) for task_id in ("t1", "t2")]
            app.close()
            os._exit(0 if all(known) else 2)
        finally:
            os._exit(1)
    ended = os.waitpid(child, 0)[1]
    over.set()
    holder.join(10)
    assert os.waitstatus_to_exitcode(ended) == 0
    # Then the parent goes on as well
    app.send_task("noop", task_id="t3", queue=queue_name)
    app.close()
    assert ids(server_url, queue_name, 3) == Counter(["t1", "t2", "t3"])


def test_after_close_the_next_send_connects_again(producer: TaskProducer, broker_url: str, queue_name: str) -> None:
    producer.send(task(1, queue_name))
    producer.close()
    producer.close()
    producer.send(task(2, queue_name))
    assert ids(broker_url, queue_name, 2) == Counter(["t1", "t2"])


def test_a_queue_that_was_deleted_meanwhile_is_declared_again(amqp_url: str, queue_name: str) -> None:
    producer = TaskProducer(lambda: open_connection(amqp_url))
    producer.send(task(1, queue_name))
    connection = connected(amqp_url)
    connection.default_channel.queue_delete(queue_name)
    producer.send(task(2, queue_name))
    producer.send_many([task(3, queue_name), task(4, queue_name)])
    producer.close()
    assert ids(amqp_url, queue_name, 3) == Counter(["t2", "t3", "t4"])
    connection.release()


def test_a_full_queue_that_refuses_is_an_error_and_not_silence(amqp_url: str, queue_name: str) -> None:
    connection = connected(amqp_url)
    full = Queue(queue_name, durable=True, queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    full(connection.default_channel).declare()
    producer = TaskProducer(lambda: open_connection(amqp_url), timeout=5.0)
    producer.send(task(1, queue_name))
    with pytest.raises(BrokerUnavailable, match=r"refused 1 messages"):
        producer.send(task(2, queue_name))
    producer.close()
    connection.release()


@pytest.mark.parametrize("arguments", [{"x-max-priority": 10}, {"x-message-ttl": 60_000}, {"x-queue-type": "quorum"}])
def test_a_queue_that_others_declared_with_other_arguments_is_used_as_it_is(
    amqp_url: str, queue_name: str, arguments: dict[str, Any]
) -> None:
    # given what an application with priorities, a time limit or a quorum has declared
    connection = connected(amqp_url)
    Queue(queue_name, durable=True, queue_arguments=arguments)(connection.default_channel).declare()
    # when we send to it and consume from it
    producer = TaskProducer(lambda: open_connection(amqp_url))
    producer.send(task(1, queue_name))
    producer.close()
    inbox = Inbox(connection, declared_task_queue(connection, queue_name), prefetch=4, declare=False)
    (message,) = inbox.until(1)
    assert decode_delivery(message).message.task_id == "t1"
    message.ack()
    connection.release()


def test_declaring_a_task_queue_makes_it_once_and_keeps_what_is_in_it(broker_url: str, queue_name: str) -> None:
    connection = connected(broker_url)
    declared_task_queue(connection, queue_name)
    producer = TaskProducer(lambda: open_connection(broker_url))
    producer.send(task(1, queue_name))
    declared_task_queue(connection, queue_name)
    producer.close()
    connection.release()
    assert ids(broker_url, queue_name, 1) == Counter(["t1"])


def test_a_producer_for_settings_refuses_a_bad_url_before_it_sends() -> None:
    with pytest.raises(ConfigurationError, match=r"STEM_BROKER_URL"):
        open_producer(Settings.from_env({"STEM_BROKER_URL": "gopher://h"}))


def test_the_errors_of_one_thread_do_not_leak_connections(through: tuple[str, Relay], queue_name: str) -> None:
    url, relay = through
    opened: list[Any] = []

    def open_and_note() -> Any:
        opened.append(open_connection(url))
        return opened[-1]

    producer = TaskProducer(open_and_note, timeout=0.5)
    producer.send(task(1, queue_name))
    relay.close()
    for _ in range(6):  # more often than there are lines
        with pytest.raises(BrokerUnavailable):
            producer.send(task(2, queue_name))
    assert not any(connection.connected for connection in opened)


@pytest.mark.parametrize("fault", ["stall", "half_open"])
def test_sending_ends_with_an_error_when_the_broker_has_gone_silent(
    server_url: str, proxy_for: Callable[[str, int], TcpProxy], fault: str
) -> None:
    """Not even closing the connection may wait for a peer that says nothing any more."""
    parts = urlsplit(server_url)
    proxy = proxy_for(parts.hostname or "", parts.port or 0)
    url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{proxy.host}:{proxy.port}".lstrip("@")))
    producer = TaskProducer(lambda: open_connection(url), timeout=1.0)
    producer.send(task(1, "silent"))
    getattr(proxy, fault)()
    if fault == "half_open":
        proxy.stall()  # what connects anew finds nobody either
    raised: list[Exception] = []

    def send() -> None:
        try:
            producer.send(task(2, "silent"))
        except Exception as error:  # noqa: BLE001 - looked at in the thread of the test
            raised.append(error)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(60)
    assert not sending.is_alive()
    assert isinstance(raised[0], BrokerUnavailable)
    proxy.resume()
    producer.close()
