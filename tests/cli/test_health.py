"""``stem health``: can broker, backend and revoke store be reached, and is the configuration one that can be meant."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from stem_kombu.testing.ports import free_port
from tests.cli.program import Program

FORMS = pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
COMPONENTS = ["broker", "backend", "revoke_store", "control", "signing", "tls"]


def test_all_is_well(fleet: Program) -> None:
    document = fleet.ok("health", "--json").json
    assert document["schema"] == "stem.health/1"
    assert document["status"] == "ok"
    assert [check["component"] for check in document["checks"]] == COMPONENTS
    for check in document["checks"]:
        assert check.keys() >= {"component", "status", "message", "latency_s", "hint"}
    assert [check["status"] for check in document["checks"]] == ["ok"] * 4 + ["skipped"] * 2
    assert all(check["latency_s"] > 0 for check in document["checks"][:3])
    text = fleet.ok("health").out
    assert text.splitlines()[0].split() == ["COMPONENT", "STATUS", "LATENCY", "MESSAGE"]
    assert len(text.splitlines()) == 1 + len(COMPONENTS)


def test_postgres_is_reached_as_backend_and_as_store(embedded: Program, postgres_url: str) -> None:
    document = embedded.ok("health", "--backend", postgres_url, "--revoke-store", postgres_url, "--json").json
    checks = {check["component"]: check for check in document["checks"]}
    assert checks["backend"]["status"] == checks["revoke_store"]["status"] == "ok"
    assert "(from --revoke-store)" in checks["revoke_store"]["message"]


def test_the_backend_is_left_out_on_request_and_without_one(embedded: Program) -> None:
    for arguments, env in ((("--skip-backend",), {}), ((), {"STEM_RESULT_BACKEND_URL": ""})):
        document = embedded.ok("health", "--json", *arguments, env=env).json
        assert [c["status"] for c in document["checks"] if c["component"] == "backend"] == ["skipped"]


@FORMS
@pytest.mark.parametrize(
    ("option", "scheme", "component"),
    [
        ("--broker", "redis", "broker"),
        ("--broker", "amqp", "broker"),
        ("--backend", "redis", "backend"),
        ("--backend", "postgresql", "backend"),
        ("--revoke-store", "postgresql", "revoke_store"),
    ],
)
def test_a_server_that_is_not_there_is_exit_code_74_and_the_others_are_looked_at(
    embedded: Program, option: str, scheme: str, component: str, form: tuple[str, ...]
) -> None:
    path = "0" if scheme == "redis" else "x1"
    done = embedded.run("health", option, f"{scheme}://me:s3cret@127.0.0.1:{free_port()}/{path}", *form)
    assert done.code == 74, done
    assert "s3cret" not in done.out + done.err
    assert f"hint: {component}: " in done.err


def _hung_up(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        while caller.recv(4096):
            pass
    except BlockingIOError:
        return False
    return True


def test_servers_that_hang_are_waited_for_together(embedded: Program) -> None:
    # three servers that accept and never answer
    mutes = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    options = [
        text
        for option, mute in zip(("--broker", "--backend", "--revoke-store"), mutes, strict=True)
        for text in (option, f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
    ]
    health = embedded.popen("health", *options)
    for mute in mutes:
        mute.settimeout(60)
    callers = [mute.accept()[0] for mute in mutes]
    # when the last has been reached, the first has not been given up yet
    assert not any(_hung_up(caller) for caller in callers)
    out, _ = health.communicate(timeout=60)
    assert health.returncode == 74
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [
        ["broker", "error"], ["backend", "error"], ["revoke_store", "error"],
    ]  # fmt: skip
    for closing in (*mutes, *callers):
        closing.close()


@FORMS
def test_g37_a_record_of_the_revoke_store_that_can_not_be_read_is_named(
    embedded: Program, tmp_path: Path, form: tuple[str, ...]
) -> None:
    # a worker starts on it, and obeys the rest
    path = tmp_path / "revokes.stem"
    store = ("--revoke-store", f"file://{path}")
    embedded.run("worker", "revoke", "-t", "one", *store)
    embedded.run("worker", "revoke", "-t", "two", *store)
    assert embedded.run("health", *store).code == 0
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], b"rubbish\n", lines[-1]]))
    done = embedded.ok("health", *store, *form)
    assert f"{path}" in done.out
    assert f"line {len(lines)}" in done.out + done.err
    assert "stem store check" in done.out + done.err


@FORMS
def test_a_wrong_password_is_exit_code_74(
    embedded: Program,
    start_redis,
    form: tuple[str, ...],  # type: ignore[no-untyped-def]
) -> None:
    server = start_redis(password="right")
    done = embedded.run("health", "--broker", f"redis://:wr0ng@127.0.0.1:{server.port}/0", *form)
    assert done.code == 74, done
    assert "wr0ng" not in done.out + done.err


@FORMS
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STEM_TLS_CLIENT_CERT": "/nowhere/cert.pem"}, "STEM_TLS_CLIENT_KEY"),
        ({"STEM_TLS_CA_CERT": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"STEM_SIGNING_KEYS": "k1:c2VjcmV0"}, "STEM_SIGNING"),
    ],
    ids=["half a pair", "a missing file", "signing"],
)
def test_a_configuration_that_can_not_be_meant_is_exit_code_2(
    embedded: Program, variables: dict[str, str], said: str, form: tuple[str, ...]
) -> None:
    done = embedded.run("health", *form, env=variables)
    assert done.code == 2, done
    assert said in done.out + done.err


def test_switching_verification_off_is_warned_of(embedded: Program) -> None:
    done = embedded.ok("health", "--allow-insecure")
    assert "servers are not verified" in done.err
    assert embedded.run("health", env={"STEM_TLS_ALLOW_INSECURE": "perhaps"}).code == 2


def test_the_embedded_default_is_healthy_and_named(stem: Program, state_folder: Path) -> None:
    done = stem.ok("health")
    assert f"note: no broker is named (STEM_BROKER_URL); using the embedded one in {state_folder}" in done.err
    assert not list(stem.folder.iterdir())  # nothing appears in the current folder
