"""A few kills under bursts, on each broker, alone and beside Celery; thirty are ``make reliability``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.outcome import TaskRecord, TaskState
from tests.faults.bursts import Broker, Judge, missing
from tests.faults.fleet import Servers
from tests.faults.targets import BROKERS, PATIENCE, lab
from tests.servers.postgres import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer

KILLS = 2


@pytest.fixture(scope="module")
def servers(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, postgres_server: PostgresServer
) -> Iterator[Servers]:
    made = Servers({"redis": redis_server, "rabbitmq": rabbitmq_server, "postgres": postgres_server})
    yield made
    made.close()


@pytest.mark.timeout(400)  # it waits for as long as something comes, and a machine may be busy
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside Celery"])
@pytest.mark.parametrize("broker", BROKERS)
def test_g18_nothing_is_missing_after_kills_under_bursts(broker: str, beside: bool, servers: Servers) -> None:
    with lab(servers, broker) as here:
        target, facts = missing(here, broker, KILLS, PATIENCE / 4, beside=beside)
    print(facts)
    assert (target.bad, target.trials) == (0, KILLS * 60)


@pytest.mark.parametrize("broker", BROKERS)
def test_the_judge_of_bursts_names_what_is_missing_or_ended_otherwise(broker: str, servers: Servers) -> None:
    with lab(servers, broker) as here:
        client, backend = Broker(here.urls["broker"]), here.app.backend
        assert backend is not None
        now = SYSTEM.utcnow()
        client.send("bursts", correlation_id="lies-there", body="order", content_type="text/plain")
        backend.record([TaskRecord("said-only", "burst.inline", TaskState.SUCCEEDED, ended_at=now)])
        backend.record([TaskRecord("in-work", "burst.inline", TaskState.RUNNING, started_at=now)])
        judge = Judge(here, client, None)
        assert judge.rest({"never-sent", "in-work", "said-only"}, judge.ended, 0.2) == {"never-sent", "in-work"}
        assert judge.rest({"never-sent", "said-only"}, judge.refused, 0.2) == {"never-sent", "said-only"}
        assert judge.rest({"never-sent", "lies-there"}, judge.kept, 0.2) == {"never-sent", "lies-there"}
        assert judge.wrong({"never-sent", "in-work", "said-only"}) == {"said-only"}
        client.close()
