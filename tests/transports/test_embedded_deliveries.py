"""Consuming from the embedded broker: credit, acknowledgements, leases, waking."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from amqp.exceptions import ConsumerCancelled, NotFound, PreconditionFailed, RecoverableConnectionError
from kombu import Connection, Consumer, Queue

from stem_kombu.clock import SYSTEM
from stem_kombu.transports.sqlite import messages
from tests.transports.embedded_actors import connect
from tests.transports.test_embedded_queues import bodies, publish, ready
from tests.waiting import eventually


@pytest.fixture
def connection(sqlite_url: str) -> Iterator[Connection]:
    with connect(sqlite_url) as opened:
        opened.default_channel.queue_declare("q")
        yield opened


@pytest.fixture
def channel(connection: Connection) -> Any:
    return connection.channel()


@pytest.fixture
def other(sqlite_url: str, connection: Connection) -> Iterator[Any]:
    """A channel of another connection."""
    with connect(sqlite_url) as opened:
        yield opened.channel()


class Taker:
    """Consumes a queue and keeps what comes."""

    def __init__(
        self, connection: Connection, channel: Any, *queues: str, prefetch: int = 0, no_ack: bool = False
    ) -> None:
        self.connection = connection
        self.messages: list[Any] = []
        channel.basic_qos(0, prefetch, False)
        self.consumer = Consumer(
            channel,
            [Queue(name) for name in queues],
            on_message=self.messages.append,
            no_ack=no_ack,
            accept=["json", "text/plain"],
        )
        self.consumer.consume()

    def drain(self, timeout: float = 0.0) -> list[Any]:
        """All that comes until nothing does; bodies."""
        before = len(self.messages)
        with contextlib.suppress(TimeoutError):
            while True:
                self.connection.drain_events(timeout=timeout)
        return [message.decode() for message in self.messages[before:]]


def test_no_more_is_delivered_than_the_prefetch_allows(connection: Connection, channel: Any, other: Any) -> None:
    # Given five messages and credit for two
    for number in range(5):
        publish(other, number, "q")
    taker = Taker(connection, channel, "q", prefetch=2)
    assert taker.drain() == [0, 1]
    # Then the rest is there for others
    assert ready(other, "q") == 3
    # And each acknowledgement brings one more
    taker.messages[0].ack()
    assert taker.drain() == [2]
    taker.messages[1].ack()
    taker.messages[2].reject()
    assert taker.drain() == [3, 4]
    assert not channel.qos.can_consume()
    # And credit that grows is used
    channel.basic_qos(0, 3, False)
    assert channel.qos.can_consume()
    assert channel.qos.prefetch_count == 3
    publish(other, 5, "q")
    assert taker.drain() == [5]


def test_without_a_limit_a_burst_is_still_shared(connection: Connection, channel: Any, other: Any) -> None:
    with connect(str(connection.as_uri()), fetch_limit=4) as third:
        for number in range(10):
            publish(other, number, "q")
        taker = Taker(third, third.channel(), "q")
        third.drain_events(timeout=1)
        assert ready(other, "q") == 6
        assert taker.drain() == list(range(1, 10))


def test_queues_take_turns_whatever_their_lengths(connection: Connection, channel: Any, other: Any) -> None:
    for name in ("long", "short"):
        channel.queue_declare(name)
    for number in range(20):
        publish(other, f"long {number}", "long")
    for number in range(2):
        publish(other, f"short {number}", "short")
    taker = Taker(connection, channel, "long", "short", prefetch=4)
    first = taker.drain()
    assert sorted(body.split()[0] for body in first) == ["long", "long", "short", "short"]


def test_with_credit_for_one_a_long_queue_does_not_starve_a_short_one(
    connection: Connection, channel: Any, other: Any
) -> None:
    for name in ("long", "short"):
        channel.queue_declare(name)
    for _ in range(20):
        publish(other, "long", "long")
    publish(other, "short", "short")
    taker = Taker(connection, channel, "long", "short", prefetch=1)
    seen: list[str] = []
    for _ in range(4):
        seen += taker.drain()
        taker.messages[-1].ack()
    assert "short" in seen


def test_two_channels_of_one_connection_take_turns(connection: Connection, channel: Any, other: Any) -> None:
    channel.queue_declare("control")
    for number in range(10):
        publish(other, number, "q")
    publish(other, "ping", "control")
    work, control = Taker(connection, channel, "q"), Taker(connection, connection.channel(), "control")
    for _ in range(3):
        connection.drain_events(timeout=1)
    assert [m.decode() for m in control.messages] == ["ping"]
    assert len(work.messages) == 2


def test_an_acknowledged_message_is_gone_for_everybody(connection: Connection, channel: Any, other: Any) -> None:
    publish(other, 1, "q")
    taker = Taker(connection, channel, "q")
    taker.drain()
    assert ready(other, "q") == 0
    taker.messages[0].ack()
    connection.release()
    assert bodies(other, "q") == []


def test_an_acknowledgement_waits_only_milliseconds_for_company(
    connection: Connection, channel: Any, other: Any
) -> None:
    # Given a consumer that acknowledges and then does not drain any more
    publish(other, 1, "q")
    taker = Taker(connection, channel, "q")
    taker.drain()
    taker.messages[0].ack()
    # Then the keeper writes it
    eventually(lambda: rows(other) == 0, timeout=2)


def rows(channel: Any) -> int:
    """Messages in the file, held or not."""
    count = channel.open_session().query(
        lambda sql: sql.execute("SELECT count(*) FROM stem_broker_message").fetchone()[0]
    )
    return int(count)


def test_an_acknowledgement_from_another_thread_is_written_at_once_and_brings_the_next_message(
    connection: Connection, channel: Any, other: Any
) -> None:
    # Given a thread that drains with credit for one, and two messages
    publish(other, 1, "q")
    publish(other, 2, "q")
    taker = Taker(connection, channel, "q", prefetch=1)
    drainer = threading.Thread(target=lambda: [connection.drain_events(timeout=10) for _ in range(2)])
    drainer.start()
    eventually(lambda: len(taker.messages) == 1)
    # When this thread acknowledges the first
    taker.messages[0].ack()
    assert rows(other) == 1
    # Then the draining thread gets the second
    drainer.join(5)
    assert [m.decode() for m in taker.messages] == [1, 2]


def test_acknowledging_many_at_once(connection: Connection, channel: Any, other: Any) -> None:
    for number in range(4):
        publish(other, number, "q")
    taker = Taker(connection, channel, "q")
    taker.drain()
    taker.messages[2].ack(multiple=True)
    channel.close()
    assert bodies(other, "q") == [3]


def test_a_rejected_message_is_gone_and_a_requeued_one_comes_back_first_and_marked(
    connection: Connection, channel: Any, other: Any
) -> None:
    for number in range(3):
        publish(other, number, "q")
    taker = Taker(connection, channel, "q", prefetch=2)
    taker.drain()
    taker.messages[0].requeue()
    taker.messages[1].reject()
    assert taker.drain() == [0, 2]
    assert taker.messages[2].delivery_info["redelivered"] is True
    assert taker.messages[2].delivery_info["delivery_count"] == 1
    assert taker.messages[3].delivery_info["redelivered"] is False


def test_recover_brings_back_everything_outstanding(connection: Connection, channel: Any, other: Any) -> None:
    for number in range(3):
        publish(other, number, "q")
    taker = Taker(connection, channel, "q")
    taker.drain()
    taker.messages[0].ack()
    channel.basic_recover(requeue=True)
    assert taker.drain() == [1, 2]
    assert all(m.delivery_info["redelivered"] for m in taker.messages[3:])


def test_an_unknown_or_used_delivery_tag_is_an_error(connection: Connection, channel: Any, other: Any) -> None:
    publish(other, 1, "q")
    message = channel.basic_get("q")
    message.ack()
    for tag in (message.delivery_tag, "7.1", "nonsense"):
        with pytest.raises(PreconditionFailed, match="unknown delivery tag"):
            channel.basic_ack(tag)
    assert channel.extend("7.1", 10) is False


def test_a_no_ack_consumer_needs_no_acknowledgement_and_no_credit(
    connection: Connection, channel: Any, other: Any
) -> None:
    for number in range(3):
        publish(other, number, "q")
    taker = Taker(connection, channel, "q", prefetch=1, no_ack=True)
    assert taker.drain() == [0, 1, 2]
    taker.messages[0].ack()  # harmless, as for every transport of Kombu
    channel.close()
    assert bodies(other, "q") == []


def test_what_was_not_handed_out_goes_back_when_the_consumer_is_cancelled(
    connection: Connection, channel: Any, other: Any
) -> None:
    for number in range(3):
        publish(other, number, "q")
    taker = Taker(connection, channel, "q")
    connection.drain_events(timeout=1)
    taker.consumer.cancel()
    assert ready(other, "q") == 2
    # The delivered one is still ours
    taker.messages[0].ack()
    assert taker.drain() == []
    assert bodies(other, "q") == [1, 2]


@pytest.mark.parametrize("no_ack", [False, True])
def test_closing_gives_back_what_was_not_acknowledged(
    connection: Connection, channel: Any, other: Any, no_ack: bool
) -> None:
    for number in range(3):
        publish(other, number, "q")
    taker = Taker(connection, channel, "q", no_ack=no_ack)
    connection.drain_events(timeout=1)
    connection.release()
    assert bodies(other, "q") == ([1, 2] if no_ack else [0, 1, 2])
    if not no_ack:
        with pytest.raises(RecoverableConnectionError):
            taker.messages[0].ack()


def test_a_connection_that_is_dropped_without_a_word_gives_back_what_it_held(sqlite_url: str, other: Any) -> None:
    publish(other, 1, "q")

    def careless() -> None:
        channel = connect(sqlite_url).channel()
        assert channel.basic_get("q").decode() == 1

    import gc

    other.basic_consume("q", callback=lambda message: None, consumer_tag="keeps the keeper going")
    other.basic_cancel("keeps the keeper going")
    careless()
    gc.collect()
    assert eventually(lambda: bodies(other, "q"), timeout=5) == [1]


def test_get_from_an_unknown_queue_is_an_error_and_from_an_empty_one_nothing(channel: Any) -> None:
    assert channel.basic_get("q") is None
    with pytest.raises(NotFound):
        channel.basic_get("nowhere")
    with pytest.raises(NotFound):
        channel.basic_consume("nowhere", callback=print)


def test_a_consumer_whose_queue_is_deleted_is_told(connection: Connection, channel: Any, other: Any) -> None:
    taker = Taker(connection, channel, "q")
    taker.drain()
    other.queue_delete("q")
    with pytest.raises(ConsumerCancelled) as told:
        connection.drain_events(timeout=5)
    # As an error after which Kombu's users connect and consume again
    assert isinstance(told.value, connection.recoverable_connection_errors)


def test_a_queue_deleted_by_its_own_consumer_needs_no_telling(connection: Connection, channel: Any, other: Any) -> None:
    taker = Taker(connection, channel, "q")
    channel.queue_delete("q")
    assert taker.drain(timeout=0.05) == []


def test_a_handler_that_raises_keeps_its_message(connection: Connection, channel: Any, other: Any) -> None:
    publish(other, 1, "q")

    def fail(message: Any) -> None:
        raise RuntimeError("handler")

    channel.basic_consume("q", callback=fail, consumer_tag="c")
    with pytest.raises(RuntimeError, match="handler"):
        connection.drain_events(timeout=1)
    assert ready(other, "q") == 0
    channel.close()
    assert bodies(other, "q") == [1]


def test_a_row_that_somebody_scribbled_on_is_dropped_and_the_rest_delivered(
    connection: Connection, channel: Any, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        publish(other, number, "q")
    with other.open_session().write() as sql:
        sql.execute("UPDATE stem_broker_message SET envelope = '[1, 2' WHERE id = 1")
    taker = Taker(connection, channel, "q")
    with caplog.at_level(logging.ERROR):
        assert taker.drain() == [1]
    assert "message 1 can't be read" in caplog.text


# -- leases


def test_g19_extend_keeps_the_lease_when_renewals_stop(connection: Connection, channel: Any, other: Any) -> None:
    # Given two messages, one of them extended, whose owner stops to renew
    for number in range(2):
        publish(other, number, "q")
    extended, plain = channel.basic_get("q"), channel.basic_get("q")
    assert channel.extend(extended.delivery_tag, 3600) is True
    long_after = SYSTEM.now() + 600
    # When all leases of that age are taken back
    with other.open_session().write() as sql:
        assert messages.give_back_lapsed(sql, long_after) == 1
    # Then only the other one is ready
    assert [m.decode() for m in [other.basic_get("q")]] == [1]
    assert other.basic_get("q") is None
    # And its former owner knows
    assert channel.extend(plain.delivery_tag, 10) is False
    assert channel.extend(extended.delivery_tag, 10) is True


def test_a_late_acknowledgement_does_not_touch_the_next_owners_delivery(
    connection: Connection, channel: Any, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a message whose lease ran out and which went to another connection
    publish(other, 1, "q")
    stale = channel.basic_get("q")
    with other.open_session().write() as sql:
        messages.give_back_lapsed(sql, SYSTEM.now() + 600)
    fresh = other.basic_get("q")
    assert (stale.delivery_tag, fresh.delivery_tag) == ("1.1", "1.2")
    # When the first owner acknowledges after all
    with caplog.at_level(logging.WARNING):
        stale.ack()
    # Then it is refused, with a warning, and the message is still the other's
    assert "late acknowledgement of 1.1 refused" in caplog.text
    assert rows(other) == 1
    assert other.extend(fresh.delivery_tag, 10) is True
    fresh.ack()
    assert rows(other) == 0


def test_a_late_acknowledgement_counts_while_nobody_else_has_the_message(
    connection: Connection, channel: Any, other: Any
) -> None:
    publish(other, 1, "q")
    late = channel.basic_get("q")
    with other.open_session().write() as sql:
        messages.give_back_lapsed(sql, SYSTEM.now() + 600)
    late.ack()
    assert bodies(other, "q") == []


def test_ids_are_never_used_again(channel: Any, other: Any) -> None:
    # Else a late acknowledgement of an old message could hit a new one
    publish(other, 1, "q")
    first = channel.basic_get("q")
    first.ack()
    assert rows(other) == 0
    publish(other, 2, "q")
    assert channel.basic_get("q").delivery_tag != first.delivery_tag


# -- waking


def test_a_message_from_the_same_process_arrives_without_polling(sqlite_url: str) -> None:
    # Given a consumer that polls only every hour
    with connect(sqlite_url, polling_interval=3600) as lazy, connect(sqlite_url) as sender:
        lazy.default_channel.queue_declare("q")
        taker = Taker(lazy, lazy.channel(), "q")
        drainer = threading.Thread(target=lambda: lazy.drain_events(timeout=20))
        drainer.start()
        # When another connection of this process publishes
        publish(sender.default_channel, 1, "q")
        # Then it is there at once
        drainer.join(5)
        assert [m.decode() for m in taker.messages] == [1]


def test_wake_ends_a_drain_from_another_thread(sqlite_url: str) -> None:
    with connect(sqlite_url, polling_interval=3600) as connection:
        ended = threading.Event()

        def drain() -> None:
            connection.drain_events(timeout=3600)
            ended.set()

        drainer = threading.Thread(target=drain, daemon=True)
        drainer.start()
        connection.transport.wake()
        assert ended.wait(5)
        # A wake that nobody waits for ends the next drain
        connection.transport.wake()
        connection.drain_events(timeout=3600)


def test_a_closed_connection_is_not_drained(connection: Connection) -> None:
    transport = connection.transport
    connection.release()
    with pytest.raises(RecoverableConnectionError):
        transport.drain_events(None, timeout=1)


def test_a_drain_without_messages_times_out(connection: Connection) -> None:
    for timeout in (0, 0.05):
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=timeout)


def test_a_scheduled_message_wakes_its_consumer_when_it_is_due(sqlite_url: str) -> None:
    with connect(sqlite_url, polling_interval=3600) as connection:
        connection.default_channel.queue_declare("q")
        taker = Taker(connection, connection.channel(), "q")
        eta = SYSTEM.now() + 0.3
        publish(connection.default_channel, "later", "q", headers={"stem-eta": eta})
        connection.drain_events(timeout=10)
        assert [m.decode() for m in taker.messages] == ["later"]
        assert eta <= SYSTEM.now() < eta + 5


def test_many_threads_may_publish_and_acknowledge_on_one_connection(
    connection: Connection, channel: Any, other: Any
) -> None:
    def send(first: int) -> None:
        for number in range(first, first + 50):
            publish(channel, number, "q")

    taker = Taker(connection, channel, "q")
    senders = [threading.Thread(target=send, args=(first,)) for first in (0, 50, 100)]
    for sender in senders:
        sender.start()
    while len(taker.messages) < 150:
        connection.drain_events(timeout=10)
    for sender in senders:
        sender.join()
    thirds = [
        threading.Thread(target=lambda part=part: [m.ack() for m in taker.messages[part::3]]) for part in range(3)
    ]
    for third in thirds:
        third.start()
    for third in thirds:
        third.join()
    assert sorted(m.decode() for m in taker.messages) == list(range(150))
    assert rows(other) == 0


def test_a_due_message_that_nobody_may_have_yet_costs_no_busy_loop(
    connection: Connection, channel: Any, other: Any
) -> None:
    # Given a consumer without credit, and a scheduled message that comes due meanwhile
    publish(other, "first", "q")
    taker = Taker(connection, channel, "q", prefetch=1)
    assert taker.drain() == ["first"]
    publish(other, "second", "q", headers={"stem-eta": SYSTEM.now() + 0.1})
    looks = 0
    original = connection.transport._deliver_next

    def counted(session: Any) -> bool:
        nonlocal looks
        looks += 1
        return bool(original(session))

    connection.transport._deliver_next = counted
    # When it waits for half a second
    assert taker.drain(timeout=0.5) == []
    # Then it has looked as often as its polling interval says, and no more
    assert looks < 200
    # And the message comes with the credit
    taker.messages[0].ack()
    assert taker.drain(timeout=0.1) == ["second"]
