"""Fleets on brokers that can't fan out between processes: commands go through the revoke store, and make no queue."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import BroadcastUnsupported, ConfigurationError
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from stem_kombu.transports.base import Capabilities
from stem_kombu.transports.connections import broker_connection
from stem_kombu.transports.control_link import ControlLink
from stem_kombu.transports.generic.port import GenericTransport
from stem_kombu.transports.registry import open_transport
from stem_kombu.transports.store.choice import fleet_control_link, needs_no_broker, place_of_control, store_link
from tests.cli.program import Program
from tests.servers.pgbouncer import PgBouncerServer


@dataclass(frozen=True)
class Broker:
    """One that can't fan out; ``queues()`` are all that are there."""

    variables: dict[str, str]
    queues: Callable[[], Collection[str]]


@pytest.fixture
def sqla_sqlite(tmp_path: Path) -> Broker:
    pytest.importorskip("sqlalchemy")

    def queues() -> list[str]:
        with closing(sqlite3.connect(tmp_path / "kombu.db")) as database:
            return [name for (name,) in database.execute("SELECT name FROM kombu_queue")]

    return Broker({"STEM_BROKER_URL": f"sqla+sqlite:///{tmp_path / 'kombu.db'}"}, queues)


@pytest.fixture
def sqla_postgres(postgres_url: str) -> Broker:
    pytest.importorskip("sqlalchemy")

    def queues() -> list[str]:
        with closing(psycopg2.connect(postgres_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT name FROM kombu_queue")
            return [name for (name,) in cursor.fetchall()]

    return Broker({"STEM_BROKER_URL": f"sqla+{postgres_url.replace('postgresql', 'postgresql+psycopg2')}"}, queues)


@pytest.fixture
def filesystem(tmp_path: Path) -> Broker:
    folders = {name: tmp_path / name for name in ("messages", "control", "processed")}
    for folder in folders.values():
        folder.mkdir()
    options = {
        "data_folder_in": str(folders["messages"]),
        "data_folder_out": str(folders["messages"]),
        "control_folder": str(folders["control"]),
        "processed_folder": str(folders["processed"]),
    }

    def queues() -> set[str]:
        kept = {path.name.partition(".")[2] for path in folders["messages"].iterdir()}
        return kept | {path.stem for path in folders["control"].iterdir()}

    variables = {"STEM_BROKER_URL": "filesystem://", "STEM_BROKER_TRANSPORT_OPTIONS": json.dumps(options)}
    return Broker(variables, queues)


@pytest.fixture
def sqs() -> Iterator[Broker]:
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("pycurl")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"aws_access_key_id": "user", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        client = boto3.client("sqs", endpoint_url=f"http://{host}:{port}", **keys)

        def queues() -> list[str]:
            return [url.rpartition("/")[2] for url in client.list_queues().get("QueueUrls", ())]

        options = {"region": "us-east-1", "is_secure": False}
        yield Broker(
            {
                "STEM_BROKER_URL": f"sqs://user:secret@{host}:{port}",
                "STEM_BROKER_TRANSPORT_OPTIONS": json.dumps(options),
            },
            queues,
        )
    finally:
        server.stop()


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'store.db'}"
    url: str = request.getfixturevalue("redis_url" if request.param == "redis" else "postgres_url")
    if request.param == "pgbouncer":
        bouncer: PgBouncerServer = request.getfixturevalue("pgbouncer_server")
        bouncer.start()
        return bouncer.through(urlsplit(url).path.strip("/"))
    return url


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """``program(broker, store)``: the command line on them, with patience for a busy machine."""
    made: list[Program] = []

    def make(broker: Broker, store: str, **more: str) -> Program:
        variables = {
            **broker.variables,
            "STEM_RESULT_BACKEND_URL": f"sqlite://{tmp_path / 'state.db'}",
            "STEM_REVOKE_STORE_URL": store,
            "STEM_CONTROL_TIMEOUT": "30s",
            "STEM_HEARTBEAT_INTERVAL": "1s",
            **more,
        }
        made.append(Program(tmp_path, variables))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("broker", "store"),
    [("sqla_sqlite", "sqlite"), ("sqla_postgres", "postgres"), ("filesystem", "redis"), ("sqs", "pgbouncer")],
    indirect=True,
)
def test_a_fleet_is_controlled_through_the_store_and_commands_make_no_queue(
    broker: Broker, store: str, program: Callable[..., Program], tmp_path: Path
) -> None:
    stem = program(
        broker, store, STEM_SIGNING_KEYS="fleet:c2VjcmV0IG9mIHRoZSBmbGVldA==", STEM_SIGNING_ACTIVE_KEY="fleet"
    )
    worker = stem.start_worker("--name", "alpha", "-c", "1", "-Q", "images")
    assert "  control store  " in worker.out

    (pong,) = stem.ok("worker", "ping", "--json").json["replies"]
    assert (pong["worker"], pong["status"]) == ("alpha", "ok")
    assert stem.ok("worker", "ping", "--worker", "alpha", "--json").json["complete"]
    (stats,) = stem.ok("worker", "stats", "--json").json["replies"]
    assert stats["payload"]["control_link"] == "store"
    checks = {check["component"]: check for check in stem.ok("health", "--json").json["checks"]}
    assert checks["control"]["message"] == "through the revoke store (from STEM_REVOKE_STORE_URL)"
    with stem.popen("worker", "status", "--follow", "--json") as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["worker"] == "alpha"
        follower.kill()

    gate = Gate(tmp_path / "gate")
    task = stem.send("shop.render", "--queue", "images", gate=gate.path)
    gate.wait_reached()
    (running,) = stem.ok("worker", "inspect", "--json").json["replies"]
    assert [one["id"] for one in running["payload"]["in_flight"]] == [task]
    stem.ok("worker", "revoke", "--task", task, "--terminate")
    assert stem.ended(task)["state"] == "cancelled"

    assert worker.terminate() == 0
    assert set(broker.queues()) <= {"images", "default"}


