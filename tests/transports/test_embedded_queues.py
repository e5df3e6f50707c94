"""Exchanges, queues and what is in them: the embedded broker says what RabbitMQ would say."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import ChannelError, NotFound, PreconditionFailed, ResourceLocked
from kombu import Connection, Exchange, Producer, Queue

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import ConfigurationError
from stem_kombu.transports.sqlite.location import filesystem_of, path_of
from stem_kombu.transports.sqlite.registration import register
from stem_kombu.transports.topics import topic_matches
from tests.transports.embedded_actors import connect
from tests.waiting import eventually

BATCHES = pytest.mark.skipif(not hasattr(Producer, "batch"), reason="Kombu sends batches from 5.7 on")


@pytest.fixture
def connection(sqlite_url: str) -> Iterator[Connection]:
    with connect(sqlite_url) as opened:
        yield opened


@pytest.fixture
def channel(connection: Connection) -> Any:
    return connection.channel()


@pytest.fixture
def other(sqlite_url: str) -> Iterator[Any]:
    """A channel of another connection."""
    with connect(sqlite_url) as opened:
        yield opened.channel()


def publish(channel: Any, body: object, queue: str, **options: Any) -> None:
    Producer(channel).publish(body, routing_key=queue, exchange=options.pop("exchange", ""), **options)


def bodies(channel: Any, queue: str) -> list[Any]:
    """All that is ready, taken out in order."""
    taken = []
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        taken.append(message.decode())
    return taken


def ready(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)


# -- where it lives


@pytest.mark.parametrize("url", ["sqlite:////srv/stem/broker.db", "sqlite:///srv/stem/broker.db"])
def test_three_and_four_slashes_name_the_same_absolute_path(url: str) -> None:
    assert path_of(url) == Path("/srv/stem/broker.db")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://host/path.db", "sqlite:////a.db?mode=ro"])
def test_a_url_that_names_no_file_or_asks_for_the_unknown_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        path_of(url)


def test_the_scheme_works_once_registered(tmp_path: Path) -> None:
    register()
    with Connection(f"sqlite:///{tmp_path}/b.db") as connection:
        connection.connect()
        assert connection.connected
        assert connection.transport.driver_type == "sqlite"
        assert connection.as_uri() == f"sqlite:///{tmp_path}/b.db"
        with connection.clone() as clone:
            assert clone.connect().path == connection.transport.path


def test_a_failover_url_leads_to_its_own_file(tmp_path: Path) -> None:
    register()
    with Connection(f"sqlite:///{tmp_path}/a.db") as connection:
        connection.switch(f"sqlite:///{tmp_path}/b.db")
        assert connection.connect().path == tmp_path / "b.db"


def test_a_missing_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    # When the file's directory does not exist
    path = tmp_path / "state" / "stem" / "broker.db"
    with connect(f"sqlite:///{path}"):
        # Then both are made, and nobody else may look
        assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_the_file_system_of_a_directory_is_read_from_the_mounts(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /srv/with\\040space rw - nfs4 server:/export rw\n"
        "31 22 0:41 / /srv/plain rw shared:1 - xfs /dev/sdb1 rw\n"
    )
    assert filesystem_of(Path("/srv/with space/deep"), str(mounts)) == "nfs4"
    assert filesystem_of(Path("/srv/plain"), str(mounts)) == "xfs"
    assert filesystem_of(Path("/home"), str(mounts)) == "ext4"
    assert filesystem_of(Path("/home"), str(tmp_path / "absent")) is None


# -- queues


def test_a_passive_declare_finds_a_queue_or_raises_not_found(channel: Any, other: Any) -> None:
    with pytest.raises(ChannelError) as missing:
        channel.queue_declare("q", passive=True)
    assert isinstance(missing.value, NotFound)
    assert missing.value.reply_code == 404
    channel.queue_declare("q", durable=True)
    publish(channel, 1, "q")
    assert tuple(other.queue_declare("q", passive=True)) == ("q", 1, 0)


def test_a_queue_without_a_name_gets_one(channel: Any) -> None:
    name = channel.queue_declare().queue
    assert name.startswith("amq.gen-")
    assert ready(channel, name) == 0


def test_an_unequal_declare_is_refused_and_an_equal_one_welcome(channel: Any, other: Any) -> None:
    Queue("q", expires=60, auto_delete=True)(channel).declare()
    Queue("q", expires=60, auto_delete=True)(other).declare()
    for different in (Queue("q"), Queue("q", expires=30, auto_delete=True), Queue("q", expires=60)):
        with pytest.raises(PreconditionFailed):
            different(other).declare()


def test_what_changes_nothing_here_may_differ_between_declarations(channel: Any, other: Any) -> None:
    Queue("q", durable=True, max_priority=10)(channel).declare()
    Queue("q", durable=False)(other).declare()


def test_a_queue_argument_that_is_not_acted_on_is_named_in_a_warning(
    channel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    Queue("q", max_length=5, expires=60, max_priority=9)(channel).declare()
    assert "queue 'q' is made without x-max-length," in caplog.text


def test_a_bad_queue_argument_is_refused(channel: Any) -> None:
    with pytest.raises(PreconditionFailed, match="x-expires"):
        channel.queue_declare("q", arguments={"x-expires": "soon"})


def test_publishing_to_an_unknown_queue_drops_the_message(channel: Any) -> None:
    publish(channel, 1, "nowhere")
    channel.queue_declare("nowhere")
    assert ready(channel, "nowhere") == 0


def test_publishing_to_an_unknown_exchange_is_an_error(channel: Any) -> None:
    with pytest.raises(NotFound):
        publish(channel, 1, "key", exchange="nowhere")


def test_only_ready_messages_count(channel: Any, other: Any) -> None:
    # Given three messages, one of which is held and one not yet due
    channel.queue_declare("q")
    for number in range(2):
        publish(channel, number, "q")
    publish(channel, 2, "q", headers={"stem-eta": SYSTEM.now() + 3600})
    held = channel.basic_get("q")
    assert ready(other, "q") == 1
    # When the held one comes back it counts again
    held.requeue()
    assert ready(other, "q") == 2


def test_a_purge_takes_what_nobody_holds(channel: Any, other: Any) -> None:
    channel.queue_declare("q")
    for number in range(3):
        publish(channel, number, "q")
    held = channel.basic_get("q")
    assert other.queue_purge("q") == 2
    held.requeue()
    assert bodies(other, "q") == [0]
    with pytest.raises(NotFound):
        other.queue_purge("nowhere")


def test_a_queue_is_deleted_only_under_the_given_conditions(channel: Any, other: Any) -> None:
    channel.queue_declare("q")
    publish(channel, 1, "q")
    with pytest.raises(PreconditionFailed, match="not empty"):
        other.queue_delete("q", if_empty=True)
    channel.basic_consume("q", callback=print, consumer_tag="c")
    with pytest.raises(PreconditionFailed, match="in use"):
        other.queue_delete("q", if_unused=True)
    channel.basic_cancel("c")
    assert other.queue_delete("q", if_unused=True) == 1
    assert other.queue_delete("q") == 0
    with pytest.raises(NotFound):
        ready(other, "q")


def test_deleting_a_queue_takes_its_bindings_along(channel: Any) -> None:
    Queue("q", Exchange("ex", type="direct"), routing_key="k")(channel).declare()
    channel.queue_delete("q")
    assert list(channel.list_bindings()) == []
    channel.queue_declare("q")
    publish(channel, 1, "k", exchange="ex")
    assert ready(channel, "q") == 0


def test_an_exclusive_queue_belongs_to_its_connection_and_ends_with_it(sqlite_url: str, other: Any) -> None:
    with connect(sqlite_url) as owner:
        owner.channel().queue_declare("mine", exclusive=True)
        for forbidden in (
            lambda: other.queue_declare("mine", exclusive=True),
            lambda: other.basic_consume("mine", callback=print),
            lambda: other.basic_get("mine"),
        ):
            with pytest.raises(ResourceLocked):
                forbidden()
    with pytest.raises(NotFound):
        ready(other, "mine")


def test_an_unused_queue_expires_and_a_used_one_does_not(channel: Any, other: Any) -> None:
    # Given one expiring queue that is consumed, one that is asked now and then, and one that nobody touches
    for name in ("consumed", "asked", "lonely"):
        Queue(name, Exchange("ex", type="fanout"), expires=0.6)(channel).declare()
    channel.basic_consume("consumed", callback=print, consumer_tag="c")

    def lonely_is_gone() -> bool:
        other.basic_get("asked")
        return {queue for queue, _, _ in other.list_bindings()} == {"consumed", "asked"}

    # Then only the last one goes, with its binding
    eventually(lonely_is_gone)
    # And the consumed one goes once its consumer has
    channel.basic_cancel("c")
    eventually(lambda: [queue for queue, _, _ in other.list_bindings()] == [], timeout=10)


def test_an_auto_delete_queue_goes_with_its_last_consumer_and_not_before_its_first(channel: Any, other: Any) -> None:
    channel.queue_declare("q", auto_delete=True)
    assert ready(other, "q") == 0
    channel.basic_consume("q", callback=print, consumer_tag="a")
    other.basic_consume("q", callback=print, consumer_tag="a")
    assert other.queue_declare("q", passive=True).consumer_count == 2
    channel.basic_cancel("a")
    assert other.queue_declare("q", passive=True).consumer_count == 1
    other.basic_cancel("a")
    with pytest.raises(NotFound):
        ready(channel, "q")


# -- messages


def test_messages_come_in_order_within_a_priority_and_the_highest_first(channel: Any) -> None:
    channel.queue_declare("q")
    for body, priority in (("a", 0), ("b", 5), ("c", 9), ("d", 5), ("e", None), ("f", 99), ("g", -3)):
        publish(channel, body, "q", priority=priority)
    assert bodies(channel, "q") == ["c", "f", "b", "d", "a", "e", "g"]


def test_a_message_expires_by_its_own_ttl_or_the_queues_whichever_is_shorter(channel: Any) -> None:
    Queue("q", message_ttl=0.2)(channel).declare()
    channel.queue_declare("plain")
    publish(channel, "queue's", "q", expiration=3600)
    publish(channel, "own", "plain", expiration=0.2)
    publish(channel, "stays", "plain", expiration=3600)
    eventually(lambda: ready(channel, "q") == 0 and ready(channel, "plain") == 1)
    assert bodies(channel, "q") == []
    assert bodies(channel, "plain") == ["stays"]


def test_a_held_message_does_not_expire_under_its_consumer(channel: Any, other: Any) -> None:
    channel.queue_declare("q")
    publish(channel, "one", "q", expiration=0.2)
    held = channel.basic_get("q")
    publish(channel, "two", "q", expiration=0.2)
    eventually(lambda: ready(other, "q") == 0)
    # It is still ours
    assert channel.extend(held.delivery_tag, 10)
    # But once given back it is too late for it
    held.requeue()
    assert bodies(other, "q") == []


def test_a_message_with_an_eta_waits_for_it(channel: Any, other: Any) -> None:
    channel.queue_declare("q")
    eta = SYSTEM.now() + 0.4
    publish(channel, "later", "q", headers={"stem-eta": eta})
    publish(channel, "past", "q", headers={"stem-eta": SYSTEM.now() - 10})
    assert bodies(other, "q") == ["past"]
    got = eventually(lambda: bodies(other, "q"))
    assert got == ["later"]
    assert SYSTEM.now() >= eta


def test_body_headers_and_properties_survive(channel: Any, other: Any) -> None:
    channel.queue_declare("q")
    publish(
        channel,
        {"text": "zażółć\x00"},
        "q",
        headers={"h": [1, None]},
        correlation_id="c-1",
        reply_to="r",
        priority=3,
        compression="zlib",
    )
    message = other.basic_get("q")
    assert message.decode() == {"text": "zażółć\x00"}
    assert message.headers["h"] == [1, None]
    assert message.properties["correlation_id"] == "c-1"
    assert message.properties["reply_to"] == "r"
    assert message.delivery_info["routing_key"] == "q"
    assert message.delivery_info["redelivered"] is False


def test_binary_bodies_survive(channel: Any, other: Any) -> None:
    channel.queue_declare("q")
    publish(channel, b"\x00\xff\x80", "q", content_type="application/octet-stream", content_encoding="binary")
    assert bytes(other.basic_get("q").body) == b"\x00\xff\x80"


def test_headers_that_json_cannot_hold_are_refused_at_the_sender(channel: Any) -> None:
    channel.queue_declare("q")
    with pytest.raises(TypeError):
        publish(channel, 1, "q", headers={"h": object()})
    assert ready(channel, "q") == 0


@BATCHES
def test_a_batch_is_committed_as_one(connection: Connection, channel: Any, other: Any) -> None:
    channel.queue_declare("q")
    producer = Producer(connection.default_channel)
    assert producer.supports_batch_publish
    with producer.batch(max_size=100):
        for number in range(10):
            producer.publish(number, routing_key="q", exchange="")
        assert ready(other, "q") == 0
    assert bodies(other, "q") == list(range(10))


@BATCHES
def test_a_batch_that_fails_half_way_sends_nothing(connection: Connection, channel: Any) -> None:
    channel.queue_declare("q")
    producer = Producer(connection.default_channel)

    def fail() -> None:
        with producer.batch():
            producer.publish(1, routing_key="q", exchange="")
            raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        fail()
    assert ready(channel, "q") == 0


# -- exchanges


def test_a_direct_exchange_routes_by_the_exact_key(channel: Any, other: Any) -> None:
    exchange = Exchange("ex", type="direct")
    Queue("one", exchange, routing_key="k")(channel).declare()
    Queue("two", exchange, routing_key="k")(other).declare()
    Queue("three", exchange, routing_key="else")(other).declare()
    publish(channel, 1, "k", exchange="ex")
    assert [ready(channel, q) for q in ("one", "two", "three")] == [1, 1, 0]
    Queue("two", exchange, routing_key="k")(channel).unbind_from(exchange, "k")
    publish(channel, 2, "k", exchange="ex")
    assert [ready(channel, q) for q in ("one", "two", "three")] == [2, 1, 0]


def test_a_fanout_exchange_reaches_every_queue_once(channel: Any, other: Any) -> None:
    exchange = Exchange("ex", type="fanout")
    for key in ("a", "b"):
        Queue("one", exchange, routing_key=key)(channel).declare()
    Queue("two", exchange)(other).declare()
    publish(channel, "x", "whatever", exchange="ex")
    assert bodies(other, "one") == ["x"]
    assert bodies(other, "two") == ["x"]


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "", True),
        ("#", "x.y", True),
        ("#.z", "z", True),
        ("#.b.#", "a.b.c", True),
        ("#.b.#", "a.c", False),
        ("*.b", "a.b", True),
        ("*", "", False),
        ("", "", True),
        ("", "a", False),
        ("a.b", "a.b", True),
        ("a.b", "aXb", False),
        ("*.#.*", "a", False),
    ],
)
def test_topics_match_as_amqp_says(pattern: str, key: str, matches: bool) -> None:
    assert topic_matches(pattern, key) is matches


def test_a_topic_exchange_routes_by_pattern(channel: Any, other: Any) -> None:
    exchange = Exchange("ex", type="topic")
    Queue("all", exchange, routing_key="#")(channel).declare()
    Queue("some", exchange, routing_key="render.*.done")(other).declare()
    publish(channel, 1, "render.7.done", exchange="ex")
    publish(channel, 2, "render.7.failed", exchange="ex")
    assert bodies(channel, "all") == [1, 2]
    assert bodies(channel, "some") == [1]


def test_exchanges_are_checked_like_queues(channel: Any, other: Any) -> None:
    with pytest.raises(NotFound):
        channel.exchange_declare("ex", passive=True)
    channel.exchange_declare("ex", "fanout")
    other.exchange_declare("ex", "fanout")
    other.exchange_declare("ex", passive=True)
    with pytest.raises(PreconditionFailed):
        other.exchange_declare("ex", "direct")
    with pytest.raises(ChannelError, match="headers"):
        channel.exchange_declare("h", "headers")
    channel.queue_declare("q")
    with pytest.raises(NotFound):
        channel.queue_bind("q", "nowhere", "k")
    channel.queue_bind("q", "ex")
    assert other.get_table("ex") == [("", None, "q")]
    with pytest.raises(PreconditionFailed):
        other.exchange_delete("ex", if_unused=True)
    other.exchange_delete("ex")
    assert "ex" not in channel.get_exchanges()
    assert list(channel.list_bindings()) == []


def test_an_auto_delete_exchange_goes_with_its_last_binding(channel: Any) -> None:
    channel.exchange_declare("ex", "fanout", auto_delete=True)
    channel.queue_declare("q")
    channel.queue_bind("q", "ex")
    channel.queue_delete("q")
    assert "ex" not in channel.get_exchanges()
