"""Transports for the tests of the broker room."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'broker.db'}"


@pytest.fixture(params=["sqlite", "redis", "amqp", "memory"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Each transport in turn."""
    return "memory://" if request.param == "memory" else str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["redis", "amqp"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Each transport that has a server."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def queue_name(request: pytest.FixtureRequest) -> str:
    """A task queue that no other test uses."""
    import uuid

    return f"test-{uuid.uuid4().hex[:12]}"
