"""What the line costs a Celery worker that is idle, beside the same worker without it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.celery.conftest import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["redis", pytest.param("amqp", marks=pytest.mark.slow)])
def test_the_line_costs_few_descriptors_and_threads(kind: str, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue("redis_url")
    broker = backend if kind == "redis" else request.getfixturevalue("amqp_url")
    done = subprocess.run(
        [sys.executable, "scripts/guest_cost.py", broker, backend, "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    more = json.loads(done.stdout.splitlines()[-1])
    assert more["descriptors"] <= 6, done.stdout
    assert more["threads"] <= 3, done.stdout
    assert more["mb"] < 10, "five are meant; how much a process shares differs from run to run"
