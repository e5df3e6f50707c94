"""A worker's whole life on a real Redis 6.2, the oldest server that is supported, on Redis 8 and on Valkey."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.control.client.client import ControlClient
from stem_kombu.outcome import TaskState
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from stem_kombu.transports.connections import open_connection
from stem_kombu.worker.worker import Worker
from tests.servers.redis import RedisServer
from tests.waiting import eventually
from tests.worker.conftest import WorkerProcess
from tests.worker.process import SHORT_LEASES


@pytest.fixture
def broker_url(other_redis: RedisServer) -> str:
    other_redis.start()
    return other_redis.new_database()


def test_each_server_is_the_one_that_its_name_says(other_redis: RedisServer, request: pytest.FixtureRequest) -> None:
    other_redis.start()
    with redis.Redis.from_url(other_redis.url) as server:
        found = server.info("server")
    name, _, version = request.node.callspec.params["other_redis"].partition(" ")
    assert found.get("server_name", "redis") == name.lower()
    assert found["redis_version"].startswith(version)


@pytest.fixture
def shop(broker_url: str) -> Iterator[Stem]:
    made = Stem("other-server")
    made.configure(
        Settings.from_env({}, broker=broker_url, backend=broker_url, sync_interval=0.3, heartbeat_interval=0.5)
    )

    @made.task("add")
    def add(ctx: TaskContext, left: int, right: int) -> int:
        return left + right

    @made.task("hang")
    def hang(ctx: TaskContext) -> None:
        while True:
            threading.Event().wait(0.02)
            ctx.check()

    @made.task("again", max_retries=2, retry_backoff=0.01)
    def again(ctx: TaskContext) -> int:
        if ctx.attempt < 2:
            raise ValueError("not yet")
        return ctx.attempt

    yield made
    made.close()


def test_start_tasks_ping_revoke_terminate_and_retry_on_each_redis(shop: Stem, broker_url: str) -> None:
    with Worker(shop, name="w", inline_slots=4), ControlClient(shop) as control:
        assert control.ping().complete
        sent = [shop.send_task("add", (number, 1)) for number in range(30)]
        eventually(lambda: all(one.state is TaskState.SUCCEEDED for one in sent), 30)
        assert control.inspect().complete and control.stats().complete
        control.revoke(["never"])
        never = shop.send_task("add", (1, 1), task_id="never")
        eventually(lambda: never.state is TaskState.CANCELLED, 20)
        hung = shop.send_task("hang")
        eventually(lambda: hung.state is TaskState.RUNNING, 20)
        control.revoke([hung.id], terminate=True)
        eventually(lambda: hung.state is TaskState.CANCELLED, 20)
        retried = shop.send_task("again")
        eventually(lambda: retried.state is TaskState.SUCCEEDED, 20)
    with Worker(shop, name="w", inline_slots=1):  # a second one finds nothing that keeps it from starting
        pass


def test_g18_what_a_killed_worker_held_runs_again_on_each_redis(
    app: Stem,
    spawn_worker: Callable[..., WorkerProcess],
    make_worker: Callable[..., Worker],
    broker_url: str,
    gate: Gate,
    mode: str,
) -> None:
    first = spawn_worker("first", short_leases=True)
    result = app.send_task(f"{mode}.gated", [gate.path])
    gate.wait_reached()
    first.kill()
    gate.open()
    make_worker("second", connection=open_connection(broker_url, options=SHORT_LEASES))
    assert result.get(timeout=60) == "opened"
