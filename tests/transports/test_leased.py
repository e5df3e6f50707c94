"""What a killed process held on SQLAlchemy and the filesystem comes again, once, and no outage makes a worker dead (G18, G19)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM, Clock, SystemClock
from stem_kombu.errors import ConfigurationError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.transports.base import TaskConsumer
from stem_kombu.transports.connections import connect, open_connection
from stem_kombu.transports.leased.steadiness import Steadiness
from stem_kombu.transports.names import task_queue
from tests.transports.leased_brokers import KINDS, LeasedBroker, leased_broker
from tests.transports.receiving import Inbox, child
from tests.waiting import eventually

#: As many kills as fit into the suite; fifty and more when asked for.
KILLS = int(os.environ.get("STEM_TEST_KILLS", "8"))
LEASE = 1.0


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> LeasedBroker:
    return leased_broker(request, request.param, tmp_path, LEASE)


@pytest.fixture
def consumer(broker: LeasedBroker, queue_name: str) -> Iterator[Callable[..., TaskConsumer]]:
    opened: list[TaskConsumer] = []

    def made(clock: Clock = SYSTEM) -> TaskConsumer:
        opened.append(broker.consumer(queue_name, clock=clock))
        return opened[-1]

    yield made
    for one in opened:
        one.close(keep=True)


def ids(messages: list[Any]) -> list[str]:
    return [decode_delivery(message).message.task_id for message in messages]


def swept(consumer: TaskConsumer, room: int = 100) -> list[Any]:
    """What comes with the next look, after a sweep."""
    consumer.sweep()
    return consumer.take(room)


CONSUMER = """
import json, os, sys
from stem_kombu.clock import SYSTEM
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.registry import open_transport
url, options, queue, path = sys.argv[1:]
source = open_transport(open_connection(url, options=json.loads(options))).consumer([queue], clock=SYSTEM)
wake, _ = os.pipe()
out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
print("ready", flush=True)
done = []
while True:
    messages = source.take(3, done)
    for message in messages:
        os.write(out, (message.headers["id"] + "\\n").encode())
    done = [message.delivery_tag for message in messages]
    if not messages:
        source.wait(wake, 1.0, more=True)
"""


@pytest.mark.timeout(60 + 15 * KILLS)
def test_g18_no_message_is_lost_when_its_consumers_are_killed_at_any_moment(
    broker: LeasedBroker, queue_name: str, consumer: Callable[..., TaskConsumer], tmp_path: Path
) -> None:
    """In the middle of the traffic: between the fetch and the note of it as well, between two folders, in a transaction."""
    seen = tmp_path / "seen"
    seen.touch()
    sent = [f"t{number}" for number in range(30 * KILLS)]
    for kill in range(KILLS):
        broker.send(queue_name, *sent[kill * 30 : kill * 30 + 30])
        before = seen.stat().st_size  # a busy machine may let the child take all of them before this process goes on
        with child(CONSUMER, broker.url, json.dumps(broker.all_options), queue_name, str(seen)):
            eventually(lambda before=before: seen.stat().st_size > before, 60)
    one = consumer()
    left: list[str] = []

    def all_came() -> bool:
        messages = swept(one)
        one.take(0, [message.delivery_tag for message in messages])
        left.extend(ids(messages))
        found = broker.transport().give_back_held()
        return (found.returned, found.leased) == (0, 0) and depths.of([queue_name]) == {queue_name: 0}

    depths = broker.transport().depths()
    eventually(all_came, 60)
    depths.close()
    assert set(seen.read_text().split()) | set(left) == set(sent)
    assert len(left) == len(set(left)), "each came once"


def test_g18_what_a_dead_consumer_held_goes_to_one_other_marked_as_delivered_before(
    broker: LeasedBroker, queue_name: str, consumer: Callable[..., TaskConsumer]
) -> None:
    broker.send(queue_name, "a", "b")
    dead, *others = consumer(), consumer(), consumer(), consumer()
    first = dead.take(5)
    assert sorted(ids(first)) == ["a", "b"] and not any(decode_delivery(each).redelivered for each in first)
    found: list[Any] = []

    def again() -> bool:
        for one in others:
            found.extend(swept(one))
        return len(found) >= 2

    eventually(again, 30)
    assert sorted(ids(found)) == ["a", "b"] and all(decode_delivery(each).redelivered for each in found)
    # What the first one does now touches none of them (G19).
    leases = broker.transport().leases()
    assert leases is not None
    assert leases.renew(first) == [False, False] and leases.renew(found) == [True, True]
    dead.take(0, [first[0].delivery_tag])
    dead.give_back(first[1].delivery_tag)
    assert leases.renew(found) == [True, True]
    leases.close()


def test_g19_what_is_renewed_stays_with_its_worker_and_a_longer_wish_is_kept(
    broker: LeasedBroker, queue_name: str, consumer: Callable[..., TaskConsumer]
) -> None:
    broker.send(queue_name, "a", "long")
    holder, other = consumer(), consumer()
    held = holder.take(5)
    wish = next(message for message in held if ids([message]) == ["long"])
    leases = broker.transport().leases()
    assert leases is not None and leases.lifetime == LEASE
    assert leases.renew([wish], 3600.0) == [True]
    came = eventually(lambda: swept(other), 30)
    assert ids(came) == ["a"]
    assert leases.renew(held) == [ids([message]) == ["long"] for message in held]
    leases.close()


class Stepped(SystemClock):
    """Its monotonic time is set by the test."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def monotonic(self) -> float:
        return self.elapsed


