"""Unmodified Celery clients that send to Stem workers: results, states, groups, and canvases that are refused."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult, GroupResult

from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.cli.program import Program
from tests.waiting import eventually


@pytest.fixture
def stem(shop: Shop, tmp_path: Path) -> Iterator[Program]:
    """One Stem worker that consumes the queue to which Celery's clients send."""
    program = Program(tmp_path, {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": shop.backend})
    program.start_worker("--name", "stem-1@here", "-c", "2", "-Q", "stem")
    yield program
    program.close()


def send(shop: Shop, name: str, *args: object, **options: object) -> AsyncResult:
    result: AsyncResult = shop.send(name, *args, queue="stem", **options)
    return result


def test_a_celery_client_gets_what_a_stem_worker_returned(shop: Shop, stem: Program) -> None:
    result = send(shop, "shop.add", 40, kwargs={"b": 2})
    assert result.get(timeout=30) == 42
    assert (result.state, result.successful(), result.date_done is not None) == ("SUCCESS", True, True)
    # A client that comes later reads the key.
    assert AsyncResult(result.id, app=shop.app).get(timeout=5) == 42


def test_a_failure_is_raised_at_the_client_with_its_traceback(shop: Shop, stem: Program) -> None:
    result = send(shop, "shop.fails")
    with pytest.raises(ValueError, match="two"):
        result.get(timeout=30)
    assert result.state == "FAILURE"
    assert "ValueError: two" in result.traceback


def test_a_stopped_task_is_revoked_to_the_client_and_says_why(shop: Shop, stem: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    result = send(shop, "shop.render", kwargs={"gate": str(gate.path)})
    gate.wait_reached()
    eventually(lambda: result.state == "STARTED")
    stem.ok("worker", "revoke", "-t", result.id, "--terminate", "--reason", "wrong colours")
    with pytest.raises(TaskRevokedError, match="wrong colours"):
        result.get(timeout=30)
    assert result.state == "REVOKED"


def test_a_task_that_is_revoked_or_expires_before_it_starts_is_revoked_to_the_client(shop: Shop, stem: Program) -> None:
    task_id = str(uuid.uuid4())
    stem.ok("worker", "revoke", "-t", task_id, "--reason", "not wanted")
    with pytest.raises(TaskRevokedError, match="not wanted"):
        send(shop, "shop.add", 1, task_id=task_id).get(timeout=30)
    late = send(shop, "shop.add", 1, countdown=0.2, expires=0.1)
    with pytest.raises(TaskRevokedError, match="expired"):
        late.get(timeout=30)


def test_the_results_of_a_group_come_together(shop: Shop, stem: Program) -> None:
    tasks = group(signature("shop.add", (n,), {"b": 1}, app=shop.app, queue="stem") for n in range(5))
    results = tasks.apply_async()
    assert isinstance(results, GroupResult)
    assert results.get(timeout=30) == [1, 2, 3, 4, 5]


def test_every_part_of_a_message_is_honoured(shop: Shop, stem: Program, tmp_path: Path) -> None:
    text = "Grüße, 任务 \U0001f680"
    # what it is called with, which attempt it is, and the sender's own headers
    echoed = send(shop, "shop.echo", 1, text, kwargs={"k": [None, {"x": 1.5}]}, retries=2, headers={"tenant": "acme"})
    assert echoed.get(timeout=30) == [[1, text], {"k": [None, {"x": 1.5}]}, 3, {"tenant": "acme"}]
    for compression in ("gzip", "bzip2", "zlib"):
        long = text * 10_000
        assert send(shop, "shop.echo", long, compression=compression).get(timeout=30)[0] == [long]
    # times
    sent_at = datetime.now(timezone.utc)
    for when in ({"countdown": 0.7}, {"eta": sent_at + timedelta(seconds=0.7)}):
        later = send(shop, "shop.echo", **when)
        later.get(timeout=30)
        assert later.date_done - sent_at.replace(tzinfo=later.date_done.tzinfo) >= timedelta(seconds=0.7)
    # limits: of what never checkpoints, and of what does
    for name, limit in (("hard", {"time_limit": 0.3}), ("soft", {"soft_time_limit": 0.3})):
        gate = Gate(tmp_path / name)
        limited = send(shop, "shop.render", kwargs={"gate": str(gate.path), "deaf": name == "hard"}, **limit)
        with pytest.raises(Exception, match="limit") as told:
            limited.get(timeout=30)
        assert type(told.value).__name__ == ("TimeLimitExceeded" if name == "hard" else "SoftTimeLimitExceeded")


def test_a_client_revokes_what_a_stem_worker_runs_and_what_it_has_not_seen(
    shop: Shop, stem: Program, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    running = send(shop, "shop.render", kwargs={"gate": str(gate.path)})
    gate.wait_reached()
    running.revoke(terminate=True)
    unseen = str(uuid.uuid4())
    shop.app.control.revoke(unseen, reply=True, timeout=10, limit=1)
    for result in (running, send(shop, "shop.add", 1, task_id=unseen)):
        with pytest.raises(TaskRevokedError, match="revoked through Celery"):
            result.get(timeout=30)


def slots_of(program: Program) -> list[dict[str, Any]]:
    (reply,) = program.ok("worker", "stats", "--json").json["replies"]
    return list(reply["payload"]["pool"])


@pytest.mark.parametrize("shop", ["redis", "amqp"], indirect=True)
def test_priorities_of_celery_are_kept(shop: Shop, tmp_path: Path) -> None:
    # given tasks that wait; on Redis 0 is the most urgent, on RabbitMQ the highest, in a queue that has priorities
    shop.app.conf.task_queue_max_priority = 10
    urgent = [9, 6, 3, 0] if shop.broker.startswith("amqp") else [0, 3, 6, 9]
    mixed = [urgent[n] for n in (3, 1, 2, 0, 2, 3, 0, 1)]
    with shop.app.connection_for_write() as connection, connection.channel() as channel:
        shop.app.amqp.queues["stem"](channel).declare()  # as Celery does: with priorities
    program = Program(
        tmp_path,
        {
            "STEM_BROKER_URL": shop.broker,
            "STEM_RESULT_BACKEND_URL": shop.backend,
            "STEM_REVOKE_STORE_URL": f"sqlite://{tmp_path / 'store.db'}",
        },
    )
    try:
        # that wait for a worker with one slot, whose child is ready: one that takes long to come looks on, and gives back
        program.start_worker("--name", "stem-1@here", "-c", "1", "-Q", "stem")
        program.ok("queue", "pause", "stem", "--yes")
        eventually(lambda: [one["state"] for one in slots_of(program)] == ["idle"], 60)
        results = [
            send(shop, "shop.stamp", n, kwargs={"folder": str(tmp_path)}, priority=p) for n, p in enumerate(mixed)
        ]
        # (Celery does not wait until RabbitMQ has them)
        with shop.app.connection_for_read() as connection, connection.channel() as channel:
            eventually(lambda: channel.queue_declare("stem", passive=True).message_count == len(mixed), 30)
        # when it may take them
        program.ok("queue", "resume", "stem", "--yes")
        [result.get(timeout=30) for result in results]
    finally:
        program.close()
    begun = [mixed[int(n)] for n in (tmp_path / "stamps").read_text().split()]
    assert begun == sorted(mixed, key=urgent.index)


@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_g17_what_is_not_json_is_refused_and_whoever_waits_is_told(shop: Shop, stem: Program) -> None:
    pickled = send(shop, "shop.add", 1, serializer="pickle")
    with pytest.raises(Exception, match="not 'application/json'; set task_serializer = 'json'") as told:
        pickled.get(timeout=30)
    assert type(told.value).__name__ == "ForeignMessage"
    shown = stem.ok("task", "show", pickled.id, "--json").json
    assert (shown["state"], shown["error"]["type"]) == ("failed", "ForeignMessage")
    old = Celery("old", broker=shop.broker, backend=shop.backend, set_as_current=False)
    old.conf.task_protocol = 1
    with pytest.raises(Exception, match="protocol 1; set task_protocol = 2"):
        old.send_task("shop.add", [1], queue="stem").get(timeout=30)
    old.close()
    assert send(shop, "shop.add", 1).get(timeout=30) == 1


CANVASES: dict[str, Callable[[Shop], AsyncResult]] = {
    "chain": lambda shop: chain(part(shop, 1), part(shop, 2)).apply_async(),
    "chord": lambda shop: chord([part(shop, 1), part(shop, 2)], part(shop, 3)).apply_async(),
    "callbacks": lambda shop: part(shop, 1).apply_async(link=part(shop, 2)),
    "errbacks": lambda shop: part(shop, 1).apply_async(link_error=part(shop, 2)),
}


def part(shop: Shop, value: int) -> Any:
    return signature("shop.add", (value,), app=shop.app, queue="stem")


@pytest.mark.parametrize("kind", CANVASES)
@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_g17_a_canvas_is_refused_before_it_runs_and_whoever_waits_is_told(shop: Shop, stem: Program, kind: str) -> None:
    result = CANVASES[kind](shop)
    # Of a chain and a chord, that is the last task, which is never sent.
    with pytest.raises(Exception, match=f"sent with a canvas .{kind}") as told:
        result.get(timeout=30)
    assert type(told.value).__name__ == "UnsupportedCanvas"
    first = result.parent if kind == "chain" else result
    assert first is not None
    for each in {first.id, result.id} if kind != "chord" else {result.id}:
        shown = stem.ok("task", "show", each, "--json").json
        assert (shown["name"], shown["state"], shown["error"]["type"]) == ("shop.add", "failed", "UnsupportedCanvas")


@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_g18_who_waits_for_a_task_that_cannot_be_read_is_told(shop: Shop, stem: Program) -> None:
    with shop.app.connection_for_write() as connection:
        producer = connection.Producer(auto_declare=False)
        headers = {"task": "shop.add", "id": "unread", "root_id": "unread", "retries": 0}
        body = '[[{"__type__": "shape", "__value__": 1}], {}, {}]'
        producer.publish(
            body, routing_key="stem", headers=headers, content_type="application/json", content_encoding="utf-8"
        )
    with pytest.raises(Exception, match="can't be read"):
        AsyncResult("unread", app=shop.app).get(timeout=30)
    shown = stem.ok("task", "show", "unread", "--json").json
    assert (shown["state"], shown["error"]["type"]) == ("failed", "UnreadableTask")


@pytest.mark.parametrize("shop", ["redis"], indirect=True)
def test_a_result_that_is_ignored_is_not_written(shop: Shop, stem: Program) -> None:
    quiet = send(shop, "shop.add", 1, ignore_result=True)
    eventually(lambda: stem.run("task", "show", quiet.id, "--json").json.get("state") == "succeeded")
    assert AsyncResult(quiet.id, app=shop.app).state == "PENDING"


@pytest.mark.parametrize("shop", ["amqp"], indirect=True)
def test_results_for_celery_may_lie_elsewhere_than_those_of_stem(shop: Shop, tmp_path: Path) -> None:
    state = f"sqlite:///{tmp_path}/state.db"
    program = Program(
        tmp_path,
        {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": state, "STEM_CELERY_RESULT_URL": shop.backend},
    )
    try:
        program.start_worker("--name", "stem-2@here", "-c", "1", "-Q", "stem")
        assert send(shop, "shop.add", 1).get(timeout=30) is not None
    finally:
        program.close()
