"""A short schedule of faults on every stack, over real processes; the long one is ``make soak SECONDS=…``.

The seeds are the same each time, so that a change is judged by what it changed; ``STEM_TEST_SEED`` gives others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.fleet import STACKS, Servers
from tests.faults.schedule import run
from tests.servers.postgres import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer

FIRST = int(os.environ.get("STEM_TEST_SEED", "5100"))


@pytest.fixture(scope="module")
def servers(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, postgres_server: PostgresServer
) -> Iterator[Servers]:
    made = Servers({"redis": redis_server, "rabbitmq": rabbitmq_server, "postgres": postgres_server})
    yield made
    made.close()


@pytest.mark.slow  # and what the simulation in `make test` looks for is looked for here with real processes
@pytest.mark.timeout(400)  # a schedule waits for what is slow, and a machine may be busy; what is stuck it tells itself
@pytest.mark.parametrize("stack", STACKS)
def test_every_promise_holds_under_a_random_schedule_of_faults(stack: str, servers: Servers) -> None:
    seed = FIRST + list(STACKS).index(stack)
    result = run(servers, seed, stack=stack, steps=10)
    print(result)
    assert not result.failed, str(result)
    assert result.counts.tasks_sent > 0
