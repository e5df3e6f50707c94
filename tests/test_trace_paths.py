"""The tracer of paths still follows them: a name that moved must not leave it with nothing to count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Files, functions and calls of product code on Redis, in the round with the fewest calls: what docs/architecture.md says, and
#: what the turns of a busy machine add. They may fall.
MOST = {
    "revoke": {"files": 90, "functions": 346, "calls": 515},
    "task": {"files": 79, "functions": 280, "calls": 430},
}


def traced(broker: str, rounds: int) -> Any:
    command = [sys.executable, "scripts/trace_paths.py", "--json", "--broker", broker, "--rounds", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux only")
def test_the_tracer_prints_figures_of_both_paths_on_the_embedded_broker() -> None:
    found = traced("embedded", 1)
    figures = found["paths"]["embedded"]
    for path in (figures["revoke"], figures["task"]):
        assert path["calls"] >= path["functions"] >= path["files"] > 0
        assert any(" child " in line for line in path["listing"]), "the child's calls are missing"
    assert len(figures["idle_threads"]) > 0
    assert found["code"]["product lines"] > 0
    assert found["code"]["parameters of the longest constructor"] > 0
    assert found["code"]["lambdas"] > 0


@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux only")
def test_a_revoke_and_a_task_on_redis_take_no_more_files_functions_and_calls_than_they_did() -> None:
    figures = traced("redis", 8)["paths"]["redis"]
    more = {path: figures[path] for path, most in MOST.items() if any(figures[path][one] > most[one] for one in most)}
    assert more == {}, "\n".join(line for path in more.values() for line in path["listing"])
