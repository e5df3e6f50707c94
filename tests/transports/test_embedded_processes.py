"""The embedded broker between processes: broadcasts, leases, and what happens when somebody is killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import NotFound
from kombu import Connection, Consumer, Producer, Queue

from stem_kombu.clock import SYSTEM
from stem_kombu.transports.publisher import CHUNK
from tests.suspension import suspend
from tests.transports.embedded_actors import Actor, acting, connect
from tests.transports.test_embedded_queues import bodies, publish, ready
from tests.waiting import eventually


@pytest.fixture
def connection(sqlite_url: str) -> Iterator[Connection]:
    with connect(sqlite_url) as opened:
        opened.default_channel.queue_declare("q", durable=True)
        yield opened


@pytest.fixture
def channel(connection: Connection) -> Any:
    return connection.channel()


def test_g12_a_broadcast_reaches_every_process(sqlite_url: str, channel: Any) -> None:
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(acting("listen", url=sqlite_url, exchange="b", name=f"l{n}")) for n in range(3)
        ]
        for listener in listeners:
            listener.expect("ready")
        for number in range(5):
            publish(channel, {"n": number}, "", exchange="b")
        for listener in listeners:
            assert [listener.expect("heard") for _ in range(5)] == [f'{{"n": {number}}}' for number in range(5)]


def test_a_ping_is_answered_by_every_worker_through_the_reply_queue(sqlite_url: str, connection: Connection) -> None:
    # Given two workers
    with (
        acting("answer", url=sqlite_url, name="w1", exchange="c") as one,
        acting("answer", url=sqlite_url, name="w2", exchange="c") as two,
    ):
        one.expect("ready")
        two.expect("ready")
        # When a client asks, with a private queue addressed by name
        channel = connection.channel()
        replies: list[Any] = []
        inbox = Queue("reply-1", auto_delete=True, durable=True, expires=60)
        with Consumer(channel, [inbox], callbacks=[lambda body, m: (m.ack(), replies.append(body))], accept=["json"]):
            for ticket in range(3):
                Producer(channel).publish(
                    {"ticket": ticket, "reply_to": "reply-1"}, exchange="c", routing_key="", expiration=5
                )
                while len(replies) < 2 * (ticket + 1):
                    connection.drain_events(timeout=10)
        # Then both answer each time
        assert sorted((r["ticket"], r["worker"]) for r in replies) == list(itertools.product(range(3), ("w1", "w2")))
    # And the reply queue went with its consumer
    with pytest.raises(NotFound):
        ready(channel, "reply-1")


# -- the owner of a lease dies, sleeps, computes


def test_g18_what_a_killed_consumer_held_comes_back_long_before_its_lease_ends(
    sqlite_url: str, connection: Connection, channel: Any
) -> None:
    # Given a consumer with a lease of minutes that holds three messages
    for number in range(3):
        publish(channel, {"n": number}, "q")
    with acting("hold", url=sqlite_url, queue="q", messages=3, visibility_timeout=300) as holder:
        holder.expect("holds")
        got: list[Any] = []
        with Consumer(channel, [Queue("q", durable=True)], on_message=got.append, accept=["json"]):
            # When it is killed
            holder.kill()
            # Then another consumer has them, in order and marked
            while len(got) < 3:
                connection.drain_events(timeout=10)
            assert [m.decode()["n"] for m in got] == [0, 1, 2]
            assert all(m.delivery_info["redelivered"] for m in got)


def test_g19_a_live_consumer_that_never_drains_keeps_its_message(
    sqlite_url: str, connection: Connection, channel: Any
) -> None:
    # Given a lease of half a second and a handler that computes for two without ever draining
    publish(channel, {"n": 1}, "q")
    with acting("busy_loop", url=sqlite_url, queue="q", seconds=2, visibility_timeout=0.5) as busy:
        busy.expect("holds")
        channel.basic_consume("q", callback=lambda message: pytest.fail("delivered twice"), consumer_tag="c")
        settled = False
        while not settled:
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.1)
            settled = "settled" in busy.lines
    assert ready(channel, "q") == 0


def test_a_stopped_consumer_loses_its_lease_when_it_ends_and_cannot_settle_any_more(
    sqlite_url: str, connection: Connection, channel: Any
) -> None:
    # Given a consumer that is stopped while it holds a message
    publish(channel, {"n": 1}, "q")
    with acting("hold", url=sqlite_url, queue="q", visibility_timeout=0.5) as sleeper:
        sleeper.expect("holds")
        suspend(sleeper.process.pid)
        # When its lease has ended, another consumer gets the message
        got: list[Any] = []
        channel.basic_consume("q", callback=got.append, consumer_tag="c")
        connection.drain_events(timeout=10)
        assert got[0].delivery_tag == "1.2"
        # And when it wakes up and acknowledges, that is refused
        sleeper.signal(signal.SIGCONT)
        sleeper.tell()
        assert sleeper.expect("extended") == "False"
        sleeper.expect("settled")
        assert channel.extend("1.2", 10) is True
    got[0].ack()
    assert bodies(channel, "q") == []


def test_g19_a_machine_that_was_suspended_does_not_take_leases_from_those_who_wake_up_late(
    sqlite_url: str, tmp_path: Path, connection: Connection, channel: Any
) -> None:
    # Given two processes, one of which holds a message, that are both asleep for longer than the lease
    publish(channel, {"n": 1}, "q")
    connection.release()  # this process must not sweep meanwhile
    with acting("hold", url=sqlite_url, queue="q", visibility_timeout=0.5) as holder:
        holder.expect("holds")
        with acting("work", url=sqlite_url, queue="q", visibility_timeout=0.5) as worker:
            worker.expect("ready")
            for actor in (holder, worker):
                suspend(actor.process.pid)
            asleep_since = SYSTEM.now()
            eventually(lambda: SYSTEM.now() > asleep_since + 2.5)
            # When the one that holds nothing wakes up first, and looks around
            worker.signal(signal.SIGCONT)
            eventually(lambda: latest_lease(tmp_path / "broker.db") > asleep_since + 2.5)
            holder.signal(signal.SIGCONT)
            # Then the other still has its message
            holder.tell()
            assert holder.expect("extended") == "True"
            holder.expect("settled")
            assert not any(line.startswith("did") for line in worker.lines)


def latest_lease(path: Path) -> float:
    reader = sqlite3.connect(path)
    try:
        return float(reader.execute("SELECT max(lease_until) FROM stem_broker_owner").fetchone()[0])
    finally:
        reader.close()


def test_an_auto_delete_queue_of_a_killed_consumer_goes_but_not_one_that_another_consumes(
    sqlite_url: str, channel: Any
) -> None:
    with (
        acting("hold", url=sqlite_url, queue="a", auto_delete=True) as alone,
        acting("hold", url=sqlite_url, queue="both", auto_delete=True) as one,
        acting("hold", url=sqlite_url, queue="both", auto_delete=True) as two,
    ):
        for actor in (alone, one, two):
            actor.expect("ready")
        alone.kill()
        two.kill()

        def alone_is_gone() -> bool:
            with contextlib.suppress(NotFound):
                ready(channel, "a")
                return False
            return True

        eventually(alone_is_gone)
        eventually(lambda: channel.queue_declare("both", passive=True).consumer_count == 1)


def test_g15_queues_of_killed_processes_expire_with_nobody_else_around(
    sqlite_url: str, connection: Connection, channel: Any
) -> None:
    # Given a consumer of an expiring queue, killed while no other process runs
    with acting("hold", url=sqlite_url, queue="inbox", expires=0.5) as holder:
        holder.expect("ready")
        publish(channel, {"n": 1}, "inbox")
        holder.expect("holds")
        holder.kill()
    connection.release()

    # When anybody comes by later
    def litter() -> int:
        with connect(sqlite_url) as visitor, contextlib.suppress(NotFound):
            ready(visitor.default_channel, "inbox")
            return 1
        return 0

    # Then nothing of it is left
    eventually(lambda: litter() == 0)
    with connect(sqlite_url) as visitor:
        for table in ("message", "consumer", "owner", "binding"):
            rows = visitor.default_channel.open_session().query(
                lambda sql, table=table: sql.execute(f"SELECT count(*) FROM stem_broker_{table}").fetchone()  # type: ignore[misc]
            )
            assert rows == (0,), table


def test_g18_an_acknowledgement_counts_though_the_program_ends_at_once(sqlite_url: str, channel: Any) -> None:
    for number in range(2):
        publish(channel, {"n": number}, "q")
    with acting("careless", url=sqlite_url, queue="q") as actor:
        actor.finish()
    channel.basic_consume("q", callback=lambda message: None, consumer_tag="keeps the keeper going")
    channel.basic_cancel("keeps the keeper going")
    # The second one was leased together with the first, and comes back
    assert eventually(lambda: bodies(channel, "q")) == [{"n": 1}]
    assert channel.open_session().query(count_messages) == 0


def count_messages(sql: sqlite3.Connection) -> int:
    return int(sql.execute("SELECT count(*) FROM stem_broker_message").fetchone()[0])


# -- fork


def test_a_forked_child_publishes_on_and_leaves_the_parents_deliveries_alone(
    sqlite_url: str, connection: Connection, channel: Any
) -> None:
    channel.queue_declare("from-child")
    with acting("fork", url=sqlite_url, queue="q") as parent:
        # The child published, and was refused the acknowledgement of what its parent holds
        assert parent.expect("child") == "0"
        assert parent.expect("still held") == "True"
        parent.expect("done")
        parent.finish()
    assert bodies(channel, "from-child") == [{"n": 1}]
    assert bodies(channel, "q") == []
    assert integrity(connection) == "ok"


def test_g18_what_a_forked_child_publishes_survives_its_parents_leaving(sqlite_url: str) -> None:
    # Given a child with a connection of its own, forked while its parent was connected
    with acting("heir", url=sqlite_url, queue="q") as parent:
        parent.expect("published")
        # When the parent, which is the last to have the file open as far as SQLite knows in it, closes it
        parent.tell()
        assert parent.expect("left") == "0"
        parent.finish()
    # Then what the child published before and after that is there
    with connect(sqlite_url) as visitor:
        assert bodies(visitor.default_channel, "q") == [{"n": 1}, {"n": 2}]


_on_fork: list[threading.Event] = []
os.register_at_fork(before=lambda: [event.set() for event in _on_fork])


def test_a_fork_waits_until_no_thread_is_inside_sqlite(sqlite_url: str, connection: Connection, channel: Any) -> None:
    # Given a thread in a call that is not over when the fork begins: a child would inherit SQLite's mutexes as they are
    inside, forking, asking = threading.Event(), threading.Event(), True

    def ask(sql: sqlite3.Connection) -> None:
        nonlocal asking
        inside.set()
        forking.wait(10)
        for _ in range(200):
            sql.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) SELECT sum(i) FROM n"
            )
        asking = False

    database = channel.open_session()
    asker = threading.Thread(target=lambda: database.query(ask))
    asker.start()
    assert inside.wait(10)
    # When another thread forks
    _on_fork.append(forking)
    try:
        child = os.fork()
        if child == 0:
            os._exit(int(asking))
    finally:
        _on_fork.clear()
        forking.set()
    # Then that happens after the call
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    asker.join(10)
    assert not asking
    # And the parent goes on with its connection
    publish(channel, {"n": 1}, "q")
    assert bodies(channel, "q") == [{"n": 1}]


def test_a_forked_child_does_not_keep_its_dead_parents_leases_alive(
    sqlite_url: str, connection: Connection, channel: Any
) -> None:
    # Given a consumer that has forked a child which lives on
    publish(channel, {"n": 1}, "q")
    with acting("orphan", url=sqlite_url, queue="q") as parent:
        child = int(parent.expect("holds"))
        try:
            parent.process.kill()
            # Then its message comes back all the same
            channel.basic_consume("q", callback=lambda message: None, consumer_tag="c")
            connection.drain_events(timeout=10)
        finally:
            os.kill(child, signal.SIGKILL)


def integrity(connection: Connection) -> str:
    return str(
        connection.default_channel.open_session().query(lambda sql: sql.execute("PRAGMA integrity_check").fetchone()[0])
    )


# -- storms


def numbers(actors: list[Actor], word: str) -> list[int]:
    return [int(line.split()[1]) for actor in actors for line in list(actor.lines) if re.match(rf"{word} \d+", line)]


def test_g18_nothing_is_lost_or_run_twice_while_nobody_dies(sqlite_url: str, connection: Connection) -> None:
    # Given two producers and two consumers
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(acting("work", url=sqlite_url, queue="q")) for _ in range(2)]
        for worker in workers:
            worker.expect("ready")
        producers = [
            stack.enter_context(acting("produce", url=sqlite_url, queue="q", first=n * 1000, count=1000))
            for n in (0, 1)
        ]
        for producer in producers:
            producer.finish()
        # Then each message is done once
        eventually(lambda: len(numbers(workers, "did")) >= 2000, timeout=30)
    assert sorted(numbers(workers, "did")) == list(range(2000))
    assert bodies(connection.default_channel, "q") == []


def test_g18_nothing_is_lost_when_consumers_are_killed_at_random(sqlite_url: str, connection: Connection) -> None:
    # Given two producers and two consumers, one of which is killed and replaced every now and then
    total, chance = 3000, random.Random(4)
    with contextlib.ExitStack() as stack:
        all_workers: list[Actor] = []

        def hire() -> Actor:
            worker = stack.enter_context(acting("work", url=sqlite_url, queue="q", prefetch=8))
            all_workers.append(worker)
            return worker

        workers = [hire(), hire()]
        for worker in workers:
            worker.expect("ready")
        producers = [
            stack.enter_context(acting("produce", url=sqlite_url, queue="q", first=n, count=total // 2))
            for n in (0, total // 2)
        ]
        kills, done_at_kill = 0, 0
        while any(p.process.poll() is None for p in producers) or kills < 6:
            # When a consumer has done some work it dies
            victim = chance.randrange(2)
            target = done_at_kill + chance.randrange(20, 120)
            with contextlib.suppress(AssertionError):
                eventually(lambda target=target: len(numbers(all_workers, "did")) >= target, timeout=2)
            workers[victim].kill()
            kills += 1
            workers[victim] = hire()
            done_at_kill = len(numbers(all_workers, "did"))
            if kills >= 12:
                break
        for producer in producers:
            producer.finish()
        # Then every message is done all the same
        eventually(lambda: len(set(numbers(all_workers, "did"))) >= total, timeout=30)
        eventually(lambda: ready(connection.default_channel, "q") == 0)
        for worker in workers:
            worker.kill()
    times = Counter(numbers(all_workers, "did"))
    assert set(times) == set(range(total))
    # And what was done twice is no more than the dead had in hand: marked, and at most their prefetch
    again = [line for actor in all_workers for line in actor.lines if re.fullmatch(r"did \d+ 1", line)]
    assert sum(times.values()) - total <= len(again) <= kills * 8
    assert integrity(connection) == "ok"


def test_g18_what_a_killed_producer_said_was_sent_is_there(sqlite_url: str, connection: Connection) -> None:
    # Given producers that are killed in the middle of their work
    sent: list[int] = []
    for first in (0, 100_000, 200_000):
        with acting("produce", url=sqlite_url, queue="q", first=first, count=100_000) as producer:
            eventually(lambda producer=producer: len(producer.lines) > 100, timeout=20)
            producer.kill()
            sent += numbers([producer], "sent")
    # Then all that was committed is there once and in order, and at most one more of each
    got = [body["n"] for body in bodies(connection.default_channel, "q")]
    assert len(got) == len(set(got))
    assert set(sent) <= set(got)
    assert len(got) <= len(sent) + 3
    assert got == sorted(got)
    assert integrity(connection) == "ok"


def test_g18_of_the_call_in_whose_middle_a_sender_is_killed_whole_transactions_are_there(
    sqlite_url: str, connection: Connection
) -> None:
    # Given senders of many that are killed whenever they have sent some, each in another moment of a call
    count, chance = 2 * CHUNK + 200, random.Random(5)
    for turn in range(6):
        queue = f"many-{turn}"
        with acting("send_many", url=sqlite_url, queue=queue, count=count) as sender:
            sender.expect("sent")
            enough = chance.randrange(count, 3 * count)
            eventually(lambda queue=queue, enough=enough: ready(connection.default_channel, queue) >= enough)
            sender.kill()
            sent = max(numbers([sender], "sent"))
        # Then what was confirmed is there once and in order, and of the last call as many transactions as were committed
        got = [args[0] for args, *_ in bodies(connection.default_channel, queue)]
        assert got[:sent] == list(range(sent))
        assert got == list(range(len(got)))
        if hasattr(Producer, "batch"):  # Kombu before 5.7 sends each by itself
            assert len(got) - sent in (0, CHUNK, 2 * CHUNK, count)
    assert integrity(connection) == "ok"


def test_many_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/broker.db"
    with contextlib.ExitStack() as stack:
        actors = [stack.enter_context(acting("hold", url=url, queue=f"q{n}")) for n in range(6)]
        for actor in actors:
            actor.expect("ready")
        with connect(url) as connection:
            for n, actor in enumerate(actors):
                publish(connection.default_channel, {"n": n}, f"q{n}")
                assert actor.expect("holds") == "1"


def test_the_file_can_be_read_while_it_works(sqlite_url: str, tmp_path: Path, channel: Any) -> None:
    # A backup or a curious operator must not stop the broker
    reader = sqlite3.connect(tmp_path / "broker.db", isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM stem_broker_message").fetchone()
        began = SYSTEM.monotonic()
        for number in range(20):
            publish(channel, {"n": number}, "q")
        assert len(bodies(channel, "q")) == 20
        assert SYSTEM.monotonic() - began < 5
    finally:
        reader.close()
