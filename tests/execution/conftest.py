"""What the tests of children share."""

from __future__ import annotations

from pathlib import Path

import pytest

from stem_kombu.testing.executors import JobMaker, Recording
from stem_kombu.testing.gates import Gate
from tests.execution.handlers import app


@pytest.fixture
def observer() -> Recording:
    return Recording()


@pytest.fixture
def job() -> JobMaker:
    return JobMaker(app.registry, "isolate")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")
