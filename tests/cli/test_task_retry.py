"""``stem task retry``: failed tasks run again from the messages that workers have kept."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.program import STEM, Program
from tests.cli.terminal import at_terminal


@pytest.fixture(params=["embedded", "redis", "postgres"])
def program(request: pytest.FixtureRequest, program_on: Callable[[str], Program]) -> Program:
    """A fleet of one worker whose backend is SQLite, Redis, or PostgreSQL beside RabbitMQ."""
    made = program_on("amqp" if request.param == "postgres" else request.param)
    if request.param == "postgres":
        made.variables["STEM_RESULT_BACKEND_URL"] = request.getfixturevalue("postgres_url")
    made.start_worker("--name", "alpha", "--concurrency", "1")
    return made


def failed(program: Program, path: Path) -> str:
    task_id = program.send("shop.needs", path=str(path))
    assert program.ended(task_id)["state"] == "failed"
    return task_id


def test_a_failed_task_runs_again_with_a_new_id_and_its_arguments(program: Program, tmp_path: Path) -> None:
    task_id = failed(program, tmp_path / "data")
    (tmp_path / "data").write_text("there")
    ready = program.ok("task", "retry", task_id, "--dry-run", "--json").json
    assert (ready["schema"], ready["dry_run"]) == ("stem.retry/1", True)
    assert [(one["id"], one["verdict"], one["new_id"]) for one in ready["tasks"]] == [(task_id, "ready", None)]
    document = program.ok("task", "retry", task_id, "--requester", "ann", "--json").json
    (one,) = document["tasks"]
    assert one["verdict"] == "sent" and one["queue"] == "default"
    assert document["audited"] is True
    (entry,) = program.ok("audit", "list", "--task", task_id, "--json").json["entries"]
    assert (entry["action"], entry["requester"]) == ("retry", "ann")
    record = program.ended(one["new_id"])
    assert (record["state"], record["result"], record["retried_from"]) == ("succeeded", "there", task_id)
    assert program.record(task_id)["state"] == "failed"
    assert f"retry of  {task_id}" in program.ok("task", "show", one["new_id"]).out
    again = program.run("task", "retry", task_id)
    assert again.code == 4, again
    assert again.out.startswith(f"retried before: {task_id} as {one['new_id']}")


def test_a_retry_goes_to_another_queue_and_waits_for_its_delay(program: Program, tmp_path: Path) -> None:
    other = f"other-{uuid.uuid4().hex[:8]}"
    task_id = failed(program, tmp_path / "data")
    (one,) = program.ok("task", "retry", task_id, "--queue", other, "--delay", "1h", "--json").json["tasks"]
    record = program.record(one["new_id"])
    assert (record["state"], record["queue"]) == ("queued", other)


def test_g36_a_selection_is_confirmed_and_names_what_it_does(program: Program, tmp_path: Path) -> None:
    sent = {failed(program, tmp_path / "data") for _ in range(3)}
    program.ended(program.send("shop.fails"))
    (tmp_path / "data").write_text("there")
    selection = ("task", "retry", "--name", "shop.nee*", "-q", "default", "--since", "1h", "-w", "alpha")
    refused = program.run(*selection)
    assert refused.code == 5 and "this sends 3 failed tasks again" in refused.err, refused
    entered = at_terminal([STEM, *selection], "\n", env=program.environment, cwd=program.folder)
    assert entered.code == 5 and "not confirmed" in entered.err, entered
    done = program.ok(*selection, "--yes", "--json").json
    assert {one["id"] for one in done["tasks"]} == sent
    assert all(program.ended(one["new_id"])["state"] == "succeeded" for one in done["tasks"])
    nothing = program.run(*selection, "--yes")
    assert nothing.code == 4 and "no failed task whose message is kept matches" in nothing.err


def test_what_can_not_be_retried_is_said(program_on: Callable[[str], Program], tmp_path: Path) -> None:
    program = program_on("embedded")
    program.start_worker("--name", "alpha", "--concurrency", "1")
    good = program.send("shop.add", a=1)
    program.ended(good)
    revoked = failed(program, tmp_path / "data")
    program.run("worker", "revoke", "--task", revoked, "--reason", "INC-7")
    done = program.run("task", "retry", good, "unknown", revoked, "--json")
    assert done.code == 5, done
    verdicts = {one["id"]: (one["verdict"], one["detail"]) for one in done.json["tasks"]}
    assert verdicts == {
        good: ("not-failed", "it is succeeded"),
        "unknown": ("not-failed", "no sender or worker recorded it"),
        revoked: ("revoked", "INC-7"),
    }
    large = program.send("shop.needs", path="x" * 70_000)
    assert program.ended(large)["state"] == "failed"
    kept = program.run("task", "retry", large, failed(program, tmp_path / "data"), "--json")
    assert kept.code == 3, kept
    assert [one["verdict"] for one in kept.json["tasks"]] == ["not-kept", "sent"]


def test_where_it_is_switched_off_no_arguments_are_kept(program_on: Callable[[str], Program], tmp_path: Path) -> None:
    program = program_on("embedded")
    program.start_worker("--name", "alpha", "--concurrency", "1", env={"STEM_KEEP_FAILED": "off"})
    task_id = program.send("shop.needs", path="/nowhere/canary-8d1c")
    assert program.ended(task_id)["state"] == "failed"
    done = program.run("task", "retry", task_id)
    assert done.code == 4 and done.out.startswith(f"not kept: {task_id}"), done


@pytest.mark.parametrize(
    "arguments", [(), ("id", "--name", "*"), ("id", "--queue", ""), ("id", "--delay", "soon"), ("",)]
)
def test_a_retry_of_nothing_or_of_both_is_refused(embedded: Program, arguments: tuple[str, ...]) -> None:
    assert embedded.run("task", "retry", *arguments).code == 2
