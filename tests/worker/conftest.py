"""Workers in this process, on the broker of the test, stopped at its end whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.settings import Settings
from stem_kombu.stores.base import RevokeStore
from stem_kombu.testing.gates import Gate
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker import apps

WorkerMaker = Callable[..., Worker]


@pytest.fixture
def backend_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state.db'}"


@pytest.fixture
def app(broker_url: str, backend_url: str) -> Iterator[Stem]:
    """The tests' application on the broker of the test, with quick syncs and heartbeats."""
    apps.app.configure(
        Settings.from_env({}, broker=broker_url, backend=backend_url, sync_interval=0.3, heartbeat_interval=0.5)
    )
    yield apps.app
    apps.app.close()


@pytest.fixture
def make_worker(app: Stem) -> Iterator[WorkerMaker]:
    """Make and start a worker; the default has two children."""
    made: list[Worker] = []

    def make(name: str = "alpha", **options: Any) -> Worker:
        worker = Worker(app, name=name, **{"concurrency": 2, **options})
        made.append(worker)
        return worker.start()

    yield make
    for worker in made:
        worker.stop(0.0)


@pytest.fixture
def worker(make_worker: WorkerMaker) -> Worker:
    return make_worker()


@pytest.fixture
def control(app: Stem) -> Iterator[ControlClient]:
    with ControlClient(app) as client:
        yield client


@pytest.fixture
def store(app: Stem) -> Iterator[RevokeStore]:
    opened = app.open_revoke_store()
    yield opened
    opened.close()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture(params=["inline", "isolate"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class WorkerProcess:
    """A worker that a test may kill."""

    def __init__(self, folder: Path, command: Sequence[str] = (), **options: Any) -> None:
        self._out = folder / f"{options['name']}-{len(list(folder.iterdir()))}.out"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, sys.executable, "-m", "tests.worker.process", json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> WorkerProcess:
        eventually(lambda: "ready\n" in self.output or self.process.poll() is not None, 60, lambda: self.output)
        assert self.process.poll() is None, self.output
        return self

    @property
    def output(self) -> str:
        return self._out.read_text()

    def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def spawn_worker(broker_url: str, backend_url: str, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start a worker with one child in a process of its own, and return when it consumes, unless ``ready`` is false.

    ``command`` stands before it on the command line."""
    spawned: list[WorkerProcess] = []

    def spawn(name: str, ready: bool = True, **options: Any) -> WorkerProcess:
        given = {"broker": broker_url, "backend": backend_url, "name": name, "concurrency": 1, **options}
        spawned.append(WorkerProcess(tmp_path, **given))
        return spawned[-1].wait_ready() if ready else spawned[-1]

    yield spawn
    for worker in spawned:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGCONT)
            worker.kill()
