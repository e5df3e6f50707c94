"""How many connections a worker holds: what docs/scaling-playbook.md says of Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.control.client.client import ControlClient
from stem_kombu.worker.worker import Worker
from tests.servers.redis import RedisServer
from tests.waiting import eventually


@pytest.mark.parametrize("queues", [1, 60])
def test_an_idle_worker_holds_eight_connections_at_redis_and_a_ninth_after_stats_however_many_queues_it_consumes(
    start_redis: Callable[..., RedisServer], queues: int
) -> None:
    url = start_redis().url
    app = Stem("many", broker=url, backend=url)

    @app.task("idle")
    def idle(ctx: TaskContext) -> None:
        pass

    administrator = redis.Redis.from_url(url)
    mine = administrator.client_id()

    def held() -> list[str]:
        return [f"{one['id']} {one['cmd']}" for one in administrator.client_list() if int(one["id"]) != mine]

    with Worker(app, queues=[f"q{number}" for number in range(queues)], name="w"):
        # What a start needs goes again: it is the number that stays that counts.
        eventually(lambda: 0 < len(held()) <= 8, 60, lambda: repr(held()))
        with ControlClient(app) as control:
            (reply,) = control.stats(timeout=60).replies
            assert [each["depth"] for each in reply.payload["queues"].values()] == [0] * queues
        eventually(lambda: len(held()) <= 9, 60, lambda: repr(held()))
