"""The soak and the kills in small: what was there before is there after, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.servers.rabbitmq import RabbitServer
from tests.soak import killed, resources

pytestmark = pytest.mark.slow


@pytest.fixture
def rabbitmq(broker_url: str, request: pytest.FixtureRequest) -> RabbitServer | None:
    """The server, where the broker of the test is RabbitMQ."""
    if not broker_url.startswith("amqp"):
        return None
    server: RabbitServer = request.getfixturevalue("rabbitmq_server")
    return server


@pytest.mark.timeout(400)
@pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)
def test_g15_a_worker_holds_after_its_work_what_it_held_before(
    broker_url: str, rabbitmq: RabbitServer | None, tmp_path: Path
) -> None:
    figures = resources.run(
        broker_url, tmp_path, tasks=600, commands=80, rounds=2, warm_up=(100, 30), rabbitmq=rabbitmq
    )
    assert figures["left"] == []
    assert figures["errors_in_the_log"] == 0
    assert (figures["tasks"], figures["commands"]) == (600, 80)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("broker_url", ["embedded", "redis"], indirect=True)
def test_g15_clients_that_are_killed_leave_nothing(
    broker_url: str, rabbitmq: RabbitServer | None, tmp_path: Path
) -> None:
    figures: dict[str, Any] = killed.run(broker_url, tmp_path, kills=4, seed=1, expires=2.0, rabbitmq=rabbitmq)
    assert figures["left"] == []
    assert figures["held_at_the_end"] == figures["held_before"]
    assert figures["killed_while_connected"] == 2
