"""Leases: what is renewed stays ours, what is lost is noticed (G19)."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BrokerUnavailable
from stem_kombu.task import TaskMessage
from stem_kombu.transports import names
from stem_kombu.transports.base import Leases
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.registry import open_transport
from tests.transports.receiving import Inbox, Relay, connected

#: A short visibility timeout, and Kombu looking for messages to restore at every turn instead of every hundredth.
SHORT: dict[str, Any] = {"visibility_timeout": 1.0, "unacked_restore_throttle": 1}


def send(url: str, queue: str, *ids: str, **options: Any) -> None:
    producer = TaskProducer(lambda: open_connection(url, options=options))
    producer.send_many(TaskMessage(each, "tasks.render", queue=queue) for each in ids)
    producer.close()


class Holder:
    """A consumer that holds what it got and is not drained any more."""

    def __init__(self, url: str, queue: str, count: int = 1, options: dict[str, Any] | None = None) -> None:
        self.connection = connected(url, **(options or {}))
        self.inbox = Inbox(self.connection, names.task_queue(queue))
        self.messages = list(self.inbox.until(count))
        leasing = open_transport(self.connection).leases()
        assert leasing is not None
        self.leasing: Leases = leasing

    def close(self) -> None:
        self.leasing.close()
        for channel in self.connection.connection.channels:
            channel.do_restore = False
        self.connection.release()


@pytest.mark.parametrize("prefix", ["", "tenant-1:"])
def test_g19_a_message_held_longer_than_the_visibility_timeout_is_not_redelivered_while_it_is_renewed(
    redis_url: str, queue_name: str, prefix: str
) -> None:
    options = {**SHORT, "global_keyprefix": prefix}
    send(redis_url, queue_name, "t1", **options)
    holder = Holder(redis_url, queue_name, options=options)
    other = connected(redis_url, **options)
    second = Inbox(other, names.task_queue(queue_name))
    # when another consumer waits for two and a half timeouts, and we renew
    kept: list[bool] = []
    assert second.listen(2.5, between=lambda: kept.extend(holder.leasing.renew(holder.messages))) == []
    assert kept
    assert all(kept)
    # and when we stop renewing: the message is the other's
    (restored,) = second.until(1)
    assert restored.headers["id"] == "t1"
    assert restored.delivery_info.get("redelivered")
    restored.ack()
    assert holder.leasing.renew(holder.messages) == [False]
    holder.close()
    other.release()


def test_g19_a_lease_that_was_extended_ahead_needs_no_renewal_until_then(redis_url: str, queue_name: str) -> None:
    send(redis_url, queue_name, "t1")
    holder = Holder(redis_url, queue_name, options=SHORT)
    other = connected(redis_url, **SHORT)
    second = Inbox(other, names.task_queue(queue_name))
    assert holder.leasing.renew(holder.messages, 3.0) == [True]
    assert second.listen(2.0) == []
    second.until(1, 10.0)[0].ack()
    holder.close()
    other.release()


def test_g19_a_message_that_somebody_else_holds_under_the_same_tag_is_lost(redis_url: str, queue_name: str) -> None:
    # given a message of ours that was renewed once, and then ran out
    send(redis_url, queue_name, "t1")
    holder = Holder(redis_url, queue_name, options=SHORT)
    assert holder.leasing.renew(holder.messages) == [True]
    other = connected(redis_url, **SHORT)
    (theirs,) = Inbox(other, names.task_queue(queue_name)).until(1)
    # then, though Redis redelivers under the same tag and holds it as unacknowledged again, we see that it isn't ours
    assert theirs.delivery_tag == holder.messages[0].delivery_tag
    assert holder.leasing.renew(holder.messages) == [False]
    # and they can renew it
    their_leasing = open_transport(other).leases()
    assert their_leasing is not None
    assert their_leasing.renew([theirs]) == [True]
    their_leasing.close()
    theirs.ack()
    holder.close()
    other.release()


def test_an_acknowledged_message_is_not_brought_back_by_a_renewal(redis_url: str, queue_name: str) -> None:
    send(redis_url, queue_name, "t1", "t2")
    holder = Holder(redis_url, queue_name, 2)
    first, second = holder.messages
    first.ack()
    assert holder.leasing.renew([first, second]) == [False, True]
    second.ack()
    database = redis.Redis.from_url(redis_url)
    assert database.zcard("unacked_index") == 0
    database.close()
    holder.close()


def test_thousands_are_renewed_in_a_few_round_trips_and_answered_in_order(redis_url: str, queue_name: str) -> None:
    count = 2500
    send(redis_url, queue_name, *(f"t{n}" for n in range(count)))
    holder = Holder(redis_url, queue_name, count)
    for message in holder.messages[::2]:
        message.ack()
    assert holder.leasing.renew(holder.messages) == [n % 2 == 1 for n in range(count)]
    for message in holder.messages[1::2]:
        message.ack()
    holder.close()


def test_leases_are_renewed_from_any_thread(redis_url: str, queue_name: str) -> None:
    send(redis_url, queue_name, "t1")
    holder = Holder(redis_url, queue_name)
    answers: list[list[bool]] = []
    threads = [threading.Thread(target=lambda: answers.append(holder.leasing.renew(holder.messages))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == [[True]] * 4
    holder.messages[0].ack()
    holder.close()


def test_a_broker_that_is_away_is_an_error_and_not_a_lost_lease(redis_url: str, queue_name: str) -> None:
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(redis_url)
    relay = Relay(parts.port or 0)
    send(redis_url, queue_name, "t1")
    holder = Holder(urlunsplit(parts._replace(netloc=f"127.0.0.1:{relay.port}")), queue_name)
    assert holder.leasing.renew(holder.messages) == [True]
    relay.cut()
    # The connection is gone but the broker isn't: one call may fail, the next one connects again.
    try:
        holder.leasing.renew(holder.messages)
    except BrokerUnavailable:
        assert holder.leasing.renew(holder.messages) == [True]
    relay.close()
    with pytest.raises(BrokerUnavailable):
        holder.leasing.renew(holder.messages)
    holder.close()


def test_a_killed_workers_messages_stay_its_own_for_a_minute_unless_an_option_says_otherwise(redis_url: str) -> None:
    plain = open_transport(open_connection(redis_url)).leases()
    short = open_transport(open_connection(redis_url, options=SHORT)).leases()
    assert plain is not None
    assert plain.lifetime == 60
    assert short is not None
    assert short.lifetime == 1.0


def test_g19_on_the_embedded_broker_a_held_message_is_ours_until_its_channel_closes(
    sqlite_url: str, queue_name: str
) -> None:
    options = {"visibility_timeout": 0.6}
    send(sqlite_url, queue_name, "t1")
    holder = Holder(sqlite_url, queue_name, options=options)
    assert holder.leasing.lifetime == 0.6
    other = connected(sqlite_url, **options)
    second = Inbox(other, names.task_queue(queue_name))
    # when the holder does nothing but renew, from another thread than the one that consumed
    kept: list[bool] = []

    def renew() -> None:
        thread = threading.Thread(target=lambda: kept.extend(holder.leasing.renew(holder.messages)))
        thread.start()
        thread.join()

    assert second.listen(1.5, between=renew) == []
    assert kept
    assert all(kept)
    # and when its connection is closed: the message is the other's, and the lease is lost
    holder.connection.release()
    (redelivered,) = second.until(1)
    assert redelivered.headers["id"] == "t1"
    assert holder.leasing.renew(holder.messages) == [False]
    redelivered.ack()
    other.release()


def test_amqp_has_no_leases(amqp_url: str) -> None:
    assert open_transport(open_connection(amqp_url)).leases() is None


def test_opening_a_leasing_does_not_connect() -> None:
    started = SYSTEM.monotonic()
    leasing = open_transport(open_connection("redis://127.0.0.1:1/0")).leases()
    assert leasing is not None
    assert SYSTEM.monotonic() - started < 5.0
    leasing.close()
    leasing.close()