def test_g18_an_outage_declares_no_worker_dead_until_a_lease_after_the_broker_answers_again() -> None:
    clock = Stepped()
    steady = Steadiness(60.0, clock)

    def answers_for(seconds: float) -> bool:
        for _ in range(int(seconds / 5)):
            clock.elapsed += 5.0
            steady.answered()
        return steady.is_long()

    assert not answers_for(55.0)
    assert answers_for(5.0)
    clock.elapsed += 21.0
    assert not steady.is_long(), "nothing was answered for more than a third of a lease"
    assert not answers_for(60.0)
    assert answers_for(5.0)


def test_g18_leases_that_ended_in_an_outage_are_renewed_before_another_worker_takes_them(
    broker: LeasedBroker, queue_name: str, consumer: Callable[..., TaskConsumer]
) -> None:
    clock = Stepped()
    broker.send(queue_name, "a")
    holder, other = consumer(), consumer(clock)
    held = holder.take(1)
    leases = broker.transport().leases()
    assert leases is not None and leases.renew(held, 0.1) == [True]
    # given a lease that is over, while the other one has been answered for less than a lease
    started = SYSTEM.monotonic()
    eventually(lambda: SYSTEM.monotonic() - started > 1.5 * LEASE)
    assert swept(other) == []
    # then its holder renews it, and goes on
    assert leases.renew(held, 3600.0) == [True]
    for _ in range(20):
        clock.elapsed += LEASE / 5
        assert swept(other) == []
    leases.close()


def test_what_is_no_message_is_put_aside_and_hides_nothing(
    broker: LeasedBroker, queue_name: str, tmp_path: Path
) -> None:
    told: list[str] = []
    source = broker.transport().consumer([queue_name], clock=SYSTEM, unreadable=lambda error: told.append(str(error)))
    if broker.kind == "filesystem":
        for number, text in enumerate(("{", "[]", "7")):
            (tmp_path / "messages" / f"{number}_x.{queue_name}.msg").write_text(text)
    else:
        from sqlalchemy import text as statement

        connection = connect(broker.connection())
        session: Any = connection.default_channel.session  # type: ignore[attr-defined]
        for garbage in ("{", "[]", "7"):
            session.execute(
                statement(
                    "INSERT INTO kombu_message (visible, payload, version, queue_id) "
                    "SELECT true, :payload, 1, id FROM kombu_queue WHERE name = :queue"
                )
                if broker.kind == "sqla_sqlite"
                else statement(
                    "INSERT INTO kombu_message (id, visible, payload, version, queue_id) "
                    "SELECT nextval('message_id_sequence'), true, :payload, 1, id FROM kombu_queue WHERE name = :queue"
                ),
                {"payload": garbage, "queue": queue_name},
            )
        session.commit()
        connection.release()
    broker.send(queue_name, "t1")
    found: list[Any] = []
    eventually(lambda: (found.extend(source.take(10)), len(told) == 3 and found)[1])
    assert ids(found) == ["t1"]
    aside = f"stem-unreadable-{queue_name}"
    assert all(f"go to queue {aside}" in each for each in told)
    assert broker.transport().depths().of([aside]) == {aside: 3}
    source.close(keep=False)


def test_kombus_own_consumers_take_no_message_that_is_leased_and_get_the_others(
    broker: LeasedBroker, queue_name: str, consumer: Callable[..., TaskConsumer]
) -> None:
    broker.send(queue_name, "held", "other")
    holder = consumer()
    (held,) = holder.take(1)
    (left,) = {"held", "other"} - set(ids([held]))
    connection = connect(broker.connection())
    messages = Inbox(connection, task_queue(queue_name)).until(1)
    assert ids(messages) == [left]
    holder.give_back(held.delivery_tag)
    again = Inbox(connection, task_queue(queue_name)).until(1)
    assert ids(again) == ids([held])
    connection.release()


def test_an_acknowledged_message_leaves_nothing_behind(
    broker: LeasedBroker, queue_name: str, consumer: Callable[..., TaskConsumer], tmp_path: Path
) -> None:
    broker.send(queue_name, *(f"t{number}" for number in range(20)))
    one = consumer()
    found = one.take(100)
    one.take(0, [message.delivery_tag for message in found])
    one.close(keep=False)
    if broker.kind == "filesystem":
        assert list((tmp_path / "messages").iterdir()) == []
        return
    from sqlalchemy import text

    connection = connect(broker.connection())
    session: Any = connection.default_channel.session  # type: ignore[attr-defined]
    assert session.execute(text("SELECT count(*) FROM kombu_message")).scalar_one() == 0
    session.close()
    connection.release()


def test_a_file_that_its_sender_has_not_written_yet_is_left_until_it_is(tmp_path: Path, queue_name: str) -> None:
    import fcntl

    (tmp_path / "messages").mkdir()
    (tmp_path / "control").mkdir()
    folder = str(tmp_path / "messages")
    options = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": str(tmp_path / "control")}
    broker = LeasedBroker("filesystem", "filesystem://", LEASE, options)
    broker.send(queue_name, "a")
    (path,) = (tmp_path / "messages").iterdir()
    text = path.read_bytes()
    with path.open("wb", buffering=0) as sender:
        one = broker.consumer(queue_name)
        assert one.take(5) == [], "empty: made, and not locked yet"
        fcntl.flock(sender, fcntl.LOCK_EX)
        sender.write(text[:10])
        assert one.take(5) == [], "half written"
        sender.write(text[10:])
    assert ids(eventually(lambda: one.take(5))) == ["a"]
    one.close(keep=True)


@pytest.mark.parametrize("value", [0, -1, "soon", True])
def test_a_lease_that_is_no_span_is_refused(value: object) -> None:
    pytest.importorskip("sqlalchemy")
    with pytest.raises(ConfigurationError, match="visibility_timeout"):
        open_connection("sqla+sqlite:////nowhere.db", options={"visibility_timeout": value})
