"""A round of Celery's own revoke from a client without the line, the revoke store away; more are ``make reliability``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.fleet import Servers
from tests.faults.native import REVOKED, native
from tests.faults.targets import PATIENCE, lab
from tests.servers.redis import RedisServer


@pytest.fixture
def servers(redis_server: RedisServer) -> Iterator[Servers]:
    made = Servers({"redis": redis_server})
    yield made
    made.close()


@pytest.mark.timeout(400)
def test_g1_what_a_plain_celery_client_revoked_while_the_store_was_away_does_not_run(servers: Servers) -> None:
    with lab(servers, "Redis") as here:
        target, facts = native("away", here, "Redis", REVOKED, PATIENCE / 2)
    assert (target.bad, target.trials) == (0, REVOKED)
    assert list(facts.values()) == [1]
