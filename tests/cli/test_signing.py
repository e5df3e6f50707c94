"""Signing as operators meet it: exit code 5 where a key does not suffice, 2 where the configuration does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.registry import open_revoke_store
from tests.cli.program import Program
from tests.signing.keys import SCOPES, hmac_keys, private_keys, public_keys


def variables(active: str, **more: str) -> dict[str, str]:
    return {
        "STEM_SIGNING_KEYS": hmac_keys("fleet", "ops", "viewer"),
        "STEM_SIGNING_ACTIVE_KEY": active,
        "STEM_SIGNING_KEY_SCOPES": SCOPES,
        **more,
    }


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A worker with keys on the embedded broker."""
    folder = tmp_path_factory.mktemp("signed")
    places = {
        "STEM_BROKER_URL": f"sqlite://{folder}/broker.db",
        "STEM_RESULT_BACKEND_URL": f"sqlite://{folder}/state.db",
    }
    program = Program(folder, places)
    program.start_worker("--name", "alpha", "-c", "1", env=variables("fleet"))
    yield program
    program.close()


def test_an_operator_with_a_key_pings_and_revokes(signed: Program) -> None:
    ops = variables("ops")
    assert signed.ok("worker", "ping", "--json", env=ops).json["complete"]
    assert signed.ok("worker", "status", "--json", env=ops).json["workers"][0]["worker"] == "alpha"
    document = signed.ok("worker", "revoke", "-t", "t1", "--json", env=ops).json
    assert document["replies"][0]["payload"]["applied"] == ["t1"]
    assert "proofs" not in document["stored"][0]


def test_a_read_key_that_revokes_is_refused_before_anything_is_stored(signed: Program) -> None:
    done = signed.run("worker", "revoke", "-t", "t2", "--terminate", env=variables("viewer"))

    assert done.code == 5, done
    assert "operate" in done.err
    assert "stored" not in done.err
    inspected = signed.ok("worker", "inspect", "--revoked", "--json", env=variables("viewer")).json
    assert "t2" not in [record["task_id"] for record in inspected["replies"][0]["payload"]["revoked"]]


def test_who_has_no_key_or_another_one_is_refused(signed: Program) -> None:
    done = signed.run("worker", "ping")
    assert done.code == 5, done
    assert "unsigned" in done.err

    stranger = {"STEM_SIGNING_KEYS": hmac_keys("eve"), "STEM_SIGNING_ACTIVE_KEY": "eve"}
    done = signed.run("worker", "ping", "--worker", "alpha", "--timeout", "3s", env=stranger)
    assert done.code == 5, done
    assert "unknown-key" in done.err

    for env in ({}, stranger):
        refused = signed.run("worker", "revoke", "-t", "t3", env=env)
        assert refused.code == 5, refused
        assert "nothing was stored" in refused.err
        assert "hint: " in refused.err
    shown = signed.ok("worker", "inspect", "--revoked", "--json", env=variables("viewer")).json
    assert "t3" not in [record["task_id"] for record in shown["replies"][0]["payload"]["revoked"]]


@pytest.mark.parametrize("command", [("worker", "ping"), ("worker", "status"), ("health",),
                                     ("worker", "revoke", "-t", "x"), ("task", "send", "t")])  # fmt: skip
def test_half_a_configuration_is_an_error_that_names_the_variable(signed: Program, command: tuple[str, ...]) -> None:
    done = signed.run(*command, env={"STEM_SIGNING_KEYS": hmac_keys("ops")})

    assert done.code == 2, done
    assert "STEM_SIGNING_ACTIVE_KEY" in done.err + done.out


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (variables("viewer"), "STEM_SIGNING_KEY_SCOPES"),
        ({"STEM_SIGNING_KEYS": hmac_keys("ops")}, "STEM_SIGNING_ACTIVE_KEY"),
        ({"STEM_SIGNING_TASKS": "require"}, "STEM_SIGNING_KEYS"),
    ],
)
def test_a_worker_that_could_not_sign_does_not_start(signed: Program, given: dict[str, str], named: str) -> None:
    worker = signed.begin_worker("--name", "wrong", env=given)

    assert worker.wait_code() == 2
    assert named in worker.err


