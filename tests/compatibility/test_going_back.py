"""Going back: Stem 0.1.0 on what today's workers and commands left, in each store, backend and broker.

What is lost by it is in docs/operations-guide.md, *Going back to 0.1.0*; the tests here say the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stem_kombu import Stem
from tests.compatibility.test_mixed_fleet import ROOT, old_code
from tests.waiting import eventually

__all__ = ["old_code"]  # a fixture

SHOP = """
import os, time
from pathlib import Path
from stem_kombu import Stem

app = Stem("shop")

@app.task("shop.add", isolate=True)
def add(ctx, a, b=0):
    return [a, b, dict(ctx.headers)]

@app.task("shop.ruled")
def ruled(ctx):
    return "ran"

@app.task("shop.fails", max_retries=0)
def fails(ctx):
    raise ValueError("no such picture")

@app.task("shop.again", max_retries=3, retry_backoff=2.0, retry_jitter=0.0)
def again(ctx):
    if ctx.attempt == 1:
        raise RuntimeError("later")
    return ctx.attempt

@app.task("shop.hold", isolate=True)
def hold(ctx, gate):
    Path(gate).write_text(str(os.getpid()))
    while ctx.attempt == 1 and not Path(gate + ".open").exists():
        ctx.heartbeat()
        time.sleep(0.01)
    return "held"
