"""The program, workers, producers, Celery's tools and Stem inside Celery: all of it over TLS, to real servers."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu.pools
import pytest
from celery import Celery

from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.cli.program import Program
from tests.servers.papers import Papers
from tests.tls.conftest import TlsPostgres, TlsRabbit, TlsRedis
from tests.waiting import eventually


def redis_places(redis: TlsRedis) -> dict[str, str]:
    """One Redis for everything, in a database of this test's own."""
    url = f"rediss://:redis-secret@localhost:{redis.tls_port}/{redis.new_database().rpartition('/')[2]}"
    return {"STEM_BROKER_URL": url, "STEM_RESULT_BACKEND_URL": url}


def rabbit_places(rabbit: TlsRabbit, postgres: TlsPostgres, redis: TlsRedis) -> dict[str, str]:
    """RabbitMQ, with states and revocations in PostgreSQL, and results for Celery's clients in Redis."""
    vhost = rabbit.server.new_vhost().rpartition("/")[2]
    return {
        "STEM_BROKER_URL": f"amqps://guest:guest@localhost:{rabbit.port}/{vhost}",
        "STEM_RESULT_BACKEND_URL": postgres.new_database().replace("127.0.0.1", "localhost"),
        "STEM_CELERY_RESULT_URL": redis_places(redis)["STEM_BROKER_URL"],
    }


@pytest.fixture(scope="module", params=["redis", "amqp"])
def places(request: pytest.FixtureRequest) -> dict[str, str]:
    redis = request.getfixturevalue("tls_redis")
    if request.param == "redis":
        return redis_places(redis)
    return rabbit_places(request.getfixturevalue("tls_rabbit"), request.getfixturevalue("tls_postgres"), redis)


