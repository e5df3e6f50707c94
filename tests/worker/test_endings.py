"""Whatever a handler raises, returns or does to its process, it ends in a record, its slot comes back, and the worker stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stem_kombu.agent.hydration import Hydration
from stem_kombu.app import Stem
from stem_kombu.backends.sqlite import SqliteBackend
from stem_kombu.errors import ExecutionError
from stem_kombu.outcome import TaskRecord
from stem_kombu.settings import Settings
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker import zoo


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start a worker of the zoo with one slot of each kind, on an embedded broker of this test's own."""
    broker, backend = f"sqlite:///{tmp_path / 'broker.db'}", f"sqlite:///{tmp_path / 'state.db'}"
    zoo.app.configure(Settings.from_env({}, broker=broker, backend=backend))
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        out = tmp_path / f"worker-{len(started)}.out"
        with out.open("wb") as log:
            command = [sys.executable, "-m", "tests.worker.zoo", json.dumps({"broker": broker, "backend": backend})]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        started.append(process)
        eventually(lambda: b"ready\n" in out.read_bytes() or process.poll() is not None, 60)
        return process

    yield begin
    zoo.app.close()
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def ended(task_ids: list[str], seconds: float) -> dict[str, TaskRecord | None]:
    backend = zoo.app.backend
    assert isinstance(backend, SqliteBackend)
    found: dict[str, TaskRecord | None] = {}

    def look() -> bool:
        for task_id in task_ids:
            if (record := found.get(task_id)) is None or not record.state.is_terminal:
                found[task_id] = backend.get(task_id)
        return all(record is not None and record.state.is_terminal for record in found.values())

    eventually(look, seconds, lambda: [task_id for task_id, record in found.items() if not is_over(record)])
    return found


def is_over(record: TaskRecord | None) -> bool:
    return record is not None and record.state.is_terminal


@pytest.mark.parametrize("mode", ["inline", "coroutine", "isolate"])
def test_g18_each_of_a_hundred_endings_is_recorded_and_the_next_task_runs_in_the_same_slot(
    start: Callable[[], subprocess.Popen[bytes]], mode: str
) -> None:
    names = [name for name in zoo.EXPECTED if mode == "isolate" or name not in zoo.ISOLATES]
    assert len(names) >= 100
    worker = start()
    for name in names:
        zoo.app.send_task(f"{mode}.{name}", task_id=name)
        zoo.app.send_task(f"{mode}.after", task_id=f"after {name}")
    records = ended([task for name in names for task in (name, f"after {name}")], 120)
    assert worker.poll() is None
    wrong = {
        name: (record.state.value, record.error)
        for name, record in records.items()
        if record is not None and zoo.EXPECTED.get(name, "succeeded") not in ("ended", record.state.value)
    }
    assert wrong == {}
    copies = [record.result for name, record in records.items() if record is not None and name.startswith("forks")]
    assert "the copy's result" not in copies
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


@pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
def test_g18_a_worker_one_of_whose_threads_cannot_go_on_leaves_and_says_so(
    app: Stem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Hydration) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("stem_kombu.timeouts.SERVICE_LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(Hydration, "_run", fails)
    worker = Worker(app, name="alpha", concurrency=1)
    with pytest.raises(ExecutionError, match=r"thread stem-hydration can't go on \(MemoryError: no more\)"):
        worker.run(signals=False)
    assert worker.view.facts().restarts["stem-hydration"] > 1
