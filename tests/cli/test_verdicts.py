"""``stem worker revoke --wait``: one verdict for each task, and it is true (G26)."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.control.client.client import ControlClient
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from tests.cli.program import Done, Program
from tests.waiting import eventually

#: More than any wait of these tests takes, and less than would hide one that never ends.
ENOUGH = "60s"


@pytest.fixture(scope="module", params=["embedded", "redis", "amqp+postgres"])
def crew(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One worker, ``alpha``, that has one isolate and takes more than it runs, on each kind of broker in turn."""
    folder = tmp_path_factory.mktemp("crew")
    program = Program(folder, {**_places(request.param, folder, request), "STEM_CONTROL_TIMEOUT": "30s"})
    try:
        program.start_worker("--name", "alpha", "--concurrency", "1", "--prefetch-multiplier", "4")
        yield program
    finally:
        program.close()


def _places(kind: str, folder: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    if kind == "embedded":
        return {
            "STEM_BROKER_URL": f"sqlite://{folder / 'broker.db'}",
            "STEM_RESULT_BACKEND_URL": f"sqlite://{folder / 'state.db'}",
        }
    if kind == "redis":
        server = request.getfixturevalue("redis_server")
        server.start()
        url = server.new_database()
        return {"STEM_BROKER_URL": url, "STEM_RESULT_BACKEND_URL": url}
    rabbit, postgres = request.getfixturevalue("rabbitmq_server"), request.getfixturevalue("postgres_server")
    rabbit.start()
    postgres.start()
    return {"STEM_BROKER_URL": rabbit.new_vhost(), "STEM_RESULT_BACKEND_URL": postgres.new_database()}


def revoke(program: Program, *arguments: str, code: int = 0, timeout: str = ENOUGH, **options: Any) -> Done:
    done = program.run("worker", "revoke", "--wait", "--timeout", timeout, "--json", *arguments, **options)
    assert done.code == code, done
    return done


def verdict(program: Program, *arguments: str, code: int = 0, timeout: str = ENOUGH) -> dict[str, Any]:
    """The only verdict."""
    (found,) = revoke(program, *arguments, code=code, timeout=timeout).json["verdicts"]
    return dict(found)


@pytest.mark.parametrize("name", ["shop.render", "shop.report", "shop.fetch"])
def test_g26_a_running_task_that_leaves_at_a_checkpoint_is_stopped(crew: Program, tmp_path: Path, name: str) -> None:
    gate = Gate(tmp_path / "gate")
    task = crew.send(name, gate=gate.path)
    gate.wait_reached()

    found = verdict(crew, "-t", task, "--terminate", "--reason", "wrong picture")

    assert (found["id"], found["verdict"], found["state"]) == (task, "stopped", "cancelled")
    assert (found["worker"], found["attempt"]) == ("alpha", 1)
    assert 0 <= found["after_s"] < 30  # of a thread or a coroutine less than a millisecond
    # and that was recorded before it was said
    record = crew.record(task)
    assert (record["state"], record["ended_by"]["how"]) == ("cancelled", "checkpoint")
    assert record["ended_by"]["after_s"] >= 0


def test_g26_a_reserved_task_never_started(crew: Program, tmp_path: Path) -> None:
    busy, gate = Gate(tmp_path / "busy"), Gate(tmp_path / "gate")
    running = crew.send("shop.render", gate=busy.path)
    busy.wait_reached()
    task = crew.send("shop.render", gate=gate.path)
    eventually(lambda: _reserved(crew) > 0, 60)

    found = verdict(crew, "-t", task)

    assert (found["verdict"], found["state"]) == ("never-started", "cancelled")
    assert crew.record(task)["ended_by"] == {"how": "before-start", "after_s": None, "steps": []}
    busy.open()
    assert crew.ended(running)["state"] == "succeeded"
    assert gate.reached() is None


def test_g26_a_task_that_no_worker_has_will_not_start(crew: Program) -> None:
    task = crew.send("shop.add", "--queue", "nobody", a=1)

    found = verdict(crew, "-t", task, "--terminate")

    assert (found["verdict"], found["state"], found["seen"]) == ("will-not-start", "queued", True)


def test_g26_an_id_that_no_sender_recorded_is_unknown_and_stored_all_the_same(crew: Program) -> None:
    done = revoke(crew, "-t", "never-sent", code=4)

    (found,) = done.json["verdicts"]
    assert (found["verdict"], found["seen"], found["state"]) == ("unknown", False, None)
    assert [record["task_id"] for record in done.json["stored"]] == ["never-sent"]
    assert (
        "unknown: never-sent, no sender recorded it" in crew.run("worker", "revoke", "-t", "never-sent", "--wait").out
    )


def test_g26_a_task_that_had_ended_finished_first(crew: Program) -> None:
    task = crew.send("shop.add", a=1)
    crew.ended(task)

    found = verdict(crew, "-t", task, "--terminate", code=1)

    assert (found["verdict"], found["state"]) == ("finished-first", "succeeded")


def test_g26_a_task_that_ends_while_its_verdict_is_waited_for_finished_first(crew: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = crew.send("shop.render", gate=gate.path)
    gate.wait_reached()
    process = crew.popen("worker", "revoke", "-t", task, "--wait", "--timeout", ENOUGH)
    eventually(lambda: task in _revoked(crew), 60)

    gate.open()

    out, err = process.communicate(timeout=90)
    assert process.returncode == 1, (out, err)
    assert f"finished first: {task} on alpha, succeeded" in out


def test_g26_a_thread_without_checkpoints_is_unstoppable_after_its_grace(crew: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = crew.send("shop.report", gate=gate.path, deaf=True)
    gate.wait_reached()

    found = verdict(crew, "-t", task, "--terminate", code=1)

    assert (found["verdict"], found["worker"], found["checkpoint_s_ago"]) == ("unstoppable", "alpha", None)
    assert 2.0 <= found["after_s"] < 60  # a grace, and not the timeout
    done = crew.run("worker", "revoke", "-t", task, "--terminate", "--wait", "--grace", "100ms")
    assert (done.code, f"unstoppable: {task} on alpha, a thread" in done.out) == (1, True), done
    gate.open()
    crew.ended(task)


def test_g26_what_still_runs_at_the_deadline_is_running(crew: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = crew.send("shop.render", gate=gate.path, deaf=True)
    gate.wait_reached()

    found = verdict(crew, "-t", task, "--terminate", code=124, timeout="1s")

    assert (found["verdict"], found["state"], found["worker"]) == ("running", "running", "alpha")
    assert crew.record(task)["state"] == "running"
    gate.open()
    crew.ended(task)


def test_g26_the_worst_verdict_gives_the_exit_code(crew: Program, tmp_path: Path) -> None:
    ended = crew.send("shop.add", a=1)
    crew.ended(ended)
    queued = crew.send("shop.add", "--queue", "nobody", a=1)

    document = revoke(crew, "-t", "not-sent-either", "-t", ended, "-t", queued, code=1).json

    assert [one["verdict"] for one in document["verdicts"]] == ["unknown", "finished-first", "will-not-start"]
    assert revoke(crew, "-t", "not-sent-either", "-t", queued, code=4).json["complete"] is True
    gate = Gate(tmp_path / "gate")
    deaf = crew.send("shop.render", gate=gate.path, deaf=True)
    gate.wait_reached()
    revoke(crew, "-t", ended, "-t", deaf, "-t", queued, "--terminate", code=124, timeout="1s")
    gate.open()
    crew.ended(deaf)


def test_g26_ten_thousand_ids_get_ten_thousand_verdicts(crew: Program) -> None:
    queued = crew.send("shop.add", "--queue", "nobody", a=1)
    ids = [queued, *(f"many-{number}" for number in range(9_999))]

    document = revoke(crew, "-t", "-", "--expires-in", "1h", code=4, input="\n".join(ids)).json

    assert [one["id"] for one in document["verdicts"]] == ids
    assert [one["verdict"] for one in document["verdicts"]] == ["will-not-start"] + ["unknown"] * 9_999


def test_g26_from_python_the_same(crew: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = crew.send("shop.render", gate=gate.path)
    gate.wait_reached()

    with ControlClient(Settings.from_env(crew.variables)) as client:
        report = client.revoke([task], terminate=True, wait=True, timeout=60)

    assert report.verdicts is not None
    assert [one.verdict.value for one in report.verdicts] == ["stopped"]


@pytest.fixture(params=["embedded", "redis", "amqp+postgres"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    """No worker yet; heartbeats are quick, so that a dead worker is soon known to be dead."""
    variables = {"STEM_CONTROL_TIMEOUT": "30s", "STEM_HEARTBEAT_INTERVAL": "500ms"}
    program = Program(tmp_path, {**_places(request.param, tmp_path, request), **variables})
    yield program
    program.close()


def test_g26_the_task_of_a_killed_worker_is_lost(pair: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    worker = pair.start_worker("--name", "doomed", "--concurrency", "1")
    task = pair.send("shop.render", gate=gate.path, deaf=True)
    gate.wait_reached()
    eventually(lambda: pair.record(task)["state"] == "running", 60)
    worker.signal(signal.SIGKILL)
    worker.wait_code()
    pair.start_worker("--name", "heir", "--concurrency", "1", "-Q", "another")  # or it would run the task again

    found = verdict(pair, "-t", task, "--terminate", code=3)

    assert found["verdict"] == "lost"
    done = pair.run("worker", "revoke", "-t", task, "--wait", "--timeout", ENOUGH)
    assert (done.code, f"lost: {task}" in done.out) == (3, True), done


def test_g26_a_worker_that_dies_while_it_is_waited_for_has_lost_its_task(pair: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    worker = pair.start_worker("--name", "doomed", "--concurrency", "1")
    task = pair.send("shop.render", gate=gate.path, deaf=True)
    gate.wait_reached()
    # (For half of the timeout it is waited for, if it dies before it answers.)
    process = pair.popen("worker", "revoke", "-t", task, "--terminate", "--wait", "--timeout", "30s", "--json")
    eventually(lambda: task in _revoked(pair), 60)

    worker.signal(signal.SIGKILL)

    out, err = process.communicate(timeout=90)
    assert process.returncode == 3, (out, err)
    assert '"verdict":"lost"' in out.replace(" ", "")


def test_g26_a_silent_worker_makes_a_0_a_3(pair: Program) -> None:
    pair.start_worker("--name", "alpha", "--concurrency", "1")
    mute = pair.start_worker("--name", "mute", "--concurrency", "1", "--heartbeat-interval", "60s")
    task = pair.send("shop.add", "--queue", "nobody", a=1)

    with mute.paused():
        document = revoke(pair, "-t", task, code=3, timeout="10s").json

    assert [one["verdict"] for one in document["verdicts"]] == ["will-not-start"]
    assert document["silent"] == ["mute"]
    # and once it hears again, the same is 0
    assert verdict(pair, "-t", task)["verdict"] == "will-not-start"


def _reserved(program: Program) -> int:
    replies = program.ok("worker", "inspect", "--json").json["replies"]
    return sum(int(reply["payload"]["reserved"]) for reply in replies)


def _revoked(program: Program) -> set[str]:
    replies = program.ok("worker", "inspect", "--revoked", "--json").json["replies"]
    return {record["task_id"] for reply in replies for record in reply["payload"]["revoked"]}


def test_g27_g28_a_task_that_does_not_stop_is_killed_and_recorded_so(crew: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = crew.send("shop.render", gate=gate.path, deaf=True)
    child = gate.wait_reached()

    found = verdict(crew, "-t", task, "--terminate", "--term-after", "100ms", "--kill-after", "1s", "--yes")

    assert (found["verdict"], found["state"], found["worker"]) == ("killed", "cancelled", "alpha")
    assert [step["step"] for step in found["steps"]] == ["term", "kill"]
    eventually(lambda: not Path(f"/proc/{child}").exists(), 20)
    record = crew.record(task)
    assert (record["state"], record["attempt"], record["ended_by"]["how"]) == ("cancelled", 1, "kill")
    assert record["ended_by"]["steps"] == found["steps"]
    assert "ended by  kill " in crew.ok("task", "show", task).out
    # and the slot is another child's
    assert crew.ended(crew.send("shop.add", a=7))["result"] == 7


def test_g36_to_kill_is_asked_for_first_and_what_is_not_confirmed_is_not_stored(crew: Program) -> None:
    done = crew.run("worker", "revoke", "-t", "spared", "--terminate", "--kill-after", "1s")
    assert done.code == 5, done
    assert "this kills task spared after 1s" in done.err
    plan = crew.ok("worker", "revoke", "-t", "spared", "--terminate", "--kill-after", "1s", "--dry-run", "--json").json
    assert (plan["dry_run"], plan["kill_after_s"], plan["task_ids"]) == (True, 1.0, ["spared"])
    assert "spared" not in _revoked(crew)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kill-after", "1s"), "need --terminate"),
        (("--terminate", "--term-after", "2s", "--kill-after", "1s"), "longer than"),
        (("--terminate", "--kill-after", "0"), "more than zero"),
        (("--grace", "1s"), "--grace is for --wait"),
    ],
)
def test_spans_that_can_not_be_meant_are_exit_code_2(embedded: Program, arguments: tuple[str, ...], said: str) -> None:
    done = embedded.run("worker", "revoke", "-t", "t", "--yes", *arguments)
    assert (done.code, said in done.err) == (2, True), done


def test_g27_a_worker_that_learns_of_it_by_sync_climbs_too(pair: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    pair.start_worker("--name", "alpha", "--concurrency", "1", env={"STEM_SYNC_INTERVAL": "500ms"})
    task = pair.send("shop.render", gate=gate.path, deaf=True)
    gate.wait_reached()

    # told to no one
    done = pair.run("worker", "revoke", "-t", task, "--terminate", "--kill-after", "200ms", "--yes", "-w", "elsewhere")

    assert done.code == 4, done
    record = pair.ended(task)
    assert (record["state"], record["ended_by"]["how"]) == ("cancelled", "kill")


def _shown(program: Program, *arguments: str) -> set[str]:
    replies = program.ok("worker", "inspect", "--json", *arguments).json["replies"]
    return {task["id"] for reply in replies for task in reply["payload"]["in_flight"]}


def test_inspect_shows_the_tasks_that_match_alone(crew: Program, tmp_path: Path) -> None:
    render, report = Gate(tmp_path / "render"), Gate(tmp_path / "report")
    slow = crew.send("shop.render", gate=render.path, deaf=True)
    render.wait_reached()
    quick = crew.send("shop.report", gate=report.path)
    report.wait_reached()
    crew.run("worker", "revoke", "-t", slow, "--terminate", "--timeout", "1s")

    assert {slow, quick} <= _shown(crew)
    assert _shown(crew, "--name", "shop.rend*") == {slow}
    assert _shown(crew, "--name", "shop.rend*", "--name", "shop.report") == {slow, quick}
    assert _shown(crew, "--queue", "default", "--name", "shop.report") == {quick}
    assert _shown(crew, "--queue", "other") == set()
    assert _shown(crew, "--longer-than", "1h") == set()
    assert _shown(crew, "--longer-than", "1ms", "--stopping") == {slow}
    text = crew.ok("worker", "inspect", "--stopping").out
    assert slow in text and quick not in text
    header, *rows = crew.ok("worker", "inspect", "-o", "wide", "--name", "shop.report").out.splitlines()
    assert all(name in header for name in ("STARTED", "PID", "LOST WORKERS", "PROGRESS DATA"))
    assert quick in rows[0] and str(report.reached()) in rows[0] and '{"tile": 3}' in rows[0]

    process = crew.popen("worker", "inspect", "--json", "--watch", "100ms", "--name", "shop.report")
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [[t["id"] for r in look["replies"] for t in r["payload"]["in_flight"]] for look in looks] == [[quick]] * 3
    render.open()
    report.open()
    crew.ended(slow)
    crew.ended(quick)