"""
#: Asked of 0.1.0: what a store holds, and what a backend recorded.
READ = """
import json, sys
from stem_kombu.backends.registry import open_backend
from stem_kombu.stores.registry import open_revoke_store
store, backend, ids = sys.argv[1], sys.argv[2], sys.argv[3:]
held = {r.task_id: [r.reason, r.requested_by, r.terminate] for r in open_revoke_store(store).load("stem")}
states = open_backend(backend)
records = {one: states.get(one) for one in ids}
print(json.dumps({"held": held, "states": {one: r and [r.state.value, r.result] for one, r in records.items()}}))
"""


class Place:
    """A broker, a backend and a store, and the programs of both versions that use them."""

    def __init__(self, folder: Path, broker: str, backend: str, store: str, code: dict[str, Path]) -> None:
        self.folder, self.backend, self.store = folder, backend, store
        self._code = code
        (folder / "shop.py").write_text(SHOP)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
        self._environment = {
            **kept,
            "STEM_BROKER_URL": broker,
            "STEM_RESULT_BACKEND_URL": backend,
            "STEM_REVOKE_STORE_URL": store,
            "XDG_STATE_HOME": str(folder),
            "PYTHONWARNINGS": "ignore",
            "STEM_CONTROL_TIMEOUT": "10s",
        }
        self.app = Stem("reader", broker=broker, backend=backend, revoke_store=store)
        self.workers: list[subprocess.Popen[bytes]] = []

    def run(self, version: str, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=self._of(version),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode in (0, 4), f"{version}: {command[:8]}\n{done.stdout}{done.stderr}"
        return done.stdout

    def stem(self, version: str, *command: str) -> Any:
        return json.loads(self.run(version, "-m", "stem_kombu_cli", *command, "--json"))

    def start(self, version: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "stem_kombu_cli",
            "worker",
            "start",
            "-A",
            "shop:app",
            "-c",
            "2",
            "--name",
            version,
        ]
        with (self.folder / f"{version}.log").open("wb") as log:
            worker = subprocess.Popen(
                command, cwd=self.folder, env=self._of(version), stdout=log, stderr=subprocess.STDOUT
            )
        self.workers.append(worker)
        eventually(lambda: b"ready:" in self.log(version), 60, lambda: self.log(version).decode())
        return worker

    def log(self, version: str) -> bytes:
        return (self.folder / f"{version}.log").read_bytes()

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in self.workers:
            worker.wait(60)
        self.app.close()

    def _of(self, version: str) -> dict[str, str]:
        return {**self._environment, "PYTHONPATH": str(self._code[version])}


@pytest.fixture(params=["embedded", "redis", "amqp+file", "amqp+postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, old_code: Path) -> Iterator[Place]:
    broker, _, kept = request.param.partition("+")
    url: str = request.getfixturevalue(f"{broker}_url")
    sqlite = f"sqlite:///{tmp_path / 'state.db'}"
    backend = {"embedded": sqlite, "redis": url}.get(broker, sqlite)
    store = backend
    if kept == "file":
        store = f"file://{tmp_path / 'revocations.journal'}"
    elif kept == "postgres":
        backend = store = request.getfixturevalue("postgres_url")
    place = Place(tmp_path, url, backend, store, {"old": old_code, "new": ROOT})
    yield place
    place.close()


@pytest.mark.slow  # a lease on Redis outlives its worker by a minute
@pytest.mark.timeout(400)
def test_0_1_0_goes_on_with_what_today_s_workers_and_commands_left(place: Place) -> None:
    app, gate = place.app, place.folder / "gate"
    new = place.start("new")
    ended = {
        one: app.send_task(f"shop.{one}", (1,) if one == "add" else (), task_id=f"ended-{one}")
        for one in ("add", "fails")
    }
    eventually(lambda: all(result.ready() for result in ended.values()), 60, lambda: place.log("new").decode())
    held = app.send_task("shop.hold", (str(gate),), task_id="in-flight")
    eventually(gate.exists, 60, lambda: place.log("new").decode())
    app.send_task("shop.again", task_id="retrying")
    eventually(lambda: str(app.result("retrying").state) == "TaskState.RETRYING", 60, lambda: place.log("new").decode())
    place.stem("new", "worker", "revoke", "-t", "revoked", "--reason", "wrong picture", "--requester", "ops")
    place.stem("new", "worker", "revoke", "-t", "undone", "-t", "undone-too", "--reason", "a mistake")
    place.stem("new", "revokes", "undo", "undone", "undone-too", "--yes", "--reason", "no mistake")
    place.stem(
        "new", "worker", "revoke", "-t", "bound", "--attempt", "7", "--reason", "one attempt", "--requester", "ops"
    )
    place.stem("new", "worker", "revoke", "--name", "shop.ruled", "--yes", "--reason", "bad deploy")
    place.stem("new", "worker", "rate-limit", "--name", "shop.add", "1/h", "--yes", "--reason", "slowly")
    place.stem("new", "queue", "pause", "default", "--yes", "--reason", "going back")
    new.send_signal(signal.SIGKILL)
    new.wait()
    # Revoked, undone and plain work waits, some of it in Kombu's words; and a rule is in force.
    for one in ("revoked", "undone", "plain", "bound"):
        app.send_task("shop.add", (1,), task_id=one, headers={"shop": "berlin"})
    app.send_task("shop.ruled", task_id="ruled")
    # As they are on the wire without confirms; other brokers ignore the option.
    with app.configured(broker_options={"confirm_publish": False}):
        app.send_task("shop.add", (5,), task_id="unconfirmed")
    app.send_task("shop.add", (2,), {"b": 3}, task_id="packed", compression="gzip", priority=3)
    app.send_task("shop.add", (4,), task_id="far", countdown=timedelta(days=1).total_seconds())

    read = json.loads(place.run("old", "-c", READ, place.store, place.backend, "ended-add", "ended-fails", "in-flight"))
    assert read["states"] == {
        "ended-add": ["succeeded", [1, 0, {}]],
        "ended-fails": ["failed", None],
        "in-flight": ["running", None],
    }
    assert read["held"] == {"revoked": ["wrong picture", "ops", False], "bound": ["one attempt", "ops", False]}

    (place.folder / "gate.open").touch()
    place.start("old")  # pause, limit and rule are none to it
    for one in ("plain", "packed", "unconfirmed", "ruled", "retrying", "in-flight"):
        eventually(app.result(one).ready, 100, lambda one=one: f"{app.result(one).record}\n{place.log('old').decode()}")
    assert app.result("plain").get(timeout=1) == [1, 0, {"shop": "berlin"}]
    assert app.result("packed").get(timeout=1) == [2, 3, {}]
    assert app.result("unconfirmed").get(timeout=1) == [5, 0, {}]
    assert app.result("ruled").get(timeout=1) == "ran"
    assert app.result("retrying").get(timeout=1) == 2
    assert held.get(timeout=1) == "held"
    for one in ("revoked", "bound"):  # which is bound to another attempt, and that is lost
        eventually(app.result(one).ready, 60, lambda: place.log("old").decode())
        assert str(app.result(one).state) == "TaskState.CANCELLED"
    eventually(app.result("undone").ready, 60, lambda: place.log("old").decode())
    assert str(app.result("undone").state) == "TaskState.SUCCEEDED"
