"""Commands that are killed at their steps, and workers that are killed on the ladder: what was stored is whole, has its entry
in the audit, and is obeyed by workers that no command has told (G27, G28, G31, G32)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.revocations import RevocationClient
from stem_kombu.machine import stat_of
from stem_kombu.outcome import EndedHow, TaskRecord, TaskState
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
KILLS = ("before-store", "after-store", "before-broadcast")
FRESH = {"STEM_SYNC_INTERVAL": "1s"}


@pytest.fixture(params=["embedded", "redis", "amqp"])
def program(request: pytest.FixtureRequest, program_on: Callable[[str], Program]) -> Program:
    return program_on(request.param)


@pytest.fixture
def app(program: Program) -> Iterator[Stem]:
    made = Stem("sender", settings=Settings.from_env(program.variables))
    yield made
    made.close()


def killed(program: Program, step: str, *arguments: str) -> None:
    """Run the command until it kills itself there."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.command", step, *arguments],
        env={**program.environment, "PYTHONPATH": str(ROOT)},
        cwd=program.folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done


def revision(client: ControlClient) -> Any:
    (reply,) = client.inspect().replies
    return reply.payload["revision"]


def ended(app: Stem, task: str) -> TaskRecord:
    record = app.result(task).wait(timeout=60)
    assert record is not None and record.state.is_terminal, record
    return record


def runs(pid: int) -> bool:
    found = stat_of(pid)
    return found is not None and found.state not in "ZX"


def test_g31_g32_an_undo_that_is_killed_at_any_step_has_happened_whole_or_not_at_all(
    program: Program, app: Stem
) -> None:
    program.start_worker("--name", "alpha", "--concurrency", "1", env=FRESH)
    with RevocationClient(app) as revocations, ControlClient(app) as client:
        for step in KILLS:
            client.revoke([step])
            killed(program, step, "revokes", "undo", step)
        versions = []
        for step in KILLS:
            undone, view = step != "before-store", revocations.show(step)
            assert (view.revocation is None, view.undone is not None) == (undone, undone), step
            assert sum(entry.note.action == "undo" for entry in view.entries) == undone, step
            versions.append(0 if view.undone is None else int(str(view.undone["version"])))
        eventually(lambda: revision(client) >= max(versions), 60)  # by sync: of two no command has told
        for step in KILLS:
            app.send_task("shop.add", kwargs={"a": 1}, task_id=step)
        for step in KILLS:
            state = TaskState.CANCELLED if step == "before-store" else TaskState.SUCCEEDED
            assert ended(app, step).state is state, step
    assert program.ok("audit", "verify").code == 0


@pytest.mark.parametrize("kind", ["by-id", "by-rule"])
def test_g27_g32_a_revoke_that_is_killed_when_it_is_stored_climbs_its_ladder(
    program: Program, app: Stem, tmp_path: Path, kind: str
) -> None:
    program.start_worker("--name", "alpha", "--concurrency", "1", env=FRESH)
    gate = Gate(str(tmp_path / kind))
    task = app.send_task("shop.render", kwargs={"gate": gate.path, "deaf": True}).id
    child = gate.wait_reached()
    selected = ("-t", task) if kind == "by-id" else ("--name", "shop.render")
    revoke = ("worker", "revoke", *selected, "--terminate", "--term-after", "50ms", "--kill-after", "100ms", "--yes")
    with RevocationClient(app) as revocations:
        killed(program, "before-store", *revoke)
        view = revocations.show(task)
        assert (view.revocation, view.entries) == (None, ()), "nothing was stored"
        killed(program, "after-store", *revoke)
        record = ended(app, task)
        assert record.state is TaskState.CANCELLED and record.ended_by is not None
        assert record.ended_by.how is EndedHow.KILL
        eventually(lambda: not runs(child), 20)
        assert [entry.note.action for entry in revocations.show(task).entries] == ["revoke"]
    assert program.ok("audit", "verify").code == 0


@pytest.mark.parametrize("steps", [("1ms", "60s"), ("60s", "61s")], ids=["after SIGTERM", "before SIGTERM"])
def test_g27_g28_a_worker_that_is_killed_on_the_ladder_leaves_nothing_and_the_task_does_not_run_again(
    program_on: Callable[[str], Program], tmp_path: Path, steps: tuple[str, str]
) -> None:
    program, gate = program_on("embedded"), Gate(str(tmp_path / "gate"))
    worker = program.start_worker("--name", "alpha", "--concurrency", "1", env=FRESH)
    task = program.send("shop.render", gate=gate.path, deaf=True)
    child = gate.wait_reached()
    ladder = ("--terminate", "--term-after", steps[0], "--kill-after", steps[1], "--yes")
    assert program.run("worker", "revoke", "-t", task, *ladder).code == 3, "it runs on"
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.wait_code()
    eventually(lambda: not runs(child), 20)
    program.start_worker("--name", "alpha", "--concurrency", "1", env=FRESH)
    record = program.ended(task)
    assert (record["state"], record["attempt"]) == ("cancelled", 1)
    assert record["ended_by"]["how"] == "before-start", "it was not begun again"