@pytest.fixture(scope="module")
def stem(places: dict[str, str], papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program, with one worker that Celery's tools know as ``alpha@here``."""
    variables = {**places, **papers.variables()}
    program = Program(tmp_path_factory.mktemp("fleet"), variables)
    program.start_worker("--name", "alpha@here", "-c", "1", "--log-level", "debug")
    yield program
    program.close()


def celery_tls(papers: Papers) -> dict[str, str]:
    return {
        "ca_certs": str(papers.ca),
        "certfile": str(papers.client.cert),
        "keyfile": str(papers.client.key),
    }


@pytest.fixture
def celery(places: dict[str, str], papers: Papers) -> Iterator[Celery]:
    """An unmodified Celery client of the same servers."""
    results = places.get("STEM_CELERY_RESULT_URL", places["STEM_BROKER_URL"])
    app = Celery("client", broker=places["STEM_BROKER_URL"], backend=results, set_as_current=False)
    plain: dict[str, Any] = {**celery_tls(papers), "cert_reqs": ssl.CERT_REQUIRED}
    prefixed = {f"ssl_{key}": value for key, value in plain.items()}
    app.conf.redis_backend_use_ssl = prefixed
    on_redis = places["STEM_BROKER_URL"].startswith("rediss")
    app.conf.broker_use_ssl = prefixed if on_redis else {**plain, "server_hostname": "localhost"}
    yield app
    app.close()
    kombu.pools.reset()  # see tests/celery/conftest.py


def test_a_task_is_sent_seen_and_revoked_over_tls_alone(stem: Program, celery: Celery, tmp_path: Path) -> None:
    assert [reply["worker"] for reply in stem.ok("worker", "ping", "--json").json["replies"]] == ["alpha@here"]
    gate = Gate(tmp_path / "gate")
    task = stem.send("shop.render", gate=gate.path)
    gate.wait_reached()
    # Celery's tools see the worker and what it runs
    inspect = celery.control.inspect(timeout=10, limit=1)
    assert [found["id"] for found in inspect.active()["alpha@here"]] == [task]
    # when
    revoked = stem.ok("worker", "revoke", "-t", task, "--terminate", "--json").json
    # then
    assert revoked["broadcast"] is revoked["complete"] is True
    assert stem.ended(task)["state"] == "cancelled"
    (row,) = stem.ok("worker", "status", "--json").json["workers"]
    assert (row["worker"], row["state"]) == ("alpha@here", "live")
    # and a client of Celery hears what became of its task
    assert celery.send_task("shop.add", (1, 2), queue="default").get(timeout=30) == 3
    (worker,) = stem.workers
    for secret in ("redis-secret", "stem-secret"):
        assert secret not in worker.out + worker.err


def test_health_tells_protocol_subjects_and_days_left(stem: Program, papers: Papers) -> None:
    checks = {check["component"]: check for check in stem.ok("health", "--json").json["checks"]}
    tls = checks["tls"]
    assert tls["status"] == "ok"
    for end in tls["endpoints"]:
        assert end["protocol"] == "TLSv1.3"
        assert end["subject"] == "CN=server"
        assert end["issuer"] == "CN=ca"
        assert end["days_left"] == 1  # and some hours: it is two days old at most
        assert end["verified"] is end["name_checked"] is True
        assert end["endpoint"].startswith("localhost:")
    named = {end["component"] for end in tls["endpoints"]}
    assert named == {"broker", "backend", "revoke_store", "celery_results"}
    assert tls["client_certificate"]["subject"] == "CN=client"
    assert tls["client_certificate"]["path"] == str(papers.client.cert)
    assert "expires soon" in tls["hint"]
    text = stem.ok("health").out
    assert "TLSv1.3 CN=server, 1 days left" in text


def test_health_fails_closed_and_says_which_certificate(stem: Program, papers: Papers) -> None:
    done = stem.run("health", "--json", env=papers.variables(papers.stranger_client))
    assert done.code == 74, done
    checks = {check["component"]: check for check in done.json["checks"]}
    assert {checks[name]["status"] for name in ("broker", "backend", "revoke_store", "tls")} == {"error"}
    assert all("CN=stranger-client" in end["error"] for end in checks["tls"]["endpoints"])
    # a revoked pair is refused as well, where the server has a list
    if "postgres" in stem.variables["STEM_RESULT_BACKEND_URL"]:
        done = stem.run("health", "--json", env=papers.variables(papers.revoked_client))
        assert done.code == 74, done
        assert "certificate revoked" in done.out


@pytest.mark.parametrize(
    "command", [("worker", "ping"), ("worker", "revoke", "-t", "t1"), ("task", "send", "shop.add")]
)
def test_a_command_that_can_not_verify_the_server_says_so_and_sends_nothing(
    stem: Program, papers: Papers, command: tuple[str, ...]
) -> None:
    done = stem.run(*command, env={"STEM_TLS_CA_CERT": str(papers.stranger)})
    assert done.code == 74, done
    assert "is not trusted by STEM_TLS_CA_CERT" in done.err
    assert "hint: set STEM_TLS_CA_CERT" in done.err
    assert "Traceback" not in done.err


def test_a_worker_that_can_not_verify_the_server_is_never_ready(stem: Program, papers: Papers) -> None:
    worker = stem.begin_worker("-c", "1", env={"STEM_TLS_CA_CERT": str(papers.stranger)})
    eventually(lambda: "is not trusted by STEM_TLS_CA_CERT" in worker.err, 60, lambda: worker.err)
    assert worker.process.poll() is None  # it tries for 30 s
    assert not worker.out
    worker.process.kill()


BAD = {
    "half a pair": (
        {"STEM_TLS_CLIENT_CERT": "client.cert"},
        "STEM_TLS_CLIENT_CERT is set but STEM_TLS_CLIENT_KEY is not",
    ),
    "a missing file": ({"STEM_TLS_CA_CERT": "/nowhere/ca.pem"}, "STEM_TLS_CA_CERT: there is no file '/nowhere/ca.pem'"),
    "no certificate": ({"STEM_TLS_CA_CERT": "client.key"}, "STEM_TLS_CA_CERT: "),
    "another key": (
        {"STEM_TLS_CLIENT_CERT": "client.cert", "STEM_TLS_CLIENT_KEY": "server.key"},
        "STEM_TLS_CLIENT_KEY: ",
    ),
    "no boolean": ({"STEM_TLS_ALLOW_INSECURE": "maybe"}, "STEM_TLS_ALLOW_INSECURE: 'maybe' is neither true nor false"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_can_not_be_meant_is_exit_code_2_naming_the_variable_whatever_the_urls(
    papers: Papers, tmp_path: Path, kind: str
) -> None:
    variables, said = BAD[kind]
    files = {"client.cert": papers.client.cert, "client.key": papers.client.key, "server.key": papers.server.key}
    given = {name: str(files.get(value, value)) for name, value in variables.items()}
    program = Program(tmp_path, {"STEM_BROKER_URL": f"sqlite://{tmp_path}/b.db", **given})
    worker = program.begin_worker("-c", "1")
    for command in (("worker", "ping"), ("task", "send", "shop.add"), ("health",)):
        done = program.run(*command)
        assert done.code == 2, done
        assert said in done.err + done.out
        assert "Traceback" not in done.err
    assert worker.wait_code() == 2
    assert said in worker.err


def test_allow_insecure_is_warned_of_at_every_start(tls_redis: TlsRedis, papers: Papers, tmp_path: Path) -> None:
    places = redis_places(tls_redis)
    variables = {**places, **papers.variables(), "STEM_TLS_CA_CERT": str(papers.stranger)}
    program = Program(tmp_path, {**variables, "STEM_TLS_ALLOW_INSECURE": "true"})
    warning = "warning: STEM_TLS_ALLOW_INSECURE is on: servers are not verified"
    try:
        worker = program.start_worker("-c", "1", "--log-level", "critical")
        assert warning in worker.err
        for command in (("worker", "ping"), ("health",), ("task", "send", "shop.add")):
            assert warning in program.ok(*command).err
    finally:
        program.close()


# -- Stem inside Celery --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", ["amqp"], indirect=True)
def test_a_guest_in_celery_takes_celerys_tls_settings(
    places: dict[str, str], celery: Celery, papers: Papers, tmp_path: Path
) -> None:
    results = places["STEM_CELERY_RESULT_URL"]
    shop = Shop(places["STEM_BROKER_URL"], results, tmp_path)
    program = Program(
        tmp_path,
        {"STEM_BROKER_URL": shop.broker, "STEM_RESULT_BACKEND_URL": results, **papers.variables()},
    )
    try:
        worker = shop.start("-c", "1", SHOP_TLS=json.dumps(celery_tls(papers)))
        document = program.ok("worker", "ping", "-w", "alpha@shop", "--json").json
        assert [reply["worker"] for reply in document["replies"]] == ["alpha@shop"]
        gate = Gate(tmp_path / "gate")
        task = celery.send_task("shop.render", (gate.path,))
        gate.wait_reached()
        program.ok("worker", "revoke", "-t", task.id, "--terminate", "-w", "alpha@shop")
        eventually(lambda: task.state == "REVOKED", 30)
        assert "redis-secret" not in worker.log
    finally:
        shop.close()
