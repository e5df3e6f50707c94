"""``stem worker revoke --task … --attempt, --enqueued-before``: an id that is used again is not revoked (G3)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from stem_kombu.clock import isoformat
from stem_kombu.testing.gates import Gate
from tests.cli.program import Program


@pytest.fixture(params=["embedded", "redis", "amqp"])
def program(request: pytest.FixtureRequest, program_on: Callable[[str], Program]) -> Program:
    return program_on(request.param)


def now() -> str:
    return isoformat(datetime.now(timezone.utc))


def revoke(program: Program, *arguments: str) -> None:
    """Stored, whether or not a worker was there to be told."""
    assert program.run("worker", "revoke", *arguments).code in (0, 4, 69), arguments


def test_g3_g26_a_revocation_of_an_attempt_leaves_the_others_alone(program: Program, tmp_path: Path) -> None:
    gate, marks = Gate(str(tmp_path / "gate")), tmp_path / "marks"
    marks.mkdir()
    program.start_worker("--name", "alpha", "--concurrency", "1")
    task = program.send("shop.again", folder=str(marks), gate=gate.path)
    gate.wait_reached(task)
    done = program.ok(
        "worker", "revoke", "-t", task, "--attempt", "2", "--terminate", "--wait", "--reason", "INC-42", "--json"
    )
    assert done.json["stored"][0]["bounds"] == [{"attempt": 2, "enqueued_before": None}]
    assert [one["verdict"] for one in done.json["verdicts"]] == ["will-not-start"], (
        "attempt 1 runs on, and is no part of it"
    )
    gate.open()
    record = program.ended(task)
    assert (record["state"], record["attempt"]) == ("cancelled", 2)
    assert record["revocation"]["reason"] == "INC-42"
    assert [path.name.split()[1] for path in marks.iterdir()] == ["1"]


def test_g3_a_revoked_attempt_that_runs_is_stopped(program: Program, tmp_path: Path) -> None:
    gate = Gate(str(tmp_path / "gate"))
    program.start_worker("--name", "alpha", "--concurrency", "1")
    task = program.send("shop.render", gate=gate.path)
    gate.wait_reached()
    done = program.ok("worker", "revoke", "-t", task, "--attempt", "1", "--terminate", "--wait", "--json")
    assert [one["verdict"] for one in done.json["verdicts"]] == ["stopped"]


def test_g3_what_is_sent_later_under_the_same_id_runs(program: Program) -> None:
    revoke(program, "-t", "reused", "--enqueued-before", now())
    sent = program.send("shop.add", "--id", "sent-before", a=1)
    program.send("shop.add", "--id", "reused", a=2)
    revoke(program, "-t", sent, "--enqueued-before", now())
    program.start_worker("--name", "alpha", "--concurrency", "1")
    assert program.ended("sent-before")["state"] == "cancelled"
    assert program.ended("reused")["state"] == "succeeded"


def test_a_bound_is_shown_and_undone(program: Program) -> None:
    cut = now()
    revoke(program, "-t", "shown", "--attempt", "2", "--enqueued-before", cut, "--requester", "ada@ops")
    assert program.ok("revokes", "show", "shown", "--json").json["revocation"]["bounds"] == [
        {"attempt": 2, "enqueued_before": cut}
    ]
    assert f"bound: attempt 2, sent before {cut}" in program.ok("revokes", "show", "shown").out
    assert "attempt 2" in program.ok("revokes", "list").out
    (entry,) = program.ok("audit", "list", "--task", "shown", "--action", "revoke", "--json").json["entries"]
    assert (entry["target"]["attempt"], entry["target"]["enqueued_before"]) == (2, cut)
    revoke(program, "-t", "shown")
    assert "bounds" not in program.ok("revokes", "show", "shown", "--json").json["revocation"]
    assert program.run("revokes", "undo", "shown").code in (0, 3, 69)
    assert program.ok("revokes", "show", "shown", "--json").json["revocation"] is None


def test_a_dry_run_says_what_it_is_bound_to_and_nonsense_is_refused(fleet: Program) -> None:
    plan = fleet.ok("worker", "revoke", "-t", "x", "--attempt", "3", "--dry-run", "--json").json
    assert plan["bounds"] == [{"attempt": 3, "enqueued_before": None}]
    assert "attempt 3 only" in fleet.ok("worker", "revoke", "-t", "x", "--attempt", "3", "--dry-run").out
    for wrong in (
        ("--name", "shop.*", "--attempt", "1"),
        ("-t", "x", "--attempt", "0"),
        ("-t", "x", "--enqueued-before", "yesterday"),
        ("-t", "x", "--for", "1h"),
    ):
        done = fleet.run("worker", "revoke", *wrong)
        assert done.code == 2, done


def test_a_time_that_lies_ahead_is_taken_as_it_is(fleet: Program) -> None:
    """Unlike that of a rule: the id is named, and its next message may come from a sender whose clock is ahead."""
    ahead = isoformat(datetime.now(timezone.utc) + timedelta(minutes=5))
    fleet.run("worker", "revoke", "-t", "ahead", "--enqueued-before", ahead)
    fleet.send("shop.add", "--id", "ahead", a=1)
    assert fleet.ended("ahead")["state"] == "cancelled"