@pytest.mark.parametrize(("broker", "store"), [("sqla_sqlite", "sqlite")], indirect=True)
def test_a_worker_that_was_killed_leaves_no_queue_and_its_successor_is_reached(
    broker: Broker, store: str, program: Callable[..., Program]
) -> None:
    stem = program(broker, store)
    for _ in range(2):
        worker = stem.start_worker("--name", "alpha", "-c", "1")
        stem.ok("worker", "ping", "--worker", "alpha")
        worker.signal(signal.SIGKILL)
        worker.wait_code()

    assert set(broker.queues()) == {"default"}


@pytest.mark.parametrize(("broker", "store"), [("sqla_sqlite", "sqlite")], indirect=True)
def test_the_variable_forces_one_of_them(
    broker: Broker, store: str, program: Callable[..., Program], tmp_path: Path
) -> None:
    embedded = Broker({"STEM_BROKER_URL": f"sqlite://{tmp_path / 'broker.db'}"}, list)
    forced = program(embedded, store, STEM_CONTROL_LINK="store")
    assert "  control store  " in forced.start_worker("--name", "alpha", "-c", "1").out
    forced.ok("worker", "ping", "--worker", "alpha")

    refused = program(broker, store, STEM_CONTROL_LINK="shop").run("worker", "ping")
    assert refused.code == 2
    assert "STEM_CONTROL_LINK: 'shop' is not one of auto, broker, store" in refused.err


@pytest.mark.parametrize("broker", ["sqla_sqlite"], indirect=True)
def test_a_store_that_can_not_carry_commands_is_told_at_the_start(
    broker: Broker, program: Callable[..., Program], tmp_path: Path
) -> None:
    stem = program(broker, f"file://{tmp_path / 'revokes.stem'}")
    worker = stem.begin_worker("--name", "alpha", "-c", "1")
    assert worker.wait_code() == 74
    assert "can't carry them" in worker.err
    assert "set STEM_REVOKE_STORE_URL to a redis://, postgresql:// or sqlite:// URL" in worker.err

    forced = stem.run("worker", "ping", env={"STEM_CONTROL_LINK": "store"})
    assert forced.code == 2
    assert "can't carry control messages" in forced.err


def settings(broker: str, store: str = "redis://h/0", link: str = "auto") -> Settings:
    found = Settings.from_env({"STEM_CONTROL_LINK": link}, broker=broker, revoke_store=store)
    assert found.control_link == link
    return found


@pytest.mark.parametrize(
    ("url", "store", "link", "place"),
    [
        ("redis://h/0", "redis://h/0", "auto", "broker"),
        ("amqp://h", "postgresql://h/d", "auto", "broker"),
        ("sqlite:///tmp/broker.db", "sqlite:///tmp/store.db", "auto", "broker"),
        ("memory://", "memory://", "auto", "broker"),
        ("filesystem://", "redis://h/0", "auto", "store"),
        ("filesystem://", "file:///tmp/store", "auto", "broker"),
        ("filesystem://", "redis://h/0", "broker", "broker"),
        ("redis://h/0", "redis://h/0", "store", "store"),
    ],
)
def test_the_place_of_control(url: str, store: str, link: str, place: str) -> None:
    given = settings(url, store, link)
    assert place_of_control(open_transport(broker_connection(given)), given) == place
    # and without loading a driver the same is known
    assert needs_no_broker(given) == (place == "store")


@pytest.mark.parametrize("fans_out", [True, False])
def test_a_broker_that_nothing_is_known_of_is_used_if_it_fans_out_where_the_store_can_not_help(fans_out: bool) -> None:
    class Unknown(GenericTransport):
        """Memory stands in for it."""

        def _capabilities(self) -> Capabilities:
            return Capabilities()

    class DoesNot(Unknown):
        def control(self, *, clock: Clock = SYSTEM) -> ControlLink:
            link = super().control(clock=clock)
            link.fans_out = lambda timeout=0.0: False  # type: ignore[method-assign]
            return link

    given = settings("memory://", "file:///tmp/store")
    transport = (Unknown if fans_out else DoesNot)(broker_connection(given))
    link = fleet_control_link(transport, given, clock=SYSTEM)
    if fans_out:
        assert link.fans_out()
        return
    with pytest.raises(BroadcastUnsupported, match="'memory' does not send commands to all workers at once"):
        link.fans_out()


def test_a_store_that_is_forced_and_can_not_do_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="can't carry control messages"):
        store_link(settings("sqs://", "file:///tmp/store", "store"), clock=SYSTEM)


@pytest.mark.parametrize(("broker", "store"), [("sqla_sqlite", "sqlite"), ("filesystem", "sqlite")], indirect=True)
def test_g18_a_worker_refuses_a_broker_that_forgets_what_a_killed_worker_held_with_a_backend_as_well(
    broker: Broker, store: str, program: Callable[..., Program]
) -> None:
    stem = program(broker, store, STEM_TRANSPORT="generic")
    refused = stem.begin_worker("--name", "careful", "-c", "1")
    assert refused.wait_code() == 2
    lost = "does not deliver again what a killed worker held: such a task is lost, and its record stays as it was"
    assert lost in refused.err
    assert "--accept-loss" in refused.err
    careless = stem.start_worker("--name", "careless", "-c", "1", "--accept-loss")
    assert lost in stem.ok("health").err
    assert careless.terminate() == 0
    assert lost in careless.err
