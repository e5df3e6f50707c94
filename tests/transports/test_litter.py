"""What is left at the broker after a kill, and who removes it (G15)."""

from __future__ import annotations

import pytest
import redis
from kombu import Producer

from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.settings import Settings
from stem_kombu.transports import names
from stem_kombu.transports.connections import open_connection, pump
from stem_kombu.transports.control_link import Addresses
from stem_kombu.transports.redis.by_kombu import ByKombuLink
from stem_kombu.transports.redis.control import RedisControlLink
from stem_kombu.transports.redis.janitor import Janitor, sweep
from stem_kombu.worker.worker import Worker
from tests.transports.receiving import Inbox, child, connected
from tests.waiting import eventually

#: A worker's control thread in small: consumes its broadcast queue, its inbox and a reply inbox until it is killed.
LISTENER = """
import sys
from kombu import Consumer
from stem_kombu.transports import names
from stem_kombu.transports.connections import connect, open_connection, pump
url, namespace, worker = sys.argv[1:4]
connection = connect(open_connection(url))
queues = [
    names.broadcast_queue(namespace, worker, expires=1.0),
    names.inbox_queue(namespace, worker, expires=1.0),
    names.reply_queue(namespace, worker, expires=1.0),
    names.heartbeat_queue(namespace, worker, expires=1.0),
]
with Consumer(connection.default_channel, queues, on_message=lambda message: message.ack(), accept=["json"]):
    pump(connection, 0.2)
    print("ready", flush=True)
    while True:
        pump(connection, 1.0)
"""

#: Declares the same queues and never consumes them: what a client killed at its birth leaves.
DECLARER = (
    LISTENER.replace(
        'with Consumer(connection.default_channel, queues, on_message=lambda message: message.ack(), accept=["json"]):',
        "for queue in queues: queue(connection.default_channel).declare()\nif True:",
    )
    .replace("    pump(connection, 0.2)\n", "")
    .replace("pump(connection, 1.0)", "__import__('time').sleep(1)")
)


def queues_of(namespace: str, worker: str) -> list[str]:
    return [
        str(queue.name)
        for queue in (
            names.broadcast_queue(namespace, worker),
            names.inbox_queue(namespace, worker),
            names.reply_queue(namespace, worker),
            names.heartbeat_queue(namespace, worker),
        )
    ]


def exists(url: str, queue: str) -> bool:
    connection = connected(url)
    try:
        connection.default_channel.queue_declare(queue, passive=True)
    except connection.channel_errors:
        return False
    finally:
        connection.release()
    return True


