"""Sending many at once: all confirmed, and an error names what is not (G18)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Queue

from stem_kombu import Stem
from stem_kombu.errors import BrokerUnavailable, ConfigurationError
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.messages.encoding import Envelope, encode_task
from stem_kombu.messages.resending import body_of
from stem_kombu.outcome import TaskState
from stem_kombu.redaction import ShortRepr
from stem_kombu.task import TaskMessage
from stem_kombu.transports import names
from stem_kombu.transports.amqp.publishing_channel import PublishingChannel
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.payloads import message_of
from stem_kombu.transports.producer import TaskProducer
from stem_kombu.transports.publisher import CHUNK, OutgoingMessage, SendDeadline
from stem_kombu.transports.redis.publisher import pushed, queue_text
from tests.transports.receiving import Inbox, Relay, connected
from tests.transports.test_producer import ids, task, through

__all__ = ["through"]


def once_some_are_taken(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act once, when the broker has confirmed the first of many."""
    taken, acted = SendDeadline.taken, []

    def then_act(patience: SendDeadline, count: int) -> None:
        taken(patience, count)
        if count and not acted:
            acted.append(count)
            act()

    monkeypatch.setattr(SendDeadline, "taken", then_act)


def test_each_call_becomes_a_task_whose_arguments_it_is(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    app = Stem("many", broker=broker_url, backend=f"sqlite://{tmp_path}/states.db")

    @app.task("tasks.render", queue=queue_name)
    def render(ctx: Any, number: int, scale: int = 1) -> None: ...

    results = render.send_many([{"number": 1}, (2,), [3, 4]], task_ids=["t1", "t2", "t3"], max_retries=7)
    assert [(result.id, result.state) for result in results] == [(f"t{n}", TaskState.QUEUED) for n in (1, 2, 3)]
    assert app.send_many("tasks.render", []) == []
    app.close()
    connection = connected(broker_url)
    arrived = Inbox(connection, names.task_queue(queue_name)).until(3)
    decoded = [decode_delivery(message, queue=queue_name).message for message in arrived]
    assert [(one.task_id, one.args, one.kwargs, one.max_retries) for one in decoded] == [
        ("t1", (), {"number": 1}, 7),
        ("t2", (2,), {}, 7),
        ("t3", (3, 4), {}, 7),
    ]
    for message in arrived:
        message.ack()
    connection.release()


def test_what_can_not_be_meant_is_refused_before_anything_is_sent(redis_url: str, queue_name: str) -> None:
    app = Stem("many", broker=redis_url)
    with pytest.raises(ConfigurationError, match=r"a call of task 'tasks\.render' is a str"):
        app.send_many("tasks.render", [(1,), "text"], queue=queue_name)
    for wrong in (["t1"], ["t1", "t1"]):
        with pytest.raises(ConfigurationError, match="2 different ids"):
            app.send_many("tasks.render", [(1,), (2,)], task_ids=wrong, queue=queue_name)
    with pytest.raises(ConfigurationError, match="knows no option 'countdwn'"):
        app.send_many("tasks.render", [(1,)], countdwn=5)
    with pytest.raises(ConfigurationError, match="knows no option 'task_id'") as told:
        app.send_many("tasks.render", [(1,), (2,)], task_id="the same for both")
    assert told.value.hint == "did you mean task_ids=?"
    app.close()
    connection = connected(redis_url)
    assert Inbox(connection, names.task_queue(queue_name)).listen(0.3) == []
    connection.release()


def test_g18_a_broker_that_goes_away_in_the_middle_is_an_error_that_names_what_it_may_not_have(
    through: tuple[str, Relay], server_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, relay = through
    producer = TaskProducer(lambda: open_connection(url), timeout=1.0)
    count = 3 * CHUNK
    once_some_are_taken(monkeypatch, relay.close)
    with pytest.raises(BrokerUnavailable, match=rf"\d+ of {count} messages were sent") as caught:
        producer.send_many(task(n, queue_name) for n in range(count))
    producer.close()
    unconfirmed = caught.value.unconfirmed
    assert 0 < len(unconfirmed) < count
    assert len(set(unconfirmed)) == len(unconfirmed)
    assert f"({count - len(unconfirmed)} of" in str(caught.value)
    confirmed = {f"t{n}" for n in range(count)} - set(unconfirmed)
    assert confirmed <= set(ids(server_url, queue_name, len(confirmed)))


def test_g18_when_a_connection_breaks_in_the_middle_only_what_is_not_confirmed_is_sent_again(
    through: tuple[str, Relay], server_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, relay = through
    producer = TaskProducer(lambda: open_connection(url))
    count = 3 * CHUNK
    once_some_are_taken(monkeypatch, relay.cut)
    assert producer.send_many(task(n, queue_name) for n in range(count)) == count
    producer.close()
    found = ids(server_url, queue_name, count)
    assert relay.accepted > 1
    assert set(found) == {f"t{n}" for n in range(count)}
    assert found.total() <= count + CHUNK


def test_tasks_that_a_full_queue_refuses_are_named_and_the_others_counted(
    amqp_url: str, queue_name: str, tmp_path: Path
) -> None:
    connection = connected(amqp_url)
    full = Queue(queue_name, durable=True, queue_arguments={"x-max-length": 3, "x-overflow": "reject-publish"})
    full(connection.default_channel).declare()
    app = Stem("many", broker=amqp_url, backend=f"sqlite://{tmp_path}/states.db")
    app._producer = TaskProducer(lambda: open_connection(amqp_url), timeout=1.0)
    given = [f"t{n}" for n in range(8)]
    with pytest.raises(BrokerUnavailable, match=r"refused \d messages \(\d of 8 messages were sent\)") as caught:
        app.send_many("tasks.render", [(n,) for n in range(8)], queue=queue_name, task_ids=given)
    taken = [task_id for task_id in given if task_id not in caught.value.unconfirmed]
    states = {task_id: app.result(task_id).state for task_id in given}
    app.close()
    assert 0 < len(taken) < 8
    arrived = Inbox(connection, names.task_queue(queue_name), declare=False).until(len(taken))
    assert [decode_delivery(message).message.task_id for message in arrived] == taken
    assert states == {task_id: TaskState.QUEUED if task_id in taken else None for task_id in given}
    connection.release()


def test_what_is_confirmed_while_more_is_published_counts_as_taken(
    amqp_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by CI: with a broker that is quicker than we, the time for many messages was that for 500."""
    write, taken, counts = PublishingChannel.write, SendDeadline.taken, []

    def write_and_see_it_confirmed(channel: PublishingChannel, frames: bytes, timeout: float) -> None:
        write(channel, frames, timeout)
        assert channel.has_news(10)

    def count(patience: SendDeadline, number: int) -> None:
        taken(patience, number)
        counts.append(number)

    monkeypatch.setattr(PublishingChannel, "write", write_and_see_it_confirmed)
    monkeypatch.setattr("stem_kombu.transports.amqp.publisher._ONE_WRITE", 100)
    monkeypatch.setattr(SendDeadline, "taken", count)
    producer = TaskProducer(lambda: open_connection(amqp_url))
    producer.send_many(task(n, queue_name) for n in range(20))
    producer.close()
    assert sum(counts) == 20


@pytest.mark.parametrize("text", ["", "x", "ä€𝄞", "a\r\nb", "y" * 100_000])
def test_a_push_is_packed_as_redis_py_packs_it(text: str) -> None:
    packed = redis.Connection().pack_command("LPUSH", f"queue-{text[:10]}", text)
    assert pushed(f"queue-{text[:10]}", text) == b"".join(packed)


@pytest.mark.parametrize("queue", ["default", 'q"uo\\te', "Straße", "a b"])
def test_what_is_written_to_redis_is_kombus_form_whatever_stands_in_it(queue: str) -> None:
    envelope = Envelope(b"\x00[1]\xff", {"id": 'a"b', "task": "é\n"}, {"correlation_id": 'a"b\\', "reply_to": ""})
    message = json.loads(queue_text(OutgoingMessage(queue, envelope)))
    assert len(message["properties"].pop("delivery_tag")) == 32
    assert message == {
        "body": base64.b64encode(envelope.body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": envelope.headers,
        "properties": {
            **envelope.properties,
            "delivery_mode": 2,
            "priority": 0,
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }


@pytest.mark.parametrize(
    ("body", "headers", "as_it_is"),
    [
        (b'[["' + b"x" * 5000 + '"\\u00e9é\u2028'.encode() + b"], {}]", {}, True),
        (b"\xff" * 5000, {}, False),
        (b"x" * 5000, {"compression": "application/x-gzip"}, False),
        (b"[[1], {}]", {}, False),
    ],
    ids=["text", "no text", "compressed", "small"],
)
def test_a_large_text_lies_in_redis_as_it_is_and_kombu_reads_it(
    redis_url: str, queue_name: str, body: bytes, headers: dict[str, str], as_it_is: bool
) -> None:
    written = json.loads(queue_text(OutgoingMessage(queue_name, Envelope(body, headers, {}))))
    assert ("body_encoding" not in written["properties"]) == as_it_is
    with open_connection(redis_url) as connection:
        channel: Any = connection.default_channel
        for read in (
            channel.Message(written, channel=channel),
            message_of(json.dumps(written), "1", queue_name, channel),
        ):
            assert body_of(read) == body
            # given back, as Kombu's consumers do it, it is the same message
            assert body_of(channel.Message(read.serializable(), channel=channel)) == body


@pytest.mark.parametrize(
    "args", [(), (1,), (True, None, 2.5), (10**50,), (1,) * 7, (10**30, 10**30), ("text",), ("amqp://u:secret@h//",)]
)
def test_the_short_way_to_show_arguments_shows_what_the_long_way_does(args: tuple[Any, ...]) -> None:
    shown = encode_task(TaskMessage("t1", "noop", args, queue="q")).headers["argsrepr"]
    assert shown == ShortRepr(text=60, items=6).repr(args)
