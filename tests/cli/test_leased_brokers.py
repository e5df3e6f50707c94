"""Workers on SQLAlchemy and the filesystem that are killed: their tasks run elsewhere, once more each, whatever ran or waited."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stem_kombu import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tests.transports.leased_brokers import KINDS, LeasedBroker, leased_broker
from tests.waiting import consistently, eventually

LEASE = 2.0


@dataclass(frozen=True)
class Fleet:
    """A broker, workers on it, and an application in this process that sends tasks."""

    broker: LeasedBroker
    stem: Program
    app: Stem

    def waiting(self) -> int | None:
        depths = self.broker.transport().depths()
        try:
            return depths.of(["default"])["default"]
        finally:
            depths.close()


@pytest.fixture(params=KINDS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    broker = leased_broker(request, request.param, tmp_path, LEASE)
    variables = {
        **broker.variables,
        "STEM_RESULT_BACKEND_URL": f"sqlite://{tmp_path / 'state.db'}",
        "STEM_REVOKE_STORE_URL": f"sqlite://{tmp_path / 'state.db'}",
        "STEM_HEARTBEAT_INTERVAL": "1s",
    }
    stem = Program(tmp_path, variables)
    app = Stem("shop", settings=Settings.from_env(variables))
    yield Fleet(broker, stem, app)
    app.close()
    stem.close()


def test_health_says_how_long_what_a_killed_worker_held_stays_away(fleet: Fleet) -> None:
    assert "what a killed worker held is redelivered once its lease of 2s is over" in fleet.stem.ok("health").out


@pytest.mark.timeout(240)
def test_g18_what_a_killed_worker_ran_and_what_waited_at_it_run_at_another_once(fleet: Fleet, tmp_path: Path) -> None:
    gate, stem, app = Gate(tmp_path / "gate"), fleet.stem, fleet.app
    doomed = stem.start_worker("--name", "doomed", "-c", "1", "--prefetch-multiplier", "4")
    running = app.send_task("shop.render", kwargs={"gate": gate.path})
    gate.wait_reached()
    waiting = [app.send_task("shop.stamp", [number, str(tmp_path)]) for number in range(3)]
    eventually(lambda: fleet.waiting() == 0, 60)

    doomed.signal(signal.SIGKILL)
    doomed.wait_code()
    gate.open()
    survivor = stem.start_worker("--name", "survivor", "-c", "1")

    for result in (running, *waiting):
        record = result.wait(timeout=60)
        assert record is not None
        assert (record.state.value, record.worker, record.attempt) == ("succeeded", "survivor", 1)
    assert sorted((tmp_path / "stamps").read_text().split()) == ["0", "1", "2"]
    assert survivor.terminate() == 0
    assert fleet.waiting() == 0


@pytest.mark.parametrize("fleet", ["sqla_postgres"], indirect=True)
@pytest.mark.parametrize("away", [1.5 * LEASE, pytest.param(60.0, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
def test_g18_a_broker_that_is_away_for_longer_than_a_lease_doubles_nothing(
    fleet: Fleet, tmp_path: Path, postgres_server: PostgresServer, away: float
) -> None:
    gate = Gate(tmp_path / "gate")
    for name in ("one", "other"):
        fleet.stem.start_worker("--name", name, "-c", "1")
    result = fleet.app.send_task("shop.render", kwargs={"gate": gate.path, "patience": 200.0})
    starter = gate.wait_reached()
    postgres_server.stop()
    back_at = SYSTEM.monotonic() + away
    eventually(lambda: SYSTEM.monotonic() > back_at, 2 * away)
    postgres_server.start()
    # A worker that took the other one for dead would have it after one more lease, and reach the gate in another process.
    consistently(lambda: gate.reached() == starter, 2.5 * LEASE)
    gate.open()
    record = result.wait(timeout=60)
    assert record is not None and (record.state.value, record.attempt) == ("succeeded", 1)
    assert gate.reached() == starter


def test_a_database_without_its_driver_is_refused_at_once_with_the_name_of_the_package(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    assert importlib.util.find_spec("asyncmy") is None
    stem = Program(tmp_path, {"STEM_BROKER_URL": "sqla+mysql+asyncmy://shop:sekret@localhost/shop"})
    started = SYSTEM.monotonic()
    done = stem.run("task", "send", "shop.add")
    assert done.code == 2
    assert "STEM_BROKER_URL" in done.err and "pip install" in done.err and "sekret" not in done.err
    assert SYSTEM.monotonic() - started < 20


def test_a_worker_refuses_a_redis_cluster_before_it_waits_for_anything(
    tmp_path: Path, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis(cluster=True)
    stem = Program(tmp_path, {"STEM_BROKER_URL": server.url, "STEM_REVOKE_STORE_URL": f"sqlite://{tmp_path / 's.db'}"})
    refused = stem.begin_worker("--name", "alpha", "-c", "1")
    assert refused.wait_code() == 2
    assert "is a node of a Redis Cluster, which Kombu and Stem can't use" in refused.err
    assert "give a plain Redis, or one behind Sentinel" in refused.err
    stem.close()
