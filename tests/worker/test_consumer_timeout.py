"""RabbitMQ takes a message away from a worker that holds it for longer than its consumer_timeout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from stem_kombu.agent.start_warnings import warn_of_places
from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from stem_kombu.worker.worker import Worker
from tests.servers.rabbitmq import RabbitServer
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker

on_amqp = pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)


@pytest.fixture
def impatient(rabbitmq_server: RabbitServer) -> Iterator[None]:
    """Its timeout is one second, of which each new channel looks each quarter of a second."""
    rabbitmq_server.start()
    usual = rabbitmq_server.evaluate("application:get_env(rabbit, consumer_timeout)")
    rabbitmq_server.evaluate("application:set_env(rabbit, consumer_timeout, 1000)")
    rabbitmq_server.evaluate("application:set_env(rabbit, channel_tick_interval, 250)")
    yield
    rabbitmq_server.evaluate(f"application:set_env(rabbit, consumer_timeout, element(2, {usual}))")
    rabbitmq_server.evaluate("application:set_env(rabbit, channel_tick_interval, 60000)")


@on_amqp
def test_g18_a_worker_that_is_cut_off_names_the_setting_and_its_task_ends_once(
    impatient: None, app: Stem, make_worker: WorkerMaker, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    make_worker("w")
    result = app.send_task("inline.gated", [gate.path])
    gate.wait_reached()

    def told() -> list[str]:
        return [one.getMessage() for one in caplog.records if "consumer_timeout" in one.getMessage()]

    eventually(told, 60, lambda: caplog.text)
    assert "held a message for longer than the broker's consumer_timeout" in told()[0]
    gate.open()
    assert result.get(timeout=60) == "opened"


@pytest.mark.parametrize(
    ("broker_url", "limit", "warned"),
    [("amqp", 1801.0, True), ("amqp", 1799.0, False), ("amqp", None, False), ("redis", 1801.0, False)],
    indirect=["broker_url"],
)
def test_a_time_limit_above_it_is_said_on_rabbitmq_alone(
    broker_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: float | None, warned: bool
) -> None:
    app = Stem("long")
    app.configure(Settings.from_env({}, broker=broker_url, backend=f"sqlite:///{tmp_path / 'state.db'}"))

    @app.task("report", time_limit=limit)
    def report(ctx: TaskContext) -> None:
        pass

    def told() -> list[str]:
        return [one.getMessage() for one in caplog.records if "consumer_timeout" in one.getMessage()]

    with Worker(app, name="w") as worker:
        own = worker.resources
        places = own.transport, own.template, own.store, app.backend
        warn_of_places(worker.identity, *places, app.registry).join(60)
    assert len(told()) == warned, caplog.text
    assert all("report" in one and "30 minutes" in one for one in told())
    app.close()
