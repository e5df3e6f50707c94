"""Sending to RabbitMQ without confirms (``confirm_publish=false``): what holds all the same, and how it is told what does not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from amqp import spec
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from kombu import Exchange, Queue
from kombu.transport.pyamqp import Channel

from stem_kombu import Stem
from stem_kombu.errors import BrokerBlocked, BrokerRefused, BrokerUnavailable, ConfigurationError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import Envelope, encode_task
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.transports import names
from stem_kombu.transports.amqp.message_frames import Unusual, message_frames, publish_method
from stem_kombu.transports.amqp.publisher import ConfirmingConnection
from stem_kombu.transports.amqp.unconfirmed import UnconfirmedConnection
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.producer import open_producer, open_resender
from tests.servers.rabbitmq import RabbitServer
from tests.transports.receiving import Inbox, connected
from tests.transports.test_producer import ids
from tests.waiting import eventually
from tests.worker.test_set_aside import alarm

NOT_CONFIRMED = "?confirm_publish=false"
FIELDS: list[dict[str, Any]] = [
    {},
    {"text": "ä€𝄞\udcff", "empty": "", "none": None, "yes": True, "no": False},
    {"small": -3, "edge": 2**31 - 1, "large": 2**31, "low": -(2**31) + 1, "real": -0.5, "table": {"a": {"b": None}}},
]


@pytest.fixture
def app(amqp_url: str) -> Iterator[Stem]:
    made = Stem("fast", broker=amqp_url + NOT_CONFIRMED)
    yield made
    made.close()


def written_by_py_amqp(envelope: Envelope, exchange: str, key: str, most: int) -> bytes:
    written: list[bytes] = []
    write = frame_writer(
        SimpleNamespace(frame_max=most + 8, bytes_sent=0),
        SimpleNamespace(write=lambda data: written.append(bytes(data))),
    )
    properties = {"delivery_mode": 2, **envelope.properties}
    priority = properties.pop("priority", 0)
    message = Channel.prepare_message(
        None, envelope.body, priority, envelope.content_type, envelope.content_encoding, envelope.headers, properties
    )
    write(1, 7, spec.Basic.Publish, dumps("Bssbb", (0, exchange, key, True, False)), message)
    return b"".join(written)


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 20_000])
@pytest.mark.parametrize("headers", FIELDS)
@pytest.mark.parametrize(
    "properties", [{}, {"correlation_id": "c", "reply_to": "", "priority": 9, "expiration": "60000"}]
)
def test_the_frames_of_a_message_are_py_amqps_byte_for_byte(
    size: int, headers: dict[str, Any], properties: dict[str, Any]
) -> None:
    sent = encode_task(TaskMessage("t1", "shop.render", (1, "two"), {"three": 3.0}, max_retries=3))
    envelope = Envelope(b"x" * size, {**sent.headers, **headers}, properties)
    made = message_frames(envelope, publish_method("topics", "a.b", True), 7, 4088)
    assert made == written_by_py_amqp(envelope, "topics", "a.b", 4088)


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(b"", {"list": [1]}, {}),
        Envelope(b"", {"bytes": b"x"}, {}),
        Envelope(b"", {"n" * 256: 1}, {}),
        Envelope(b"", {"low": -(2**31)}, {}),
        Envelope(b"", {}, {"timestamp": 5}),
        Envelope(b"", {}, {"priority": "high"}),
        Envelope(b"", {}, {"correlation_id": "c" * 256}),
        Envelope(b"", {}, {}, content_encoding=""),
    ],
)
def test_what_rarely_stands_in_a_message_is_left_to_py_amqp(envelope: Envelope) -> None:
    with pytest.raises(Unusual):
        message_frames(envelope, publish_method("", "q"), 1, 4088)


def test_a_message_with_such_headers_arrives_in_its_place(app: Stem, amqp_url: str, queue_name: str) -> None:
    for number in range(3):
        app.send_task("shop.render", (number,), queue=queue_name, headers={"list": [number]})
        app.send_task("shop.render", (number,), queue=queue_name)
    app.close()
    inbox = Inbox(connected(amqp_url), names.task_queue(queue_name))
    arrived = [decode_delivery(message).message for message in inbox.until(6)]
    assert [message.args[0] for message in arrived] == [0, 0, 1, 1, 2, 2]
    assert [dict(message.headers) for message in arrived[::2]] == [{"list": [number]} for number in range(3)]
    inbox.connection.release()


# -- the option -------------------------------------------------------------------------------------------------------------


def kind_of_line(app: Stem, queue: str, **options: Any) -> type[object]:
    app.send_task("shop.render", queue=queue, **options)
    producer: Any = app._others._held[-1][1] if options else app.producer  # type: ignore[union-attr]
    (line,) = producer._pool.idle
    return type(line)


@pytest.mark.parametrize("given", ["url", "keyword", "variable", "nothing"])
def test_the_option_is_given_as_kombus_transport_options_are(
    amqp_url: str, queue_name: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given == "variable":
        monkeypatch.setenv("STEM_BROKER_TRANSPORT_OPTIONS", '{"confirm_publish": false}')
    app = Stem(
        "fast",
        broker=amqp_url + (NOT_CONFIRMED if given == "url" else ""),
        broker_options={"confirm_publish": False} if given == "keyword" else None,
    )
    assert kind_of_line(app, queue_name) is (ConfirmingConnection if given == "nothing" else UnconfirmedConnection)
    app.close()


def test_a_url_that_a_sender_gives_says_it_for_itself(app: Stem, amqp_url: str, queue_name: str) -> None:
    assert kind_of_line(app, queue_name, connection=amqp_url) is ConfirmingConnection
    assert kind_of_line(app, queue_name, connection=amqp_url + NOT_CONFIRMED) is UnconfirmedConnection
    with connected(amqp_url) as other:
        assert kind_of_line(app, queue_name, connection=other) is ConfirmingConnection


@pytest.mark.parametrize("value", ["no", "0", "[]"])
def test_a_value_that_is_neither_true_nor_false_is_refused(amqp_url: str, value: str) -> None:
    app = Stem("fast", broker=f"{amqp_url}?confirm_publish={value}")
    with pytest.raises(ConfigurationError, match=r"confirm_publish.* is not true or false"):
        app.send_task("shop.render")


def test_g18_what_stem_sends_itself_is_always_confirmed(amqp_url: str, queue_name: str) -> None:
    settings = Settings.from_env({}, broker=amqp_url + NOT_CONFIRMED)
    for producer in (open_producer(settings), open_resender(broker_connection(settings), settings)):
        producer.send(TaskMessage("t1", "shop.render", queue=queue_name))
        (line,) = producer._pool.idle
        assert type(line) is ConfirmingConnection
        producer.close()
    # and so is what goes over Kombu's own producer: control messages, what a worker puts aside
    assert (broker_connection(settings).transport_options or {})["confirm_publish"] is True


def test_it_is_used_by_kombus_public_names_as_well(amqp_url: str, queue_name: str) -> None:
    app = Stem("generic", broker=amqp_url + NOT_CONFIRMED, transport="generic")
    for number in range(20):
        app.send_task("shop.render", task_id=f"t{number}", queue=queue_name)
    app.close()
    assert set(ids(amqp_url, queue_name, 20)) == {f"t{number}" for number in range(20)}


# -- what holds -------------------------------------------------------------------------------------------------------------


def test_close_waits_until_the_broker_has_all_of_it_in_order(
    app: Stem, amqp_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stem_kombu.timeouts.UNCONFIRMED_CLOSE", 60.0)
    large = "x" * 300_000  # over several frames
    for number in range(400):
        app.send_task("shop.render", (number, large if number % 100 == 7 else ""), queue=queue_name)
    app.send_many("shop.render", [(number, "") for number in range(400, 1000)], queue=queue_name)
    app.close()
    with connected(
        amqp_url
    ) as connection:  # its channel had all of it; the queue may get the last of it a moment later
        channel = connection.default_channel
        eventually(lambda: channel.queue_declare(queue_name, passive=True).message_count == 1000, 60)
    inbox = Inbox(connected(amqp_url), names.task_queue(queue_name))
    arrived = [decode_delivery(message).message.args for message in inbox.until(1000, 60)]
    assert [args[0] for args in arrived] == list(range(1000))
    assert [args[0] for args in arrived if args[1] == large] == [7, 107, 207, 307]
    inbox.connection.release()


def test_a_process_that_ends_without_close_has_sent_it_all(amqp_url: str, queue_name: str) -> None:
    script = (
        "import sys\nfrom stem_kombu import Stem\napp = Stem('fast', broker=sys.argv[1])\n"
        "for n in range(500): app.send_task('shop.render', (n,), queue=sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", script, amqp_url + NOT_CONFIRMED, queue_name], check=True, timeout=60)
    # its wait for the broker may be too short on a busy machine, and what was written arrives all the same
    assert len(ids(amqp_url, queue_name, 500)) == 500


def test_threads_share_an_application(app: Stem, amqp_url: str, queue_name: str) -> None:
    def send(start: int) -> None:
        for number in range(start, start + 50):
            app.send_task("shop.render", (number, "x" * (number * 100)), task_id=f"t{number}", queue=queue_name)

    threads = [threading.Thread(target=send, args=(start,)) for start in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    app.close()
    found = ids(amqp_url, queue_name, 400)
    assert found == {f"t{number}": 1 for number in range(400)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_sends_over_a_connection_of_its_own(app: Stem, amqp_url: str, queue_name: str) -> None:
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    child = os.fork()
    if child == 0:
        try:
            app.send_task("shop.render", task_id="t2", queue=queue_name)
            app.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    app.send_task("shop.render", task_id="t3", queue=queue_name)
    app.close()
    assert ids(amqp_url, queue_name, 3) == {"t1": 1, "t2": 1, "t3": 1}


# -- what is given up, and how it is told -----------------------------------------------------------------------------------


def line_of(app: Stem) -> UnconfirmedConnection:
    (line,) = app.producer._pool.idle  # type: ignore[union-attr]
    assert isinstance(line, UnconfirmedConnection)
    return line


def test_a_connection_that_the_broker_has_closed_is_replaced_and_the_loss_is_logged(
    app: Stem, amqp_url: str, queue_name: str, rabbitmq_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    line = line_of(app)
    rabbitmq_server.close_connections()
    eventually(lambda: line._channel.has_news(1.0))
    app.send_task("shop.render", task_id="t2", queue=queue_name)
    assert "tasks that were just sent, without confirms, may be lost" in caplog.text
    app.close()
    assert "t2" in ids(amqp_url, queue_name, 1)


def test_a_connection_that_was_idle_for_long_is_replaced_without_a_line(
    app: Stem, amqp_url: str, queue_name: str, rabbitmq_server: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    line = line_of(app)
    line._written_at -= 3600
    rabbitmq_server.close_connections()
    eventually(lambda: line._channel.has_news(1.0))
    app.send_task("shop.render", task_id="t2", queue=queue_name)
    app.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert ids(amqp_url, queue_name, 2) == {"t1": 1, "t2": 1}


def test_a_task_that_the_broker_refuses_is_the_error_of_the_next_send(
    app: Stem, amqp_url: str, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    app.send_task("shop.render", task_id="t2", exchange="no-such-exchange", routing_key="a")
    line = line_of(app)
    eventually(lambda: line._channel.has_news(1.0))
    with pytest.raises(BrokerRefused, match=r"refused a task that was sent before.*no-such-exchange|missing") as caught:
        app.send_task("shop.render", task_id="t3", queue=queue_name)
    assert caught.value.unconfirmed == ("t3",)
    assert "may be lost" in caplog.text
    app.send_task("shop.render", task_id="t4", queue=queue_name)
    app.close()
    assert ids(amqp_url, queue_name, 2) == {"t1": 1, "t4": 1}


def test_a_task_that_no_queue_takes_is_logged_and_its_queue_declared_again(
    app: Stem, amqp_url: str, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    app.close()
    app.send_task("shop.render", task_id="t2", queue=queue_name)
    line = line_of(app)
    with connected(amqp_url) as connection:
        connection.default_channel.queue_delete(queue_name)
    app.send_task("shop.render", task_id="t3", queue=queue_name)
    eventually(lambda: line._channel.has_news(1.0))
    app.send_task("shop.render", task_id="t4", queue=queue_name)
    assert "no queue took 1 tasks that were sent without confirms, which are lost: t3" in caplog.text
    app.close()
    assert ids(amqp_url, queue_name, 1) == {"t4": 1}


def test_under_a_resource_alarm_sending_is_an_error_once_the_broker_has_said_so(
    app: Stem, amqp_url: str, queue_name: str, rabbitmq_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stem_kombu.timeouts.ALARM_PATIENCE", 0.1)
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    line = line_of(app)
    with alarm(rabbitmq_server):
        # this one is written, and lies at the broker's socket until the alarm is over
        app.send_task("shop.render", task_id="t2", queue=queue_name)
        eventually(lambda: line._channel.has_news(1.0))
        with pytest.raises(BrokerBlocked, match="resource alarm"):
            app.send_task("shop.render", task_id="t3", queue=queue_name)
    app.send_task("shop.render", task_id="t4", queue=queue_name)
    app.close()
    assert set(ids(amqp_url, queue_name, 3)) == {"t1", "t2", "t4"}


def test_g18_what_was_written_under_an_alarm_keeps_its_connection(
    app: Stem, amqp_url: str, queue_name: str, rabbitmq_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies at the broker's socket. Were that closed, the broker's next heartbeat would end what it has not read."""
    monkeypatch.setattr("stem_kombu.timeouts.ALARM_PATIENCE", 0.1)
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    line = line_of(app)
    with alarm(rabbitmq_server):
        app.send_many("shop.render", [(number,) for number in range(5)], task_ids=list("abcde"), queue=queue_name)
        eventually(lambda: line._channel.has_news(1.0))
        for _ in range(2):
            with pytest.raises(BrokerBlocked, match="resource alarm"):
                app.send_task("shop.render", queue=queue_name)
            assert line_of(app) is line
    app.send_task("shop.render", task_id="t2", queue=queue_name)
    assert line_of(app) is line
    app.close()
    assert ids(amqp_url, queue_name, 7) == dict.fromkeys(["t1", "t2", *"abcde"], 1)


