"""``stem worker shutdown``: whom it strikes, what it asks before, and with what code it ends (G33, G36)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.waiting import eventually

SHUTDOWN = ("worker", "shutdown")


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_g33_a_worker_finishes_what_runs_and_leaves_with_the_code_that_was_asked_for(
    program_on: Callable[[str], Program], kind: str, tmp_path: Path
) -> None:
    program = program_on(kind)
    worker = program.start_worker("--name", "alpha", "-c", "1")
    gate = Gate(tmp_path / "gate")
    task = program.send("shop.render", gate=gate.path)
    gate.wait_reached()
    done = program.run(*SHUTDOWN, "-w", "alpha", "--exit-code", "75", "--wait", "--timeout", "1s", "--json")
    assert done.code == 124, done
    payload = done.json["replies"][0]["payload"]
    assert payload == {"mode": "warm", "was": "running", "in_flight": 1, "exit_code": 75}
    assert (done.json["left"], done.json["remaining"]) == ([], ["alpha"])
    gate.open()
    done = program.run(*SHUTDOWN, "-w", "alpha", "--wait")
    assert done.code in (0, 4, 69), done  # it may have left by now
    assert worker.wait_code() == 75
    assert program.ended(task)["state"] == "succeeded"


def test_a_wait_ends_when_the_worker_has_left(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    worker = program.start_worker("--name", "alpha", "-c", "1")
    done = program.run(*SHUTDOWN, "-w", "alpha", "--wait", "--reason", "INC-42", "--requester", "kim")
    assert done.code == 0, done
    assert "left: alpha" in done.out
    assert [line.split() for line in done.out.splitlines()[:2]] == [
        ["WORKER", "STATUS", "MODE", "WAS", "IN", "FLIGHT", "EXIT"],
        ["alpha", "ok", "warm", "running", "0", "0"],
    ]
    assert worker.wait_code() == 0
    assert "warm shutdown requested by kim: INC-42" in worker.err


def test_g36_a_shutdown_needs_a_target_and_asks_where_it_is_dangerous(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    worker = program.start_worker("--name", "alpha", "-c", "1")
    for arguments, words in (
        ((), "give --all"),
        (("--all", "-w", "alpha"), "give --all"),
        (("-w", ""), "--worker is blank"),
        (("-w", "alpha", "--mode", "cold"), "cold"),
        (("-w", "alpha", "--exit-code", "3"), "'3'"),
        (("-w", "alpha", "--grace", "soon"), "soon"),
        (("-w", "alpha", "--mode", "soft", "--then", "soft"), "--then soft"),
        (("-w", "alpha", "--rolling", "--max-unavailable", "0"), "'0'"),
        (("-w", "alpha", "--rolling", "--max-unavailable", "101%"), "'101%'"),
    ):
        done = program.run(*SHUTDOWN, *arguments)
        assert (done.code, words in done.err) == (2, True), done
    for arguments in (
        ("--all",),
        ("--all", "--json"),
        ("-w", "al*"),
        ("-w", "alpha", "--mode", "hard"),
        ("-w", "alpha", "--then", "hard"),
        ("-w", "alpha", "--rolling"),
    ):
        done = program.run(*SHUTDOWN, *arguments)
        assert done.code == 5, done
        said = done.err + done.out
        assert "this shuts down 1 worker of namespace stem (alpha), with 0 running tasks" in said, done
    assert program.ok("worker", "ping", "--json").json["replies"][0]["payload"]["state"] == "running"
    done = program.run(*SHUTDOWN, "--all", "--yes", "--wait")
    assert done.code == 0, done
    assert worker.wait_code() == 0


def test_a_dry_run_shows_whom_it_would_strike(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    program.start_worker("--name", "alpha", "-c", "1")
    done = program.run(*SHUTDOWN, "--all", "--mode", "hard", "--dry-run", "--json")
    assert done.code == 0, done
    assert (done.json["dry_run"], done.json["expected"], done.json["in_flight"]) == (True, ["alpha"], 0)
    done = program.run(*SHUTDOWN, "-w", "nobody", "--dry-run")
    assert (done.code, done.out) == (4, "")
    assert program.ok("worker", "ping", "--json").json["replies"][0]["payload"]["state"] == "running"


def test_where_a_reason_is_required_a_shutdown_without_one_is_refused(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    done = program.run(*SHUTDOWN, "-w", "alpha", env={"STEM_REQUIRE_REASON": "true"})
    assert (done.code, "STEM_REQUIRE_REASON" in done.err) == (2, True), done


def test_a_worker_that_is_not_there_is_named(program_on: Callable[[str], Program]) -> None:
    done = program_on("embedded").run(*SHUTDOWN, "-w", "nobody", "--timeout", "500ms", "--json")
    assert done.code == 4, done
    assert done.json["replies"] == []


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_rolling_goes_on_when_the_next_worker_consumes(program_on: Callable[[str], Program], kind: str) -> None:
    program = program_on(kind)
    alpha = program.start_worker("--name", "alpha", "-c", "1")
    beta = program.start_worker("--name", "beta", "-c", "1")
    rolling = program.popen(
        *SHUTDOWN, "--all", "--yes", "--rolling", "--replacement-timeout", "60s", "--exit-code", "75", "--json"
    )
    try:
        assert alpha.wait_code() == 75
        assert beta.process.poll() is None, "one after the other"
        program.start_worker("--name", "alpha", "-c", "1")
        assert beta.wait_code() == 75
        program.start_worker("--name", "beta", "-c", "1")
        out, err = rolling.communicate(timeout=90)
        assert rolling.returncode == 0, err
        assert '"left": ["alpha", "beta"], "not_replaced": null' in out
    finally:
        rolling.kill()
        rolling.communicate()
    eventually(lambda: len(program.ok("worker", "status", "--json").json["workers"]) == 2)
    done = program.run(
        *SHUTDOWN, "--all", "--yes", "--rolling", "--max-unavailable", "50%", "--replacement-timeout", "100ms"
    )
    assert (done.code, "stopped at alpha" in done.err, done.out) == (1, True, "left: alpha\n"), done


def test_g32_a_shutdown_has_an_entry_in_the_audit(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    program.start_worker("--name", "alpha", "-c", "1")
    done = program.run(*SHUTDOWN, "-w", "alpha", "--reason", "INC-42", "--requester", "kim", "--json")
    assert (done.code, done.json["audited"]) == (0, True), done
    entry, outcome = program.ok("audit", "list", "--action", "shutdown", "--json").json["entries"]
    assert (entry["requester"], entry["reason"], entry["target"]) == ("kim", "INC-42", {"workers": ["alpha"]})
    assert entry["after"] == {"mode": "warm", "then": None}
    assert outcome["after"]["outcome"]["answered"] == 1


def test_g32_without_roster_and_store_a_worker_is_stopped_all_the_same_and_the_answer_says_so(
    program_on: Callable[[str], Program],
) -> None:
    program = program_on("embedded")
    worker = program.start_worker("--name", "alpha", "-c", "1")
    away = {"STEM_RESULT_BACKEND_URL": "redis://127.0.0.1:1/0", "STEM_REVOKE_STORE_URL": "redis://127.0.0.1:1/0"}
    done = program.run(*SHUTDOWN, "-w", "alpha", "--dry-run", env=away)
    assert done.code == 74, done
    done = program.run(*SHUTDOWN, "-w", "alpha", "--json", env=away)
    assert (done.code, done.json["audited"]) == (3, False), done
    assert worker.wait_code() == 0


@pytest.mark.parametrize("scopes", ["read,operate", "read,work,send,destroy"])
def test_g36_a_key_that_may_not_both_operate_and_destroy_kills_nothing(
    program_on: Callable[[str], Program], scopes: str
) -> None:
    program = program_on("embedded")
    keys = {
        "STEM_SIGNING_KEYS": "fleet:Zmxl" + "ZXRm" * 8 + ",ops:b3Bz" + "b3Bz" * 8,
        "STEM_SIGNING_KEY_SCOPES": f"fleet:*;ops:{scopes}",
    }
    worker = program.start_worker("--name", "alpha", "-c", "1", env={**keys, "STEM_SIGNING_ACTIVE_KEY": "fleet"})
    ops = {**keys, "STEM_SIGNING_ACTIVE_KEY": "ops"}
    done = program.run(*SHUTDOWN, "-w", "alpha", "--mode", "hard", "--yes", env=ops)
    assert done.code == 5, done
    assert worker.process.poll() is None
    done = program.run(
        *SHUTDOWN, "-w", "alpha", "--mode", "hard", "--yes", "--wait", env={**ops, "STEM_SIGNING_ACTIVE_KEY": "fleet"}
    )
    assert done.code == 0, done
    assert worker.wait_code() == 0