def test_health_tests_the_keys(signed: Program) -> None:
    checks = {check["component"]: check for check in signed.ok("health", "--json", env=variables("ops")).json["checks"]}

    assert checks["signing"]["status"] == "ok"
    assert "signs with ops" in checks["signing"]["message"]


def test_no_secret_is_in_what_anything_says(signed: Program, tmp_path: Path) -> None:
    secrets = [entry.partition(":")[2] for entry in hmac_keys("fleet", "ops", "viewer").split(",")]
    said = "".join(
        done.out + done.err
        for done in (
            signed.run("--debug", "worker", "ping", env=variables("ops")),
            signed.run("--debug", "worker", "stats", "--json", env=variables("ops")),
            signed.run("--debug", "worker", "ping", env=variables("nobody")),
            signed.run("health", env=variables("ops")),
            signed.run("keys", "check", env=variables("ops")),
        )
    )
    said += "".join(worker.out + worker.err for worker in signed.workers)
    stored = b"".join(path.read_bytes() for path in signed.folder.glob("*.db*") if path.is_file())

    assert not [secret for secret in secrets if secret in said or secret.encode() in stored]


def test_with_key_pairs_nobody_holds_more_than_his_own_secret(tmp_path: Path) -> None:
    """What docs/signing.md recommends: private keys stay with their owners, everybody has the public ones."""
    everyone = {
        "STEM_SIGNING_ALGORITHM": "ed25519",
        "STEM_SIGNING_PUBLIC_KEYS": public_keys("fleet", "ops", "viewer"),
        "STEM_SIGNING_KEY_SCOPES": SCOPES,
    }

    def owner(name: str) -> dict[str, str]:
        return {**everyone, "STEM_SIGNING_ACTIVE_KEY": name, "STEM_SIGNING_PRIVATE_KEYS": private_keys(name)}

    places = {
        "STEM_BROKER_URL": f"sqlite://{tmp_path}/broker.db",
        "STEM_RESULT_BACKEND_URL": f"sqlite://{tmp_path}/state.db",
    }
    program = Program(tmp_path, places)
    try:
        program.start_worker("--name", "alpha", "-c", "1", env=owner("fleet"))

        assert program.ok("worker", "ping", "--json", env=owner("viewer")).json["complete"]
        assert program.run("worker", "revoke", "-t", "t1", env=owner("viewer")).code == 5
        document = program.ok("worker", "revoke", "-t", "t1", "--json", env=owner("ops")).json
        assert document["replies"][0]["payload"]["applied"] == ["t1"]
        assert "warning" not in program.ok("keys", "check", env=owner("viewer")).err
        # who makes himself an operator by changing his own variables is refused by the worker
        changed = {**owner("viewer"), "STEM_SIGNING_KEY_SCOPES": "viewer:*;fleet:work"}
        done = program.run("worker", "revoke", "-t", "t2", "--json", env=changed)
        assert done.code == 5, done
        assert "worker alpha refuses this key" in done.err
        held = program.ok("worker", "inspect", "--revoked", "--json", env=owner("ops")).json
        assert [record["task_id"] for record in held["replies"][0]["payload"]["revoked"]] == ["t1"]
    finally:
        program.close()


def test_task_show_tells_no_revocation_that_workers_do_not_obey(signed: Program) -> None:
    task = signed.ok("task", "send", "shop.add", "--queue", "nowhere", env=variables("ops")).out.strip()
    with closing(open_revoke_store(f"sqlite://{signed.folder}/state.db")) as store:
        store.save("stem", [RevocationDraft(task)])  # by who can write to the store, and has no key

    shown = signed.ok("task", "show", task, "--json", env=variables("viewer"))
    assert shown.json["revocation"] is None
    assert "no permitted key has signed" in shown.err

    signed.ok("worker", "revoke", "-t", task, "--reason", "INC-9", env=variables("ops"))
    assert signed.ok("task", "show", task, "--json", env=variables("viewer")).json["revocation"]["reason"] == "INC-9"
