"""What the tests of children share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.execution.base import Job
from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.testing.executors import JobMaker, Recording
from stem_kombu.testing.gates import Gate
from tests.execution.handlers import app

PoolMaker = Callable[..., IsolatePool]


@pytest.fixture
def observer() -> Recording:
    return Recording()


@pytest.fixture
def job() -> JobMaker:
    return JobMaker(app.registry, "isolate")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def make_pool(observer: Recording) -> Iterator[PoolMaker]:
    """Make a pool of children that run the handlers of these tests, and return when they are ready."""
    pools = []

    def make(slots: int = 2, **options: Any) -> IsolatePool:
        pool = IsolatePool(slots, "tests.execution.handlers:app", observer, **options)
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        pool.stop(0.0)


def start_all(pool: IsolatePool, observer: Recording, jobs: Iterable[Job]) -> None:
    """Submit the jobs one after the other; return when each has started."""
    for one in jobs:
        pool.submit(one)
        observer.wait_for("started", one)
