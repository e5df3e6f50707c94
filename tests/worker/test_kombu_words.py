"""Kombu's own words where a Kombu user gives them: Queue, Exchange, priority, routing_key, serializer, compression, headers,
connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from stem_kombu import Stem, Worker
from stem_kombu.errors import BrokerError, ConfigurationError, StemError
from stem_kombu.messages.decompression import _UNPACKERS
from stem_kombu.publishing import COMPRESSIONS

#: Of each broker the least urgent first.
URGENCY = {"embedded": (0, 5, 9), "amqp": (0, 5, 9), "redis": (9, 5, 0)}
VIDEO = Queue("video", Exchange("media", type="topic"), routing_key="video.#")


@pytest.fixture(params=["embedded", "redis", "amqp"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str) -> str:
    return str(request.getfixturevalue(f"{kind}_url"))


@pytest.fixture
def app(url: str) -> Iterator[Stem]:
    app = Stem("words", broker=url, backend="memory://", revoke_store="memory://")
    seen: list[Any] = []

    @app.task("words.see", context=True)
    def see(ctx: Any, what: Any) -> list[Any]:
        seen.append(what)
        return [what, ctx.queue, dict(ctx.headers)]

    app.seen = seen  # type: ignore[attr-defined]
    yield app
    app.close()


def waiting(url: str, queue: str) -> list[Any]:
    """The messages of the queue, left in it."""
    with Connection(url) as connection:
        simple = connection.SimpleQueue(Queue(queue, no_declare=True))
        found = []
        while len(found) < 50:
            try:
                found.append(simple.get(block=True, timeout=0.5))
            except simple.Empty:
                break
        for message in found:
            message.requeue()
        return found


def test_a_queue_is_declared_as_its_declaration_says_by_whoever_sends_first(app: Stem, url: str, kind: str) -> None:
    video = Queue("video", Exchange("media", type="topic"), routing_key="video.#", max_priority=9, message_ttl=3600)
    app.send_task("words.see", (1,), queue=video)
    if kind != "redis":  # where Kombu keeps no arguments
        with pytest.raises(ConfigurationError, match="queue 'video' exists at the broker with other arguments"):
            Stem("other", broker=url, backend="memory://").send_task("words.see", (2,), queue=VIDEO)
    with Worker(app, queues=[video], concurrency=1):
        result = app.send_task("words.see", (3,), exchange="media", routing_key="video.new")
        assert result.get(timeout=60) == [3, "video", {}]
        assert app.seen[0] == 1  # type: ignore[attr-defined]


def test_a_worker_declares_its_queues_before_anything_is_sent(app: Stem, url: str) -> None:
    with Worker(app, queues=[VIDEO], concurrency=1) as worker:
        assert worker.queues == ("video",)
        with Connection(url) as connection:  # a Kombu program, which knows the exchange and no queue
            connection.Producer().publish(
                [["from Kombu"], {}, {}],
                exchange=Exchange("media", type="topic"),
                routing_key="video.cut.fast",
                headers={"task": "words.see", "id": "from-kombu"},
                declare=[Exchange("media", type="topic")],
            )
        assert app.result("from-kombu").get(timeout=60) == ["from Kombu", "video", {}]


def test_a_queue_of_a_task_is_declared_for_all_who_name_it(url: str) -> None:
    app = Stem("words", broker=url, backend="memory://", revoke_store="memory://", queues=["plain", VIDEO])

    @app.task("words.cut", queue=VIDEO)
    def cut(n: int) -> int:
        return n

    assert app.settings.worker_queues == ("plain", "video")
    with Worker(app, concurrency=1):
        assert cut.delay(1).get(timeout=60) == 1
        assert cut.apply_async((2,), routing_key="video.x", exchange=VIDEO.exchange).get(timeout=60) == 2
    with pytest.raises(ConfigurationError, match=r"queue 'video' of task 'words\.other' is declared in two ways"):
        app.task("words.other", queue=Queue("video", Exchange("media", type="direct")))(cut.task.handler)
    app.close()


def test_what_no_queue_takes_is_an_error_where_it_is_sent(app: Stem) -> None:
    with Worker(app, queues=[VIDEO], concurrency=1):
        with pytest.raises(StemError) as raised:
            app.send_task("words.see", (1,), exchange=Exchange("media", type="topic"), routing_key="audio.new")
        assert isinstance(raised.value, BrokerError)
        with pytest.raises(StemError):
            app.send_task("words.see", (1,), exchange="absent", routing_key="audio.new")


def test_the_urgent_comes_first(app: Stem, kind: str) -> None:
    queue = Queue("urgent", max_priority=9)
    for number, priority in enumerate(URGENCY[kind]):
        app.send_task("words.see", (number,), queue=queue, priority=priority)
    with Worker(app, queues=[queue], inline_slots=1, concurrency=1):
        assert app.send_task("words.see", ("last",), queue=queue, priority=URGENCY[kind][0]).get(timeout=60)
    assert app.seen == [2, 1, 0, "last"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
def test_a_compressed_message_is_small_and_runs(app: Stem, url: str, compression: Any) -> None:
    text = "pixel " * 10_000
    sent = [app.send_task("words.see", (text,), compression=compression, headers={"shop": "berlin"})]
    sent += app.send_many("words.see", [(text,), (text,)], compression=compression, serializer="json")
    with Worker(app, concurrency=1):
        assert sent[0].get(timeout=60) == [text, "default", {"shop": "berlin"}]
        assert sent[2].get(timeout=60)[0] == text


def test_every_compression_that_can_be_asked_for_is_one_that_workers_unpack() -> None:
    assert {name for name in _UNPACKERS if "/" not in name} == set(COMPRESSIONS)


def test_a_connection_of_the_caller_is_another_broker(app: Stem, url: str) -> None:
    with Connection("memory://words-elsewhere") as yours:
        elsewhere = Stem("elsewhere", broker="memory://", backend="memory://", revoke_store="memory://")

        @elsewhere.task("words.see")
        def see(what: str) -> str:
            return what

        app.send_task("words.see", ("here",))
        with Worker(elsewhere, connection=yours, concurrency=1):
            result = app.send_task("words.see", ("there",), connection=yours, task_id="there")
            assert elsewhere.result(result.id).get(timeout=60) == "there"
            many = app.send_many("words.see", [("more",)], connection=yours, task_ids=["more"])
            assert elsewhere.result(many[0].id).get(timeout=60) == "more"
    assert not yours.connected
    bodies = [message.body for message in waiting(url, "default")]
    assert [json.loads(body)[0] for body in bodies] == [["here"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"priority": "high"}, "priority of task 'words.see': 'high' (str) is no whole number"),
        ({"priority": 300}, "priority of task 'words.see': 300 is not between 0 and 255"),
        (
            {"serializer": "pickle"},
            "serializer of task 'words.see': 'pickle' is not 'json', which is all that workers read",
        ),
        ({"compression": "gzp"}, "compression of task 'words.see': 'gzp' is unknown to workers"),
        ({"exchange": 5}, "exchange of task 'words.see' is 5 (int), not a name"),
        ({"routing_key": 5, "exchange": "e"}, "routing_key of task 'words.see': 5 (int) is no text"),
        (
            {"queue": "a", "routing_key": "b"},
            "routing_key 'b' of task 'words.see' is not queue 'a', and the default exchange",
        ),
        (
            {"queue": Exchange("media")},
            "queue of task 'words.see' is <unbound Exchange media(direct)> (Exchange), not a name",
        ),
        ({"connection": 5}, "connection int is not a Kombu connection, a pool of them, or the text of a URL"),
        ({"prioritty": 5}, "send_task of task 'words.see' knows no option 'prioritty'"),
    ],
)
def test_a_wrong_value_is_named_where_it_is_given(options: dict[str, Any], said: str) -> None:
    app = Stem("words", broker="memory://", backend="memory://", revoke_store="memory://")
    with pytest.raises(ConfigurationError) as raised:
        app.send_task("words.see", (1,), **options)
    assert str(raised.value).startswith(said)
    app.close()


def test_a_wrong_value_of_a_definition_or_a_worker_is_named_there() -> None:
    app = Stem("words", broker="memory://", backend="memory://", revoke_store="memory://")
    with pytest.raises(ConfigurationError, match=r"compression of @app\.task: 'gzp' is unknown to workers") as raised:
        app.task("words.see", compression="gzp")  # type: ignore[call-overload]
    assert raised.value.hint == "did you mean 'gzip'?"
    with pytest.raises(ConfigurationError, match=r"queue of task 'words\.see' is 5"):
        app.task("words.see", queue=5)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="a text is a list of letters"):
        Worker(app, queues="mail")
    with pytest.raises(ConfigurationError, match="queue of a worker is 5"):
        Worker(app, queues=[5])  # type: ignore[list-item]


def test_g18_redis_refuses_a_queue_whose_messages_it_would_not_keep(redis_url: str) -> None:
    app = Stem("words", broker=redis_url, backend="memory://", revoke_store="memory://")
    news = Queue("news", Exchange("news", type="fanout"))
    with pytest.raises(ConfigurationError, match="has a fanout exchange: Redis keeps none"):
        app.send_task("words.see", (1,), queue=news)
    with pytest.raises(ConfigurationError, match="has a fanout exchange: Redis keeps none"):
        Worker(app, queues=[news], concurrency=1).start()
    app.close()
