"""One prefix for every key at Redis, and the options by which Celery tunes its queues there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.client import ControlClient
from stem_kombu.outcome import TaskState
from stem_kombu.settings import Settings
from stem_kombu.worker.worker import Worker
from tests.servers.redis import RedisServer
from tests.waiting import eventually


class Team:
    """An application with a worker of its own."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.ran: list[Any] = []
        self.app = Stem("team")
        self.app.configure(
            Settings.from_env({}, broker=url, sync_interval=0.3, heartbeat_interval=0.5, default_queue="q", **settings)
        )
        self.app.task("work")(lambda ctx, number: self.ran.append(number))
        self.worker = Worker(self.app, name="w", inline_slots=1)
        self.worker.start()
        self.control = ControlClient(self.app)

    def close(self) -> None:
        self.control.close()
        self.worker.stop(0.0)
        self.app.close()


@pytest.fixture
def teams(redis_url: str) -> Iterator[list[Team]]:
    made = [
        Team(redis_url, broker_options={"global_keyprefix": prefix}, backend=redis_url) for prefix in ("shop:", "mail:")
    ]
    yield made
    for team in made:
        team.close()


def test_two_teams_that_are_kept_apart_by_a_prefix_share_nothing(redis_url: str, teams: list[Team]) -> None:
    shop, mail = teams
    # given that both workers have the same name, queue and namespace
    for team in teams:
        report = team.control.ping()
        assert [reply.worker for reply in report.replies] == ["w"] and report.complete
    sent = shop.app.send_task("work", (1,), task_id="t1")
    eventually(lambda: sent.state is TaskState.SUCCEEDED)
    assert (shop.ran, mail.ran) == ([1], [])
    assert mail.app.result("t1").state is None
    # when one revokes
    shop.control.revoke(["t2"])
    mail.app.send_task("work", (2,), task_id="t2")
    shop.app.send_task("work", (2,), task_id="t2")
    eventually(lambda: mail.app.result("t2").state is TaskState.SUCCEEDED)
    eventually(lambda: shop.app.result("t2").state is TaskState.CANCELLED)
    # then every key has one of the prefixes, while both work and after one of them was killed
    with redis.Redis.from_url(redis_url) as server:
        keys = {key.decode() for key in server.keys("*")}
        channels = {channel.decode() for channel in server.pubsub_channels("*")}
    assert {key for key in keys if not key.startswith(("shop:", "mail:"))} == set()
    number = redis_url.rpartition("/")[2]
    assert {
        channel for channel in channels if f"/{number}." in channel and not channel.startswith(("shop:", "mail:"))
    } == set()
    assert any("control:roster" in key for key in keys) and any("stem:task" in key for key in keys)


PRIORITIES: dict[str, Any] = {
    "priority_steps": list(range(10)), "sep": ":", "queue_order_strategy": "priority", "visibility_timeout": 60,
}  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        PRIORITIES,
        {**PRIORITIES, "queue_order_strategy": "sorted", "sep": "-"},
        {"priority_steps": [0, 255], "global_keyprefix": "celery:"},
        {"priority_steps": [5]},
    ],
    ids=lambda options: str(len(options)),
)
def test_messages_of_every_priority_are_worked_most_urgent_first(redis_url: str, options: dict[str, Any]) -> None:
    client = Celery("p", broker=redis_url)
    client.conf.broker_transport_options = options
    for number in range(30):
        client.send_task("work", args=(number,), priority=number % 10, queue="q", ignore_result=True)
    client.close()
    team = Team(redis_url, broker_options=options, backend="memory://")
    try:
        eventually(lambda: len(team.ran) == 30)
        if len(options["priority_steps"]) == 10:
            assert [number % 10 for number in team.ran] == sorted(number % 10 for number in range(30))
        sent = team.app.send_task("work", (99,))
        eventually(lambda: sent.state is TaskState.SUCCEEDED)
    finally:
        team.close()


def test_lists_that_look_like_priorities_and_are_not_read_are_named(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(redis_url) as server:
        for key in ("q:1", "q\x06\x165", "q:200", "q-3", "other:1", "q:x"):
            server.lpush(key, "{}")
        server.set("q:4", "no list")
    team = Team(redis_url, backend="memory://")
    try:
        eventually(lambda: len([r for r in caplog.records if "looks like a priority" in r.getMessage()]) >= 4)
        named = [r.getMessage() for r in caplog.records if "looks like a priority" in r.getMessage()]
        assert sorted(text.split("'")[1] for text in named) == ["q-3", "q:1", "q:200", "q\\x06\\x165"]
        assert all("priority_steps" in text and "queue 'q'" in text for text in named)
    finally:
        team.close()


@pytest.mark.parametrize("queues", [1, 60])
def test_an_idle_worker_keeps_few_connections_and_asks_little(
    start_redis: Callable[..., RedisServer], queues: int
) -> None:
    server = start_redis()
    names = tuple(f"q{number}" for number in range(queues))
    app = Stem("idle")
    app.configure(Settings.from_env({}, broker=server.url, backend=server.url, queues=names))
    app.task("work")(lambda ctx: None)
    with Worker(app, name="w", inline_slots=1), redis.Redis.from_url(server.url) as watching:

        def rate() -> float:
            before, began = watching.info("stats")["total_commands_processed"], SYSTEM.monotonic()
            eventually(lambda: SYSTEM.monotonic() - began >= 2.0, interval=0.5)
            return float(watching.info("stats")["total_commands_processed"] - before) / (SYSTEM.monotonic() - began)

        eventually(lambda: rate() < 50, 30)  # the first has the commands of its start in it
        assert eventually(lambda: len(watching.client_list()) - 1 <= 8)
    app.close()
