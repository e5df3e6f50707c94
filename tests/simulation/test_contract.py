"""The contract of transports over the simulated broker, which is one more transport: as on Redis, and as on RabbitMQ.

All of it runs in one process of its own, which is made into a simulated machine (:mod:`tests.simulation.contract`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stem_kombu.testing.transport_contract import TransportContract

ROOT = Path(__file__).resolve().parents[2]
PROMISES = [name for name in vars(TransportContract) if name.startswith("test_")]
#: What the simulated broker lacks because the broker that it stands for does.
LACKS = {
    ("TestWithConnections", "test_where_tags_are_kept_another_connection_acknowledges"),
    ("TestWithConnections", "test_g19_a_renewed_lease_is_kept_and_that_of_an_acknowledged_message_is_lost"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """By class and method: what came of the test, and what there is to say."""
    found = tmp_path_factory.mktemp("contract") / "results.json"
    command = [sys.executable, "-m", "tests.simulation.contract", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert found.exists(), done.stdout + done.stderr
    return {name: (outcome, text) for name, (outcome, text) in json.loads(found.read_text()).items()}


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("kind", ["TestWithLeases", "TestWithConnections"])
def test_the_simulated_broker_keeps_what_a_transport_promises(
    results: dict[str, tuple[str, str]], kind: str, promise: str
) -> None:
    outcome, text = results[f"{kind}::{promise}"]
    if outcome == "skipped" and (kind, promise) in LACKS:
        pytest.skip(text)
    assert outcome == "passed", text
