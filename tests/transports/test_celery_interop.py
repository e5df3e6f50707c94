"""Queues shared with Celery, both ways: what its producer sends is read here, and what we send its worker executes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import kombu.pools
import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import BadMessage
from stem_kombu.messages.decoding import decode_delivery
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from stem_kombu.transports import names
from stem_kombu.transports.connections import open_connection, pump
from stem_kombu.transports.producer import TaskProducer, open_resender
from stem_kombu.transports.queues import declared_task_queue
from tests.transports.receiving import Inbox, connected

celery = pytest.importorskip("celery")


@pytest.fixture
def app(server_url: str) -> Iterator[Any]:
    made = celery.Celery("shop", broker=server_url, backend="cache+memory://", set_as_current=False)
    made.conf.update(task_default_queue="celery", broker_connection_retry_on_startup=False)

    @made.task(name="tasks.add", bind=True, shared=False)  # type: ignore[untyped-decorator]
    def add(self: Any, *args: int, text: str = "", **kwargs: int) -> list[Any]:
        assert text in ("", 'é"' * 1000)
        return [sum(args) + sum(kwargs.values()), self.request.retries, self.request.headers]

    yield made
    made.close()
    kombu.pools.reset()  # or every child that a later test forks would try to close them


def received(url: str, queue: str, count: int = 1) -> list[Any]:
    connection = connected(url)
    messages = Inbox(connection, declared_task_queue(connection, queue), declare=False).until(count)
    for message in messages:
        message.ack()
    connection.release()
    return messages


def test_a_task_that_celery_sent_is_read(app: Any, server_url: str, queue_name: str) -> None:
    eta = datetime(2030, 1, 1, tzinfo=timezone.utc)
    app.send_task(
        "tasks.add", (1, 2), {"k": Decimal("1.5")}, queue=queue_name, task_id="celery-1", eta=eta, retries=2,
        expires=eta + timedelta(hours=1), time_limit=30, soft_time_limit=20, headers={"tenant": "acme"},
    )  # fmt: skip
    (raw,) = received(server_url, queue_name)
    message = decode_delivery(raw, queue=queue_name).message
    assert (message.task_id, message.name, message.args, message.kwargs) == (
        "celery-1",
        "tasks.add",
        (1, 2),
        {"k": Decimal("1.5")},
    )
    assert (message.queue, message.attempt) == (queue_name, 3)
    assert (message.eta, message.expires_at) == (eta, eta + timedelta(hours=1))
    assert (message.time_limit, message.soft_time_limit) == (30.0, 20.0)
    assert message.headers == {"tenant": "acme"}


def test_a_countdown_of_celery_is_an_eta(app: Any, server_url: str, queue_name: str) -> None:
    app.send_task("tasks.add", (), queue=queue_name, countdown=60)
    (raw,) = received(server_url, queue_name)
    eta = decode_delivery(raw).message.eta
    assert eta is not None
    assert timedelta(seconds=30) < eta - SYSTEM.utcnow() <= timedelta(seconds=60)


def test_protocol_1_and_pickle_of_celery_are_refused_with_what_to_change(
    app: Any, server_url: str, queue_name: str
) -> None:
    app.send_task("tasks.add", (1,), queue=queue_name, serializer="pickle")
    app.conf.task_protocol = 1
    app.amqp.__dict__.pop("create_task_message", None)
    app.amqp.__dict__.pop("send_task_message", None)
    app.send_task("tasks.add", (1,), queue=queue_name)
    reasons = []
    for raw in received(server_url, queue_name, 2):
        with pytest.raises(BadMessage) as refused:
            decode_delivery(raw)
        assert refused.value.hint
        reasons.append(str(refused.value))
    assert ["application/x-python-serialize" in reasons[0], "protocol 1" in reasons[1]] == [True] * 2


def test_a_link_of_celery_is_recognised(app: Any, server_url: str, queue_name: str) -> None:
    linked = app.signature("tasks.add", task_id="next")
    app.send_task("tasks.add", (1,), queue=queue_name, link=linked)
    (raw,) = received(server_url, queue_name, 1)
    origin = decode_delivery(raw).message.celery
    assert origin is not None
    assert (origin.canvas, origin.dependents) == (("callbacks",), ("next",))


def test_a_group_of_celery_without_a_chord_is_plain_tasks(app: Any, server_url: str, queue_name: str) -> None:
    celery.group(app.signature("tasks.add", (n,), queue=queue_name) for n in range(3)).apply_async()
    assert sorted(decode_delivery(raw).message.args for raw in received(server_url, queue_name, 3)) == [
        (0,),
        (1,),
        (2,),
    ]


@pytest.mark.parametrize("text", ["", 'é"' * 1000], ids=["small", "large"])
def test_a_task_that_we_sent_is_executed_by_celery(app: Any, server_url: str, queue_name: str, text: str) -> None:
    # given a task of ours in a queue that Celery declares and consumes in its own way
    from celery.worker.request import Request

    producer = TaskProducer(lambda: open_connection(server_url))
    expires = SYSTEM.utcnow() + timedelta(hours=1)
    sent = TaskMessage(
        "stem-1", "tasks.add", (1, 2), {"k": 3, "text": text}, queue=queue_name, attempt=3, expires_at=expires, time_limit=30.0,
        soft_time_limit=20.0, headers={"trace": "x"}, enqueued_at=SYSTEM.utcnow(), max_retries=4,
    )  # fmt: skip
    producer.send(sent)
    producer.close()
    got: list[Any] = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = app.amqp.queues[
            queue_name
        ]  # as task_create_missing_queues makes it: exchange and routing key of its name
        consumer = app.amqp.TaskConsumer(channel, queues=[queue], on_message=got.append)
        with consumer:
            deadline = SYSTEM.monotonic() + 10
            while not got:
                assert SYSTEM.monotonic() < deadline
                pump(connection, 0.2)
        # when Celery's worker takes it on and runs it
        request = Request(got[0], app=app, task=app.tasks["tasks.add"], connection_errors=connection.connection_errors)
        assert (request.id, request.name, request.time_limits, request.revoked()) == (
            "stem-1",
            "tasks.add",
            [30.0, 20.0],
            False,
        )
        assert request.expires == expires
        request.execute()
    # then it has run with its arguments, and knows which attempt it is
    result = app.AsyncResult("stem-1")
    assert (result.state, result.result[:2]) == ("SUCCESS", [6, 2])
    # and the sender's headers, where a Celery task looks for them
    assert result.result[2]["trace"] == "x"


def test_g18_a_next_attempt_that_we_sent_is_executed_by_celery_for_a_client_that_waits_by_rpc(
    server_url: str, queue_name: str
) -> None:
    from celery.worker.request import Request

    # given a Celery client that waits for the answer in a queue of its own
    client = celery.Celery("client", broker=server_url, backend="rpc://", set_as_current=False)
    waiting = client.send_task("tasks.who", (1,), queue=queue_name, headers={"tenant": "acme"}, priority=3)
    # when the first attempt fails in a worker of ours
    (raw,) = received(server_url, queue_name)
    first = decode_delivery(raw, queue=queue_name).message
    resender = open_resender(open_connection(server_url), Settings.from_env({}, broker=server_url))
    resender.send(replace(first, attempt=2, eta=SYSTEM.utcnow()))
    resender.close()
    # and the second runs in a Celery worker
    worker = celery.Celery("worker", broker=server_url, backend="rpc://", set_as_current=False)

    @worker.task(name="tasks.who", bind=True, shared=False)  # type: ignore[untyped-decorator]
    def who(self: Any, value: int) -> list[Any]:
        return [value, self.request.retries, self.request.headers["tenant"], self.request.delivery_info["priority"]]

    (again,) = received(server_url, queue_name)
    Request(again, app=worker, task=worker.tasks["tasks.who"]).execute()
    # then the client hears of it
    assert waiting.get(timeout=30) == [1, 1, "acme", 3]
    for made in (client, worker):
        made.close()
    kombu.pools.reset()


def test_celery_and_stem_declare_the_same_queue_without_a_quarrel(app: Any, server_url: str, queue_name: str) -> None:
    for max_priority in (None, 10):
        name = f"{queue_name}-{max_priority}"
        # Celery first, then we; and both go on declaring, consuming and sending
        app.conf.task_queue_max_priority = max_priority
        app.amqp.flush_routes()
        app.amqp.__dict__.pop("queues", None)
        app.send_task("tasks.add", (1,), queue=name)
        producer = TaskProducer(lambda: open_connection(server_url))
        producer.send(TaskMessage("s1", "tasks.add", queue=name))
        app.send_task("tasks.add", (2,), queue=name)
        producer.close()
        assert len(received(server_url, name, 3)) == 3


def test_celery_declares_after_us_without_a_quarrel(app: Any, server_url: str, queue_name: str) -> None:
    connection = connected(server_url)
    declared_task_queue(connection, queue_name)
    Inbox(connection, names.task_queue(queue_name))
    app.send_task("tasks.add", (1,), queue=queue_name)
    connection.release()
    assert len(received(server_url, queue_name)) == 1
