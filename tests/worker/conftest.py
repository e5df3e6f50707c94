"""Workers in this process, on the broker of the test, stopped at its end whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.control.client import ControlClient
from stem_kombu.settings import Settings
from stem_kombu.stores.base import RevokeStore
from stem_kombu.testing.gates import Gate
from stem_kombu.worker.worker import Worker
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