def test_an_application_that_is_closed_under_an_alarm_says_what_may_be_lost(
    app: Stem,
    queue_name: str,
    rabbitmq_server: RabbitServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("stem_kombu.timeouts.ALARM_PATIENCE", 0.1)
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    line = line_of(app)
    with alarm(rabbitmq_server):
        app.send_many("shop.render", [()] * 5, queue=queue_name)
        eventually(lambda: line._channel.has_news(1.0))
        app.close()
    assert caplog.text.count("tasks that were just sent, without confirms, may be lost") == 1


def test_an_application_that_is_closed_while_the_broker_is_silent_says_what_may_be_lost(
    amqp_url: str,
    queue_name: str,
    proxy_for: Callable[[str, int], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("stem_kombu.timeouts.UNCONFIRMED_CLOSE", 0.3)
    parts = urlsplit(amqp_url)
    proxy = proxy_for(parts.hostname or "", parts.port or 0)
    url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{proxy.host}:{proxy.port}"))
    app = Stem("fast", broker=url + NOT_CONFIRMED)
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    proxy.stall()
    app.send_task("shop.render", task_id="t2", queue=queue_name)
    app.close()
    assert caplog.text.count("tasks that were just sent, without confirms, may be lost") == 1


def test_a_body_that_the_broker_does_not_read_ends_with_an_error(
    app: Stem, queue_name: str, rabbitmq_server: RabbitServer
) -> None:
    app.send_task("shop.render", task_id="t1", queue=queue_name)
    app.producer._timeout = 1.0  # type: ignore[union-attr]
    with alarm(rabbitmq_server), pytest.raises(BrokerUnavailable):
        app.send_many("shop.render", [("x" * 4_000_000,)] * 20, queue=queue_name)


def test_exchanges_and_priorities_are_what_the_call_says(app: Stem, amqp_url: str, queue_name: str) -> None:
    topic = Exchange(f"{queue_name}-topic", type="topic")
    with connected(amqp_url) as connection:
        Queue(queue_name, topic, routing_key="a.#", durable=True)(connection.default_channel).declare()
    app.send_task("shop.render", task_id="t1", exchange=topic, routing_key="a.b.c", priority=3)
    app.close()
    inbox = Inbox(connected(amqp_url), Queue(queue_name), declare=False)
    (message,) = inbox.until(1)
    assert (message.delivery_info["routing_key"], message.properties["priority"]) == ("a.b.c", 3)
    inbox.connection.release()
