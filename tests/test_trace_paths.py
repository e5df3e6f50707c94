"""The tracer of paths still follows them: a name that moved must not leave it with nothing to count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux only")
def test_the_tracer_prints_figures_of_both_paths_on_the_embedded_broker() -> None:
    command = [sys.executable, "scripts/trace_paths.py", "--json", "--broker", "embedded", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    figures = found["paths"]["embedded"]
    for path in (figures["revoke"], figures["task"]):
        assert path["calls"] >= path["functions"] >= path["files"] > 0
        assert any(" child " in line for line in path["listing"]), "the child's calls are missing"
    assert len(figures["idle_threads"]) > 0
    assert found["code"]["product lines"] > 0
    assert found["code"]["parameters of the longest constructor"] > 0
    assert found["code"]["lambdas"] > 0
