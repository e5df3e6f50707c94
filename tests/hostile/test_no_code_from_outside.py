"""Whatever reaches a worker over its broker: nothing of it is executed, memory stays bounded, and the worker answers (G17)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu.pools
import pytest
from celery import Celery
from kombu import Connection, Exchange, Producer

from stem_kombu.drivers.redis import RedisDatabase
from stem_kombu.transports import names
from stem_kombu.transports.connections import connect, open_connection
from tests.cli.program import Program, WorkerProcess
from tests.hostile.bombs import ENVELOPES, MIB, Bomb, bombs
from tests.waiting import eventually

#: What a worker may grow by while all of that comes in. One packed bomb alone would be 384 MiB.
MOST_GROWTH = 256 * MIB


@pytest.fixture(params=["redis", "amqp"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    url = request.getfixturevalue(f"{request.param}_url")
    backend = url if request.param == "redis" else f"sqlite://{tmp_path / 'state.db'}"
    program = Program(tmp_path, {"STEM_BROKER_URL": url, "STEM_RESULT_BACKEND_URL": backend})
    yield program
    program.close()


def peak_memory(worker: WorkerProcess) -> int:
    """The most bytes that the process has ever held."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def stats(program: Program) -> Any:
    (reply,) = program.ok("worker", "stats", "--json", "--timeout", "30s").json["replies"]
    return reply["payload"]


def test_g17_no_message_makes_a_worker_run_code_grow_or_fall_silent(program: Program, tmp_path: Path) -> None:
    canary = tmp_path / "executed"
    worker = program.start_worker("--name", "alpha@here", "-c", "1", "--log-level", "debug")
    stats(program)  # what is imported late is part of the worker
    before = peak_memory(worker)
    sent = list(bombs(canary))
    with connect(open_connection(program.variables["STEM_BROKER_URL"])) as connection:
        for bomb in sent:
            # To tasks, to this worker's inbox, to all workers, and to all of Celery's workers.
            headers = {"task": "shop.add", "id": str(uuid.uuid4()), "lang": "py", **bomb.headers}
            send(connection, bomb, "", "default", headers)
            send(connection, bomb, "", names.inbox_name("stem", "alpha@here"), bomb.headers)
            send(connection, bomb, names.broadcast_exchange("stem"), "", bomb.headers)
            send(connection, bomb, Exchange("celery.pidbox", type="fanout"), "", bomb.headers)
    unreadable = len(sent)
    if program.variables["STEM_BROKER_URL"].startswith("redis"):
        unreadable += put_envelopes(program.variables["STEM_BROKER_URL"])
    # then: each is counted, and none was taken for a task
    eventually(lambda: sum(stats(program)["dropped"]["tasks"].values()) == unreadable, 60, lambda: worker.err[-3000:])
    assert stats(program)["totals"]["received"] == stats(program)["totals"]["started"] == 0
    # and the worker answers on all of these ways
    assert program.ok("worker", "ping", "--json").json["complete"]
    assert program.ok("worker", "ping", "-w", "alpha@here", "--json").json["complete"]
    assert program.ended(program.send("shop.add", a=1))["state"] == "succeeded"
    assert celery_ping(program.variables["STEM_BROKER_URL"]) == {"alpha@here": {"ok": "pong"}}
    assert not canary.exists()
    growth = peak_memory(worker) - before
    assert growth < MOST_GROWTH, growth
    assert worker.process.poll() is None


def send(connection: Connection, bomb: Bomb, exchange: Any, key: str, headers: dict[str, Any]) -> None:
    Producer(connection.default_channel, auto_declare=False).publish(
        bomb.body,
        exchange=exchange,
        routing_key=key,
        content_type=bomb.content_type,
        content_encoding=bomb.encoding,
        headers=headers,
        retry=False,
    )


def put_envelopes(url: str) -> int:
    """Put what is no message where Kombu puts its own; how many are in the queue of tasks."""
    database, number = RedisDatabase(url), url.rpartition("/")[2]

    def put(client: Any) -> None:
        for envelope in ENVELOPES:
            client.lpush("default", envelope)
            client.lpush(names.inbox_name("stem", "alpha@here"), envelope)
            client.publish(f"/{number}.{names.broadcast_exchange('stem').name}", envelope)
            client.publish(f"/{number}.celery.pidbox", envelope)

    database.run(put)
    database.close()
    return len(ENVELOPES)


def celery_ping(url: str) -> Any:
    app = Celery("client", broker=url, set_as_current=False)
    try:
        return eventually(lambda: app.control.inspect(timeout=5, limit=1).ping(), 30)
    finally:
        app.close()
        kombu.pools.reset()  # see tests/celery/conftest.py


def test_a_celery_client_may_still_send_compressed_tasks(program: Program) -> None:
    program.start_worker("-c", "1")
    app = Celery("client", broker=program.variables["STEM_BROKER_URL"], set_as_current=False)
    try:
        for compression in ("zlib", "bzip2", "lzma"):
            task = app.send_task("shop.add", (1,), {"b": 2}, queue="default", compression=compression)
            assert program.ended(task.id)["state"] == "succeeded"
    finally:
        app.close()
        kombu.pools.reset()
