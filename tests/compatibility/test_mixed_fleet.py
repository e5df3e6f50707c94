"""A fleet during an upgrade: workers and command lines of Stem 0.1.0 beside today's, on one broker and one backend."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu import Stem
from stem_kombu.outcome import TaskState
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
#: Stem 0.1.0.
COMMIT = "df2004f"
SHOP = """
import os, time
from pathlib import Path
from stem_kombu import Stem

app = Stem("shop")

@app.task("shop.add", isolate=True)
def add(ctx, a, b):
    return a + b

@app.task("shop.fails_once", max_retries=1, retry_backoff=0.0)
def fails_once(ctx, where):
    if ctx.attempt == 1:
        raise ValueError("once")
    return [where, ctx.attempt]

@app.task("shop.hold", isolate=True)
def hold(ctx, gate):
    Path(gate).write_text(str(os.getpid()))
    while True:
        ctx.heartbeat()
        time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of 0.1.0, out of the repository's history."""
    packed = subprocess.run(["git", "-C", ROOT, "archive", COMMIT, "stem_kombu", "stem_kombu_cli"], capture_output=True)
    if packed.returncode:
        pytest.skip(f"commit {COMMIT} (0.1.0) is not in this checkout: {packed.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("0.1.0")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)  # noqa: S202
    return folder


class Fleet:
    """Command lines of both versions with the same broker and backend."""

    def __init__(self, folder: Path, broker: str, backend: str, code: dict[str, Path]) -> None:
        self.folder = folder
        self._app = Stem("reader", broker=broker, backend=backend)
        self._code = code
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
        places = {"STEM_BROKER_URL": broker, "STEM_RESULT_BACKEND_URL": backend, "XDG_STATE_HOME": str(folder)}
        self._environment = {**kept, **places, "STEM_CONTROL_TIMEOUT": "10s", "PYTHONWARNINGS": "ignore"}
        self._workers: list[subprocess.Popen[str]] = []

    def stem(self, version: str, *arguments: str) -> Any:
        """The JSON document that the command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "stem_kombu_cli", *arguments, "--json"],
            cwd=self.folder,
            env=self._of(version),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{version}: stem {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def start(self, version: str) -> None:
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "stem_kombu_cli", "worker", "start", "-A", "shop:app", "-c", "1"),
                *("--name", version, "-Q", version),
            ],
            cwd=self.folder,
            env=self._of(version),
            stdout=(log := (self.folder / f"{version}.log").open("w")),
            stderr=subprocess.STDOUT,
            text=True,
        )
        log.close()
        self._workers.append(worker)

    def send(self, version: str, queue: str, name: str, arguments: list[Any]) -> str:
        """The id of the task that this version sent."""
        sent = self.stem(version, "task", "send", name, "--queue", queue, "--args", json.dumps(arguments))
        return str(sent.get("task_id") or sent["id"])

    def ended(self, task_id: str, runner: str) -> TaskState | None:
        """How the task ended, read by today's code."""
        result = self._app.result(task_id)
        eventually(result.ready, 60, lambda: f"{result.record}\n{self.log(runner)}")
        return result.state

    def log(self, version: str) -> str:
        return (self.folder / f"{version}.log").read_text()

    def stop(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait(60)
        self._app.close()

    def _of(self, version: str) -> dict[str, str]:
        return {**self._environment, "PYTHONPATH": str(self._code[version])}


@pytest.fixture(params=["redis", "amqp"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, old_code: Path) -> Iterator[Fleet]:
    broker: str = request.getfixturevalue(f"{request.param}_url")
    backend = broker if request.param == "redis" else f"sqlite:///{tmp_path / 'state.db'}"
    (tmp_path / "shop.py").write_text(SHOP)
    fleet = Fleet(tmp_path, broker, backend, {"old": old_code, "new": ROOT})
    try:
        for version in ("old", "new"):
            fleet.start(version)
        for version in ("old", "new"):
            eventually(
                lambda version=version: "ready:" in fleet.log(version), 60, lambda version=version: fleet.log(version)
            )
        yield fleet
    finally:
        fleet.stop()


BOTH = [("old", "new"), ("new", "old")]


@pytest.mark.timeout(300)
def test_each_version_sees_the_other_s_workers_runs_its_tasks_and_reads_its_results(fleet: Fleet) -> None:
    for version in ("old", "new"):
        assert {one["worker"] for one in fleet.stem(version, "worker", "ping")["replies"]} == {"old", "new"}
    tasks = [
        (sender, runner, name, fleet.send(sender, runner, name, arguments))
        for sender, runner in BOTH
        for name, arguments in (("shop.add", [1, 2]), ("shop.fails_once", ["here"]))
    ]
    expected = {"shop.add": 3, "shop.fails_once": ["here", 2]}
    for sender, runner, name, task_id in tasks:
        assert fleet.ended(task_id, runner) is TaskState.SUCCEEDED
        shown = fleet.stem(sender, "task", "show", task_id)
        assert (shown["state"], shown["result"]) == ("succeeded", expected[name])


@pytest.mark.timeout(300)
def test_each_version_stops_what_runs_on_a_worker_of_the_other(fleet: Fleet) -> None:
    for sender, runner in BOTH:
        gate = fleet.folder / f"gate-{runner}"
        held = fleet.send(sender, runner, "shop.hold", [str(gate)])
        eventually(gate.exists, 60, lambda runner=runner: fleet.log(runner))
        fleet.stem(sender, "worker", "revoke", "-t", held, "--terminate", "--reason", "an upgrade")
        assert fleet.ended(held, runner) is TaskState.CANCELLED
        revocation = fleet.stem(sender, "task", "show", held)["revocation"]
        assert revocation["reason"] == "an upgrade"