@pytest.mark.parametrize("script", [LISTENER, DECLARER], ids=["consuming", "declared only"])
@pytest.mark.parametrize("transport", ["amqp", "sqlite"])
def test_g15_the_queues_of_a_killed_process_vanish_by_themselves(
    transport: str, script: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{transport}_url")
    with child(script, url, "stem", "w1"):
        assert all(exists(url, queue) for queue in queues_of("stem", "w1"))
    # Looked for more rarely than they expire: to RabbitMQ, asking for a queue is using it.
    eventually(lambda: not any(exists(url, queue) for queue in queues_of("stem", "w1")), 20.0, interval=1.6)


@pytest.mark.parametrize("link", [RedisControlLink, ByKombuLink])
def test_g15_commands_and_replies_to_the_dead_vanish_from_redis(link: type[ByKombuLink], redis_url: str) -> None:
    database = redis.Redis.from_url(redis_url)
    with child(LISTENER, redis_url, "stem", "w1"):
        pass
    # when somebody who does not know yet writes to its inboxes, as the roster still names it
    sending = link(open_connection(redis_url), clock=SYSTEM).open(Addresses("stem"), timeout=5.0, limit=5.0)
    inboxes = [names.inbox_name("stem", "w1"), names.reply_name("stem", "w1")]
    for inbox in inboxes:
        sending.send(inbox, b"{}", expires=60.0)
        assert 0 < database.pttl(inbox) <= 60_000, "it is gone by itself"
        database.delete(inbox)
    sending.close()
    # then nothing of it is left but Kombu's notes of what was bound, and those the janitor removes
    eventually(lambda: not any(key for key in database.scan_iter() if b"binding" not in key), 10.0, interval=0.1)
    assert database.smembers("_kombu.binding.stem-stem-ctl")
    assert database.smembers("_kombu.binding.stem-stem-beat")
    assert sweep(open_connection(redis_url), "stem", set()) == 2
    assert not [key for key in database.scan_iter() if key.startswith(b"_kombu.binding.")]
    database.close()


def test_g15_the_janitor_keeps_the_living_and_other_namespaces(redis_url: str) -> None:
    database = redis.Redis.from_url(redis_url)
    for namespace, worker in (("stem", "dead"), ("other", "dead")):
        with child(LISTENER, redis_url, namespace, worker):
            pass
    with child(LISTENER, redis_url, "stem", "alive"):
        assert sweep(open_connection(redis_url), "stem", {"alive"}) >= 1
        assert sweep(open_connection(redis_url), "stem", {"alive"}) == 0
        (kept,) = database.smembers("_kombu.binding.stem-stem-ctl")
        assert kept.endswith(names.broadcast_queue("stem", "alive").name.encode())
        assert database.smembers("_kombu.binding.stem-other-ctl")
    database.close()


def test_g12_a_worker_that_the_janitor_did_not_know_still_hears_broadcasts(redis_url: str) -> None:
    listening = connected(redis_url)
    inbox = Inbox(listening, names.broadcast_queue("stem", "unknown"))
    pump(listening, 0.2)
    assert sweep(open_connection(redis_url), "stem", set()) == 1
    speaking = connected(redis_url)
    Producer(speaking.default_channel, names.broadcast_exchange("stem")).publish({"hello": 1})
    assert inbox.until(1)[0].payload == {"hello": 1}
    inbox.messages[0].ack()
    listening.release()
    speaking.release()


def test_a_connection_that_is_closed_properly_leaves_nothing_at_all(redis_url: str) -> None:
    database = redis.Redis.from_url(redis_url)
    connection = connected(redis_url)
    queues = [
        Inbox(connection, queue) for queue in (names.broadcast_queue("stem", "w1"), names.inbox_queue("stem", "w1"))
    ]
    pump(connection, 0.2)
    assert queues
    connection.release()
    assert [key for key in database.scan_iter() if key != b"_kombu.binding_deadlines"] == []
    database.close()


def test_the_janitor_has_nothing_to_do_elsewhere(sqlite_url: str) -> None:
    assert sweep(open_connection("amqp://127.0.0.1:1//"), "stem", set()) == 0
    assert sweep(open_connection(sqlite_url), "stem", set()) == 0


def test_probing_leaves_nothing_behind(redis_url: str) -> None:
    from stem_kombu.transports.reach import probe

    probe(open_connection(redis_url))
    database = redis.Redis.from_url(redis_url)
    assert [key for key in database.scan_iter() if key != b"_kombu.binding_deadlines"] == []
    database.close()


SEPARATOR = "\x06\x16"


def bound(node: str) -> str:
    """As Kombu notes a worker's queue of Celery's remote control."""
    return SEPARATOR.join(["", "", f"{node}.celery.pidbox"])


def test_g15_what_killed_workers_of_0_1_0_have_bound_to_celerys_control_goes_and_celerys_own_stays(
    redis_url: str,
) -> None:
    database = redis.Redis.from_url(redis_url)
    kept = {
        bound("celery@web-1"),
        bound("worker-a@web-1"),
        bound("stem@web-1"),
        bound("other@web-1-12-0123abcd"),
        bound("stem@web-1-7-89abcdef"),
        bound("alive@web-1"),
    }
    gone = {bound("stem@web-1-12-0123abcd"), bound("stem@web-2-99-deadbeef"), bound("named@web-1"), bound("me@web-1")}
    tables = ["_kombu.binding.celery.pidbox", "_kombu.binding_permanent.celery.pidbox"]
    for table in tables:
        database.sadd(table, *kept, *gone)
    janitor = Janitor(open_connection(redis_url), "stem", "me")
    living = {"me", "stem@web-1-7-89abcdef", "alive"}
    janitor.sweep({*living, "named"})
    assert database.sismember(tables[1], bound("named@web-1"))
    janitor.sweep(living)
    assert {member.decode() for member in database.smembers(tables[0])} == {*kept, bound("me@web-1")}
    assert {member.decode() for member in database.smembers(tables[1])} == kept
    database.close()


def test_g15_a_worker_of_today_binds_nothing_for_ever(redis_url: str) -> None:
    app = Stem("bound")
    app.configure(Settings.from_env({}, broker=redis_url))
    app.task("t")(lambda ctx: None)
    database = redis.Redis.from_url(redis_url)
    with Worker(app, name="w", inline_slots=1):
        # It has begun, so that a revoke by Celery's own command reaches it from now on.
        assert len(database.smembers("_kombu.binding.celery.pidbox")) == 1
        assert database.pubsub_numpat() == 1
        assert database.smembers("_kombu.binding_permanent.celery.pidbox") == set()
    app.close()
    database.close()
